"""The packaged emoji set, and the component that serves it: licences, leaks, purity of samples, contract of splits."""

from __future__ import annotations

import io
import pickle
import secrets
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from workbench.component import schema
from workbench.data.emoji import FILES, PACKAGED, Emoji
from workbench.feed import Feed

SEED = secrets.randbelow(2**32)


def rows(name: str) -> list[dict]:
    return pq.read_table(PACKAGED / name).to_pylist()


def decoded(webp: bytes) -> bytes:
    return Image.open(io.BytesIO(webp)).tobytes()


@pytest.fixture(scope="module")
def concepts() -> list[dict]:
    return rows("concepts.parquet")


@pytest.fixture(scope="module")
def data() -> Emoji:
    return Emoji(views=2, captions=3, drawings="different")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the set that a test may damage."""
    return Path(shutil.copytree(PACKAGED, tmp_path / "emoji"))


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


# --- the files


def test_counts_of_the_packaged_set(concepts: list[dict]) -> None:
    images = {split: pq.ParquetFile(PACKAGED / file).metadata.num_rows for split, file in FILES.items()}
    assert Counter(c["split"] for c in concepts) == {"train": 1596, "validation": 127, "test": 183}
    assert images == {"train": 10088, "validation": 976, "test": 1365, "style_a": 512, "style_b": 2777}
    assert sum(len(c["texts"]) for c in concepts) == 21947
    assert all(set(c["names"]) == {"de", "fr", "es", "ja", "zh", "ru"} and all(c["names"].values()) for c in concepts)


def test_share_alike_drawings_are_apart_and_every_licence_is_named() -> None:
    attribution = (PACKAGED / "ATTRIBUTION.md").read_text()
    for file in FILES.values():
        table = pq.read_table(PACKAGED / file, columns=["style", "vendor", "licence"]).to_pylist()
        licences = {row["licence"] for row in table}
        if file.startswith("share_alike/"):
            assert licences == {"CC-BY-SA-4.0"}
            assert "licenses/by-sa/4.0" in (PACKAGED / file).with_name("CC-BY-SA-4.0.txt").read_text()
        else:
            assert licences <= {"MIT", "Apache-2.0", "CC-BY-4.0"}
        for style, licence in {(row["style"], row["licence"]) for row in table}:
            (line,) = (line for line in attribution.splitlines() if line.startswith(f"| {style} |"))
            assert f"| {licence} |" in line
        assert not {row["vendor"] for row in table} & {"apple", "facebook", "joypixels"}


def test_files_can_be_read_by_everybody() -> None:
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in PACKAGED.rglob("*"))


def test_texts_begin_with_the_name_and_do_not_repeat(concepts: list[dict]) -> None:
    for concept in concepts:
        assert concept["texts"][0] == concept["name"]
        assert len({text.casefold() for text in concept["texts"]}) == len(concept["texts"]) >= 2


def test_splits_share_no_concept_and_no_family(concepts: list[dict]) -> None:
    families = {s: {c["family"] for c in concepts if c["split"] == s} for s in ("train", "validation", "test")}
    assert not families["train"] & families["validation"]
    assert not families["train"] & families["test"]
    assert not families["validation"] & families["test"]
    split_of = {c["concept"]: c["split"] for c in concepts}
    for split, file in FILES.items():
        drawn = set(pq.read_table(PACKAGED / file, columns=["concept"])["concept"].to_pylist())
        assert {split_of[key] for key in drawn} == {"train" if split.startswith("style") else split}
    assert not {c["concept"] for c in concepts if c["group"] == "flags" and c["split"] != "train"}


def test_held_out_styles_are_of_vendors_that_training_never_sees() -> None:
    vendors = {split: {row["vendor"] for row in rows(file)} for split, file in FILES.items()}
    assert vendors["style_a"] == {"mozilla"}
    assert vendors["style_b"] == {"openmoji"}
    assert not vendors["train"] & (vendors["style_a"] | vendors["style_b"])


@pytest.mark.slow
def test_no_picture_stands_for_two_concepts_and_no_turned_copy_leaks() -> None:
    """Identical pictures anywhere; and, across concept splits, copies up to a quarter turn or mirroring (root mean
    square distance under .03 at 16 pixels) in three styles or more: one may be chance, three are one drawing."""
    owner: dict[bytes, str] = {}
    small: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for split, file in FILES.items():
        for row in rows(file):
            image = Image.open(io.BytesIO(row["image"]))
            assert image.mode == "RGB"
            assert image.size == (64, 64)
            assert owner.setdefault(image.tobytes(), row["concept"]) == row["concept"]
            thumbnail = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float32) / 255
            small.setdefault((split, row["style"]), {})[row["concept"]] = thumbnail

    copies: Counter[tuple[str, str]] = Counter()
    for (split, style), unseen in small.items():
        seen = small.get(("train", style), {})
        if split == "train" or not seen:
            continue
        known, found = np.stack(list(seen.values())), set()
        for turned in (np.rot90(x, k, (1, 2)) for x in (known, known[:, :, ::-1]) for k in range(4)):
            distances = distance(np.stack(list(unseen.values())), turned)
            found |= {(list(unseen)[i], list(seen)[j]) for i, j in np.argwhere(distances < 0.03)}
        copies.update(found)
    assert len(small) > 20  # 8 styles in 3 splits
    assert not [pair for pair, styles in copies.items() if styles >= 3]


def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n, ...], [m, ...] -> root mean square differences [n, m]"""
    a, b = (torch.from_numpy(np.ascontiguousarray(t)).flatten(1) for t in (x, y))
    return (torch.cdist(a, b) / a.shape[1] ** 0.5).numpy()


