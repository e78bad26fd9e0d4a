"""The builder of the emoji set on small made-up inputs: families, splits, frames, names, and a whole tiny build."""

from __future__ import annotations

import io
import json
import secrets
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workbench.builders.emoji import build
from workbench.builders.emoji.drawings import match, unambiguous
from workbench.builders.emoji.render import frame, render
from workbench.builders.emoji.sources import PACKAGES, STYLES, IconSet, check_licence, fetch
from workbench.builders.emoji.splits import VARIANTS, distinguishable, family_of, split_of
from workbench.builders.emoji.texts import LANGUAGES, distinct_texts, key_of, slug

SEED = secrets.randbelow(2**32)

# --- concepts


@pytest.mark.parametrize(
    "variants",
    [
        "1f3c3 1f3c3-200d-2642 1f3c3-200d-2640 1f3c3-200d-27a1 1f3c3-200d-2642-200d-27a1",  # running
        "1f9d1-200d-1f4bb 1f468-200d-1f4bb 1f469-200d-1f4bb",  # technologist
        "1f9d2 1f466 1f467",
        "1f46a 1f468-200d-1f469-200d-1f466 1f469-200d-1f469-200d-1f467-200d-1f466 1f9d1-200d-1f9d1-200d-1f9d2",
        "1f550 1f55b 1f567",
        "1f46b 1f46d 1f9d1-200d-1f91d-200d-1f9d1",
        "27a1 2b05 2196",
    ],
)
def test_variants_are_one_family(variants: str) -> None:
    assert len({family_of(key) for key in variants.split()}) == 1


def test_other_concepts_are_other_families() -> None:
    single = ["1f3c3", "1f6b6", "1f9d1", "1f9d2", "2640", "2642", "27a1", "1f550", "1f46a"]
    keys = [*single, "1f9d1-200d-1f4bb", "1f9d1-200d-1f33e", "1f1e9-1f1ea"]
    assert len({family_of(key) for key in keys}) == len(keys)


def test_no_variant_is_of_two_families() -> None:
    members = [member for family in VARIANTS.values() for member in family.split()]
    assert len(members) == len(set(members))
    assert all(family_of(m) == name for name, family in VARIANTS.items() for m in family.split())


def test_the_presentation_selector_is_no_part_of_a_key() -> None:
    assert key_of("0023-FE0F-20E3") == "0023-20e3"
    assert key_of("2764") == key_of("2764-FE0F") == "2764"


def test_slugs() -> None:
    assert slug("flag: St. Barthélemy") == "flag-st-barthelemy"
    assert slug("Trinidad & Tobago") == "trinidad-and-tobago"
    assert slug("man's shoe") == "mans-shoe"


def test_texts_are_distinct_words() -> None:
    given = ["Red Apple", "red_apple", ":)", "100", "x", "  ripe \n fruit", "“fruit”", "RED APPLE", "t-shirt"]
    assert distinct_texts(given) == ("Red Apple", "ripe fruit", "fruit", "t-shirt")


# --- splits


def test_split_shares_and_flags() -> None:
    n = 20_000
    families = [f"{SEED}-{i}" for i in range(n)]
    splits = [split_of(family, "objects") for family in families]
    for name, share in (("test", 0.12), ("validation", 0.08), ("train", 0.80)):
        assert abs(splits.count(name) - share * n) < 6 * (n * share * (1 - share)) ** 0.5, SEED
    assert splits == [split_of(family, "symbols") for family in families]
    assert {split_of(family, "flags") for family in families} == {"train"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30))
def test_pictures_of_two_concepts_go_and_repeats_are_kept_once(drawings: list[tuple[str, int]]) -> None:
    kept = [drawing for drawing, keep in zip(drawings, distinguishable(drawings), strict=True) if keep]
    clear = [(c, p) for c, p in drawings if {other for other, q in drawings if q == p} == {c}]
    assert kept == list(dict.fromkeys(clear))


# --- pictures