# --- samples


def test_recipe_keys() -> None:
    assert set(schema(Emoji).model_fields) == {"views", "captions", "drawings", "captions_from", "languages", "path"}


def test_a_sample_is_a_pure_function_of_index_and_generator(data: Emoji) -> None:
    for index in np.random.default_rng(SEED).integers(len(data), size=20).tolist():
        first, second = (data.sample(index, np.random.default_rng([SEED, index])) for _ in range(2))
        data.sample(0, np.random.default_rng())  # what is drawn in between leaves no trace
        again = pickle.loads(pickle.dumps(data)).sample(index, np.random.default_rng([SEED, index]))
        for other in (second, again):
            assert pixels(first.inputs["image"]) == pixels(other.inputs["image"]), SEED
            assert first.inputs["text"] == other.inputs["text"], SEED
            assert first.id == other.id


@pytest.mark.parametrize("captions_from", ["name", "any"])
def test_arms_with_more_views_or_captions_begin_with_those_of_fewer(captions_from: Literal["name", "any"]) -> None:
    arms = [
        Emoji(views=1, captions=1, drawings="same", captions_from=captions_from),
        Emoji(views=2, captions=2, drawings="same", captions_from=captions_from),
        Emoji(views=2, captions=1, drawings="different", captions_from=captions_from),
        Emoji(views=5, captions=4, drawings="different", captions_from=captions_from),
    ]
    for index in np.random.default_rng(SEED).integers(len(arms[0]), size=20).tolist():
        one, same, two, five = (arm.sample(index, np.random.default_rng([SEED, index])) for arm in arms)
        anchor = pixels(one.inputs["image"])
        assert pixels(same.inputs["image"]) == anchor * 2, SEED
        assert pixels(two.inputs["image"])[:1] == anchor, SEED
        assert pixels(five.inputs["image"])[:2] == pixels(two.inputs["image"]), SEED
        assert five.inputs["text"][:1] == one.inputs["text"] == two.inputs["text"], SEED
        assert five.inputs["text"][:2] == same.inputs["text"], SEED


def test_views_are_drawings_of_the_anchors_concept_repeated_only_when_there_are_no_more(concepts: list[dict]) -> None:
    data, train = Emoji(views=9, drawings="different"), rows("train.parquet")
    drawn = Counter(row["concept"] for row in train)
    most, fewest = drawn.most_common()[0], drawn.most_common()[-1]
    assert most[1] == 8
    assert fewest[1] < 4
    for key, number in (most, fewest):
        own = [decoded(row["image"]) for row in train if row["concept"] == key]
        index = next(i for i, row in enumerate(train) if row["concept"] == key)
        sample = data.sample(index, np.random.default_rng(SEED))
        views = pixels(sample.inputs["image"])
        assert concepts[sample.id]["concept"] == key
        assert set(views) == set(own), SEED
        assert views[number:] == views[: 9 - number], SEED  # the same ones again, in the same order
        assert views[0] == own[0]


def test_captions_are_distinct_texts_of_the_concept(concepts: list[dict]) -> None:
    any_, name = (Emoji(captions=8, captions_from=source) for source in ("any", "name"))
    firsts = Counter()
    for index in np.random.default_rng(SEED).integers(len(any_), size=300).tolist():
        rng = np.random.default_rng([SEED, index])
        sample = any_.sample(index, rng)
        texts, known = sample.inputs["text"], concepts[sample.id]["texts"]
        assert len(texts) == len(set(texts)) == min(8, len(known)), SEED
        assert set(texts) <= set(known), SEED
        firsts[texts[0] == known[0]] += 1
        named = name.sample(index, rng).inputs["text"]
        assert named[0] == concepts[sample.id]["name"]
        assert len(named) == len(set(named)) == len(texts)
    assert 0 < firsts[True] < 150, SEED  # a concept has 11 texts: about 1 in 11 begins with the name


def test_every_text_can_come_first() -> None:
    data = Emoji()
    first = [data.sample(0, np.random.default_rng([SEED, i])).inputs["text"][0] for i in range(400)]
    texts = rows("concepts.parquet")[data.sample(0, np.random.default_rng()).id]["texts"]
    assert set(first) == set(texts), SEED  # missed with probability < n (1 - 1/n)^400 < 1e-10 for n = 13


def test_batches_are_those_of_the_feed_whatever_the_workers(data: Emoji, concepts: list[dict]) -> None:
    def image(x: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(x)).permute(2, 0, 1)

    def text(x: str) -> torch.Tensor:
        return torch.tensor([len(x)])

    for workers in (0, 1):
        feed = Feed({"image": image, "text": text}, batch=16, seed=SEED, workers=workers)
        batch = next(data.batches(3, feed))
        assert batch.inputs["image"].shape == (16, 2, 3, 64, 64)
        assert batch.valid["image"].all()
        known = torch.tensor([len(concepts[i]["texts"]) for i in batch.ids.tolist()])
        assert batch.valid["text"].sum(1).equal(known.clamp(max=3))
        if workers == 0:
            expected = batch
    assert batch.ids.equal(expected.ids)
    assert batch.inputs["image"].equal(expected.inputs["image"])
    assert batch.inputs["text"].equal(expected.inputs["text"])


def test_a_language_is_a_modality_of_names_and_changes_nothing_else(concepts: list[dict]) -> None:
    plain, with_names = Emoji(captions=2), Emoji(captions=2, languages=("fr", "ja"))
    assert list(with_names.modalities) == ["image", "text", "fr", "ja"]
    assert (with_names.modalities["ja"].kind, with_names.modalities["ja"].count) == ("text", 1)
    for index in np.random.default_rng(SEED).integers(len(plain), size=20).tolist():
        one, more = (data.sample(index, np.random.default_rng([SEED, index])) for data in (plain, with_names))
        assert one.inputs["text"] == more.inputs["text"], SEED
        assert pixels(one.inputs["image"]) == pixels(more.inputs["image"]), SEED
        assert [more.inputs["fr"], more.inputs["ja"]] == [[concepts[one.id]["names"][x]] for x in ("fr", "ja")], SEED
    split = with_names.split("test")
    names = split.items["ja"]
    known = {i: c for i, c in enumerate(concepts) if c["split"] == "test"}
    drawn = [i for i in known if i in set(split.items["image"].ids.tolist())]
    assert names.ids.tolist() == drawn
    assert list(names.raw) == [known[i]["names"]["ja"] for i in drawn]
    groups = [split.classes["group"].names[i] for i in names.targets["group"].tolist()]
    assert groups == [known[i]["group"] for i in drawn]