def blob(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """An opaque random drawing."""
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    return Image.fromarray(pixels, "RGBA")


@pytest.mark.parametrize("size", [32, 41, 64])
def test_margins_of_the_vendor_do_not_show(size: int) -> None:
    rng = np.random.default_rng(SEED)
    drawing = blob(rng, *rng.integers(20, 90, 2))
    plain = frame(drawing, size)
    for _ in range(5):
        left, top, right, bottom = rng.integers(0, 60, 4).tolist()
        canvas = Image.new("RGBA", (drawing.width + left + right, drawing.height + top + bottom), (0, 0, 0, 0))
        canvas.paste(drawing, (left, top))
        assert frame(canvas, size).tobytes() == plain.tobytes(), SEED


def test_the_longer_side_fills_the_frame_and_the_rest_is_white() -> None:
    black = Image.new("RGBA", (40, 20), (0, 0, 0, 255))
    wide = np.asarray(frame(black, 64))[..., 0]
    dark = wide < 255
    inner = round(64 * 0.94)
    rows, columns = np.any(dark, axis=1), np.any(dark, axis=0)
    assert (rows.sum(), columns.sum()) == (inner // 2, inner)
    assert columns[2 : 2 + inner].all()
    assert rows[17 : 17 + inner // 2].all()
    assert np.array_equal(np.asarray(frame(black.rotate(90, expand=True), 64))[..., 0].T, wide[:, ::-1])


def test_half_transparent_drawings_are_set_on_white() -> None:
    red = Image.new("RGBA", (30, 30), (255, 0, 0, 128))
    assert np.allclose(np.asarray(frame(red, 50))[25, 25], [255, 127, 127], atol=1)


def test_what_cannot_be_seen_on_white_is_no_picture(tmp_path: Path) -> None:
    for name, colour in (("white", (255, 255, 255, 255)), ("clear", (0, 0, 0, 0))):
        Image.new("RGBA", (30, 30), colour).save(tmp_path / f"{name}.png")
        assert render(tmp_path / f"{name}.png", 32) is None
    Image.new("RGBA", (30, 15), (0, 0, 0, 255)).save(tmp_path / "black.png")
    picture = render(tmp_path / "black.png", 32)
    assert picture is not None
    image = Image.open(io.BytesIO(picture.webp))
    assert (image.format, image.size, image.mode) == ("WEBP", (32, 32), "RGB")


def test_svg_keeps_its_shape_and_physical_units() -> None:
    pytest.importorskip("resvg_py")
    from workbench.builders.emoji.render import rasterise

    square = '<rect width="100%" height="100%"/>'
    for view, size in (("0 0 20 10", (64, 32)), ("0 0 10 20", (32, 64)), ("-5 -5 10 10", (64, 64))):
        assert rasterise(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{square}</svg>', 64).size == size
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><rect width="1in" height="0.5in"/></svg>'
    alpha = np.asarray(rasterise(svg, 96))[..., 3] > 0
    assert (alpha.any(1).sum(), alpha.any(0).sum()) == (48, 96)


# --- names and sources


def test_names_of_two_concepts_are_nobodys() -> None:
    assert unambiguous([("bow", "a"), ("bow", "b"), ("cat", "c"), ("cat", "c"), ("", "d")]) == {"cat": "c"}


def test_the_surest_name_wins_and_a_name_has_one_concept() -> None:
    sure, loose = {"dog": "1", "flag-peru": "2"}, {"hound": "1", "dog": "3", "cat": "4"}
    assert match(["hound", "dog", "cat", "flag-for-peru", "unknown"], [sure, loose]) == {
        "1": "dog",  # not `hound`, though it comes first
        "2": "flag-for-peru",
        "4": "cat",
    }


def test_packages_at_the_pinned_versions_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm here
    with pytest.raises(ValueError, match=r"npm is not on the PATH: install Node\.js"):
        fetch(tmp_path / "sources")
    make_sources(tmp_path / "sources")
    assert fetch(tmp_path / "sources") == tmp_path / "sources" / "node_modules"
    manifest = tmp_path / "sources/node_modules/emojilib/package.json"
    manifest.write_text('{"version": "0.0.1"}')
    with pytest.raises(ValueError, match="npm"):
        fetch(tmp_path / "sources")


def test_a_style_whose_licence_changed_stops_the_build(tmp_path: Path) -> None:
    make_sources(tmp_path)
    modules = tmp_path / "node_modules"
    for style in STYLES:
        check_licence(modules, style)
    info = modules / "@iconify-json/twemoji/info.json"
    info.write_text(json.dumps({"license": {"spdx": "LicenseRef-Proprietary"}}))
    (twemoji,) = (style for style in STYLES if style.name == "twemoji")
    with pytest.raises(ValueError, match=r"twemoji is under LicenseRef-Proprietary, STYLES says CC-BY-4\.0"):
        check_licence(modules, twemoji)


def test_icons_follow_aliases_and_monochrome_ones_get_a_colour(tmp_path: Path) -> None:
    make_sources(tmp_path)
    icons = tmp_path / "node_modules/@iconify-json/noto/icons.json"
    bodies = {"a": {"body": '<path fill="currentColor"/>', "width": 10}, "b": {"body": "<g/>", "left": 3}}
    icons.write_text(json.dumps({"width": 64, "height": 32, "icons": bodies, "aliases": {"c": {"parent": "a"}}}))
    noto = IconSet(tmp_path / "node_modules", STYLES[0])
    assert list(noto.names()) == ["a", "b", "c"]
    assert noto.svg("c") == noto.svg("a")
    assert 'viewBox="0 0 10 32"' in noto.svg("a")
    assert 'viewBox="3 0 64 32"' in noto.svg("b")
    assert 'fill="#222"' in noto.svg("a")


# --- a whole build

# concept -> (label, group order); 1f9c8 and 1f336 fall into test and validation, the hearts look alike in one style
EMOJI = {
    "1f34e": ("red apple", 4),
    "1f9c8": ("butter", 4),
    "1f42d": ("mouse face", 3),
    "1f49a": ("green heart", 0),
    "1f499": ("blue heart", 0),
    "1f1f5-1f1ea": ("flag: Peru", 9),
}


def make_sources(root: Path) -> None:
    """node_modules with a few made-up drawings of every style."""
    modules = root / "node_modules"

    def write(path: str, content: object) -> None:
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_text(json.dumps(content))

    for package, version in PACKAGES.items():
        licence = next((s.stated or s.licence for s in STYLES if s.package == package), "MIT")
        write(f"{package}/package.json", {"version": version, "license": licence})
    for number, style in enumerate(STYLES):
        bodies = {slug(label): body(key, number) for key, (label, _) in EMOJI.items()}
        if style.name == "emojione-monotone":
            bodies["blue-heart"] = bodies["green-heart"]
        if style.package.startswith("@iconify-json/"):
            write(f"{style.package}/info.json", {"license": {"spdx": style.stated or style.licence}})
            icons = {name: {"body": shape} for name, shape in bodies.items()}
            write(f"{style.package}/icons.json", {"width": 20, "height": 20, "icons": icons})
            if style.name in ("noto", "twemoji"):
                write(f"{style.package}/chars.json", {key: slug(label) for key, (label, _) in EMOJI.items()})
    (modules / "openmoji/black/svg").mkdir(parents=True)
    (modules / "@lobehub/fluent-emoji-3d/assets").mkdir(parents=True)
    for number, key in enumerate(EMOJI):
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 20">{body(key, 99)}</svg>'
        (modules / f"openmoji/black/svg/{key.upper()}.svg").write_text(svg)
        picture = blob(np.random.default_rng(number), 24, 24)
        picture.save(modules / f"@lobehub/fluent-emoji-3d/assets/{key}.webp", lossless=True)

    for language in ("en", *LANGUAGES):
        records = [
            {"hexcode": key.upper(), "label": label, "emoji": "?", "group": group, "subgroup": group, "tags": ["round"]}
            for key, (label, group) in EMOJI.items()
        ]
        write(f"emojibase-data/{language}/data.json", [*records, {"hexcode": "1F3FB", "label": "skin", "group": 2}])
    kinds = [{"key": f"kind-{i}" if i < 9 else "flags", "order": i} for i in range(10)]
    write("emojibase-data/en/messages.json", {"groups": kinds, "subgroups": kinds})
    for source in ("emojibase", "github", "iamcal"):
        write(f"emojibase-data/en/shortcodes/{source}.json", {"1F34E": ["ripe_apple", "red-apple"]})
    write("emojibase-data/meta/unicode-names.json", {"1F42D": "MOUSE FACE", "1F34E": "APPLE OF RED"})
    write("emojilib/dist/emoji-en-US.json", {"🍎": ["red_apple", "orchard"]})


def body(key: str, number: int) -> str:
    """A shape that no other concept or style has."""
    colour = f"#{(int(key[:5], 16) * 7919 + number * 104729) % 0xFFFFFF:06x}"
    return f'<rect x="2" y="3" width="{6 + number % 7}" height="12" fill="{colour}"/><circle cx="14" cy="9" r="4"/>'


@pytest.mark.slow
def test_a_tiny_build_keeps_its_promises_and_repeats_to_the_byte(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    make_sources(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    stats = build(first, tmp_path, size=32, workers=2)
    assert build(second, tmp_path, size=32, workers=1) == stats
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [path.relative_to(second) for path in sorted(second.rglob("*")) if path.is_file()] == files
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)

    concepts = {row["concept"]: row for row in pq.read_table(first / "concepts.parquet").to_pylist()}
    assert set(concepts) == set(EMOJI)
    assert concepts["1f9c8"]["split"] == "test"
    assert concepts["1f34e"]["texts"] == ["red apple", "apple of red", "ripe apple", "round", "orchard"]
    held_out = [key for key, row in concepts.items() if row["split"] != "train"]
    assert stats["dropped"] == {"blank": 0, "not distinct": 2, "share-alike": 2 * len(held_out)}
    assert sum(stats["images"].values()) == len(EMOJI) * len(STYLES) - 2 - 2 * len(held_out)
    for file in files:
        if file.suffix == ".parquet" and file.stem != "concepts":
            licences = set(pq.read_table(first / file)["licence"].to_pylist())
            assert (licences == {"CC-BY-SA-4.0"}) == (file.parent.name == "share_alike")
            assert (first / file).stat().st_mode & 0o777 == 0o644
    assert all(
        f"{package} {version}" in (first / "ATTRIBUTION.md").read_text() for package, version in PACKAGES.items()
    )