# --- splits


@pytest.mark.parametrize("name", list(FILES))
def test_a_split_is_its_file_and_the_texts_of_its_concepts(data: Emoji, concepts: list[dict], name: str) -> None:
    split, table = data.split(name), rows(FILES[name])
    images, texts = split.items["image"], split.items["text"]
    assert not split.paired
    assert [concepts[i]["concept"] for i in images.ids.tolist()] == [row["concept"] for row in table]
    at = int(np.random.default_rng(SEED).integers(len(table)))
    assert images.raw[at].mode == "RGB"
    assert images.raw[at].tobytes() == decoded(table[at]["image"]), SEED
    assert pixels(list(images.raw[at : at + 2])) == [decoded(row["image"]) for row in table[at : at + 2]], SEED

    drawn = {row["concept"] for row in table}
    expected = [(i, text) for i, c in enumerate(concepts) if c["concept"] in drawn for text in c["texts"]]
    assert list(zip(texts.ids.tolist(), texts.raw, strict=True)) == expected
    for items in (images, texts):
        for target, classes in split.classes.items():
            names = [classes.names[i] for i in items.targets[target].tolist()]
            assert names == [concepts[i][target] for i in items.ids.tolist()]


def test_classes_are_the_groups_prompted_by_their_subgroups(data: Emoji, concepts: list[dict]) -> None:
    classes = data.split("test").classes
    prompts = dict(zip(classes["group"].names, classes["group"].prompts, strict=True))
    assert set(prompts) == {c["group"] for c in concepts}
    assert len(prompts) == 9
    assert prompts["animals-nature"][0] == "animals nature"
    assert "animal mammal" in prompts["animals-nature"]
    assert "food fruit" in prompts["food-drink"]
    assert sum(len(p) - 1 for p in prompts.values()) == len({c["subgroup"] for c in concepts})
    assert set(classes["subgroup"].names) == {c["subgroup"] for c in concepts}
    assert dict(zip(classes["subgroup"].names, classes["subgroup"].prompts, strict=True))["food-fruit"] == (
        "food fruit",
    )


def test_an_unknown_split_is_an_error_that_names_the_splits(data: Emoji) -> None:
    with pytest.raises(ValueError, match=r"no split 'dev'.*train, validation, test, style_a, style_b"):
        data.split("dev")


# --- damage


@pytest.mark.parametrize("file", ["concepts.parquet", "train.parquet"])
def test_a_missing_file_is_named_with_the_remedy(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(ValueError, match=rf"{copy / file} cannot be read.*wb data build emoji"):
        Emoji(path=copy)


def test_a_truncated_file_is_named(copy: Path) -> None:
    file = copy / "train.parquet"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=rf"{file} cannot be read"):
        Emoji(path=copy)


def test_one_flipped_bit_is_found(copy: Path) -> None:
    file = copy / "test.parquet"
    content = bytearray(file.read_bytes())
    at = int(np.random.default_rng(SEED).integers(len(content) // 4, len(content) // 2))  # among the pictures
    content[at] ^= 1
    file.write_bytes(content)
    data = Emoji(path=copy)
    with pytest.raises(ValueError, match=rf"{file} cannot be read"):
        data.split("test")


def test_a_missing_column_is_an_error(copy: Path) -> None:
    file = copy / "train.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["image"]), file)
    with pytest.raises(ValueError, match=rf"{file} cannot be read.*image"):
        Emoji(path=copy)


def test_files_of_two_builds_do_not_mix(copy: Path) -> None:
    file = copy / "concepts.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(ValueError, match=r"1 of its concepts are not in concepts\.parquet"):
        Emoji(path=copy)
