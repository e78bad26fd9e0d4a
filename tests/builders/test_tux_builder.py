"""`wb data build tux`: no thing and no voice on both sides, everything counted, the same bytes every time."""

from __future__ import annotations

import io
import json
import secrets
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image
from tiny_tux import SVG, stamp_files, write_tiny_deb

from workbench.builders.tux import FILES, build, draw_pictures
from workbench.builders.tux.nouns import head_noun
from workbench.builders.tux.splits import TEST, VALIDATION, VOICE, group_stamps, split_of, split_stamps
from workbench.builders.tux.stamps import Stamp, group
from workbench.cli import cli

pytest.importorskip("resvg_py")
STAMPS, LEFT_OUT = group(stamp_files())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("tux")
    return folder / "out", build(folder / "out", write_tiny_deb(folder / "tiny.deb"), size=16)


def rows_of(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


# --- head nouns and groups


@pytest.mark.parametrize(
    ("sentence", "noun"),
    [
        ("A lion.", "lion"),
        ("Some red apples!", "apple"),
        ("A head of red lettuce.", "lettuce"),
        ("Two slices of bread with butter.", "bread"),
        ("A pair of blue jeans with patches.", "jean"),
        ("The house of the hunter.", "house"),
        ("A lion's cub, asleep.", "cub"),
        ("Grandma’s old rag doll.", "doll"),
        ("A blue and yellow flag.", "flag"),
        ("Mars—the red planet. It’s just beyond earth.", "mar"),
        ("This is a fox.", "fox"),
        ("A flower covered in dew drops.", "flower"),
        ("Mice!", "mouse"),
        ("Cherries", "cherry"),
        ("A double decker bus.", "bus"),
        ("«Été»", "t"),
        ("The", "the"),
        ("…", ""),
        ("", ""),
    ],
)
def test_the_head_of_a_noun_phrase(sentence: str, noun: str) -> None:
    assert head_noun(sentence) == noun


def leaks(splits: list[str]) -> list[str]:
    """List what two stamps of different splits share: a noun, a sentence in small letters, a recording, a picture."""
    sides: dict[object, set[str]] = {}
    for stamp, split in zip(STAMPS, splits, strict=True):
        words = stamp.sentence.lower().strip(" .!").removeprefix("a ").removeprefix("the ")
        noun = words.split(" ")[-1]
        sounds = (*stamp.descriptions.values(), *stamp.effects.values())
        for what in (noun, words, *sounds, *stamp.pictures.values()):
            sides.setdefault(what, set()).add(split)
    return [str(what)[:20] for what, found in sides.items() if len(found) > 1]


def test_nothing_is_on_both_sides_as_it_would_be_by_chance() -> None:
    splits = split_stamps(STAMPS)
    assert {"train", "validation", "test"} == set(splits)
    assert not leaks(splits)
    by_stamp = [split_of(stamp.name, stamp.category) for stamp in STAMPS]  # a hash of each stamp by itself
    assert leaks(by_stamp), "the test sees no leak where there is one"


def test_groups_join_by_noun_sentence_and_recording() -> None:
    names = {stamp.name: name for stamp, name in zip(STAMPS, group_stamps(STAMPS), strict=True)}
    assert names["animals/lion"] == names["animals/lion_cub"] == names["plants/lion-2"] == "lion"
    assert names["animals/ant"] == names["animals/sheep"] == "ant"
    assert names["animals/bee"] == "bee"
    assert group_stamps([Stamp("a", "x"), Stamp("a", "y")]) == ["a/x", "a/y"]  # without a sentence: by themselves


def test_a_group_with_a_symbol_is_trained_on_as_a_whole() -> None:
    held_out = next(name for name in (f"thing{n}" for n in range(99)) if split_of(name, "") == "test")
    symbol, thing = Stamp("symbols/x", "a", f"A {held_out}."), Stamp("food", "b", f"Some {held_out}s.")
    assert split_stamps([symbol, thing]) == ["train", "train"]
    assert split_stamps([thing]) == ["test"]


def test_shares_of_many_groups() -> None:
    count = Counter(split_of(f"{secrets.token_hex(8)}", "") for _ in range(4000))
    assert count["test"] / 4000 == pytest.approx(TEST, abs=0.04)
    assert count["validation"] / 4000 == pytest.approx(VALIDATION, abs=0.03)


# --- rows


def test_every_recording_is_in_one_row_or_counted(built: tuple[Path, dict]) -> None:
    folder, counts = built
    spoken = Counter((row["id"], row["language"]) for name in FILES for row in rows_of(folder, name) if row["speech"])
    assert not [row for row, number in spoken.items() if number > 1]
    there = {(stamp.name, language) for stamp in STAMPS for language in stamp.descriptions}
    lost = there - set(spoken)
    held_back = "recordings in es of validation stamps, letters, digits and coins"
    assert len(lost) == counts["left_out"][held_back] + 1 > 1
    assert {language for _, language in lost} == {VOICE}
    assert counts["left_out"] == {
        **LEFT_OUT,
        held_back: len(lost) - 1,
        "recordings in es that another language has, too": 1,
        "pictures that cannot be read": 1,
        "pictures that show nothing on white": 1,
        "spoken names of letters and digits": 2,
        "stamps of one modality": 2,
        "stamps without a picture (kept)": 2,
    }
    assert counts["rows"] == {name: len(rows_of(folder, name)) for name in FILES}
    assert sum(counts["voices"].values()) == len(spoken)
    assert "GPL-2" in counts["licence"]
    assert "1.2-3" in (folder / "LICENCE.txt").read_text()


def test_the_voice_is_heard_in_its_own_files_alone(built: tuple[Path, dict]) -> None:
    folder, _ = built
    rows = {name: rows_of(folder, name) for name in FILES}
    heard = {(name, k): {row[k] for row in rows[name]} for name in FILES for k in ("language", "other_language")}
    assert {which for which, languages in heard.items() if VOICE in languages} == {
        ("voice", "language"),
        ("test_voice", "language"),
    }
    assert heard["voice", "language"] == heard["test_voice", "language"] == {VOICE}
    known = {row["speech"] for name in ("voice", "test_voice") for row in rows[name]}
    assert len(known) > 9
    assert not known & {
        row[k] for name in ("train", "validation", "test") for row in rows[name] for k in ("speech", "other")
    }
    ids = {name: {row["id"] for row in rows[name]} for name in FILES}
    assert ids["voice"] <= ids["train"] - {"animals/lion"}
    assert ids["test_voice"] <= ids["test"]
    assert not ids["train"] & (ids["validation"] | ids["test"])
    assert "symbols/math/7" in ids["train"] - ids["voice"]


def test_rows_hold_what_the_package_holds(built: tuple[Path, dict]) -> None:
    folder, _ = built
    files, rows = stamp_files(), [row for name in FILES for row in rows_of(folder, name)]
    for row in rows:
        if row["speech"]:
            ending = "wav" if row["language"] == "pt_BR" else "ogg"
            assert row["speech"] == files[f"{row['id']}_desc_{row['language']}.{ending}"]
        if row["other"]:
            assert row["other"] == files[f"{row['id']}_desc_{row['other_language']}.ogg"]
            assert row["other_language"] != row["language"]
        assert row["category"] == row["id"].split("/")[0]
    lions = {row["id"]: row["concept"] for row in rows if row["noun"] == "lion"}
    assert lions == {
        "animals/lion": "animals/lion",
        "animals/lion_cub": "animals/lion_cub",
        "plants/lion-2": "animals/lion",
    }
    assert {row["id"] for row in rows if row["effect"]} == {"animals/lion"}
    gift = next(row for row in rows if row["id"] == "seasonal/gift")
    assert (gift["image"], gift["text"], gift["language"]) == (None, "A gift — for “Ünal”.", "pt_BR")


def test_a_picture_stands_once_in_evaluation_and_with_every_voice_in_training(built: tuple[Path, dict]) -> None:
    folder, _ = built
    for name in ("validation", "test", "voice", "test_voice"):
        assert set(Counter(row["id"] for row in rows_of(folder, name) if row["image"]).values()) == {1}, name
    shown = Counter(row["id"] for row in rows_of(folder, "train") if row["image"])
    assert shown["animals/cow"] == 2  # bg and fr
    picture = Image.open(io.BytesIO(next(row["image"] for row in rows_of(folder, "train"))))
    assert (picture.format, picture.size, picture.mode) == ("PNG", (16, 16), "RGB")


def test_the_same_package_gives_the_same_bytes(built: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = built
    build(tmp_path, write_tiny_deb(tmp_path / "again.deb"), size=16)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_drawings_in_vectors_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.builders.tux.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'multimodal-workbench\[data\]'"):
        draw_pictures([Stamp("a", "b", pictures={"svg": SVG.encode()})], 16, Counter())


# --- the command


def test_the_command_prints_counts_and_licence(tmp_path: Path) -> None:
    deb, out = write_tiny_deb(tmp_path / "tiny.deb"), tmp_path / "tux"
    done = CliRunner().invoke(cli, ["data", "build", "tux", "--deb", str(deb), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert "licence: GPL-2" in done.stdout
    assert "left out: files of settings 1, " in done.stdout
    done = CliRunner().invoke(cli, ["data", "build", "tux", "--deb", str(deb), "--out", str(out), "--json"])
    assert_keys("data build tux", json.loads(done.stdout))
    assert json.loads(done.stdout)["stamps"]["train"] > 5


@pytest.mark.parametrize("content", [None, b"", b"no package", b"!<arch>\n", b"!<arch>\ndebian-binary"])
def test_a_bad_file_is_one_line_and_leaves_what_was_built(tmp_path: Path, content: bytes | None) -> None:
    deb, out = tmp_path / "a.deb", tmp_path / "tux"
    out.mkdir()
    (out / "train.parquet").write_bytes(b"of before")
    if content is not None:
        deb.write_bytes(content)
    done = CliRunner().invoke(cli, ["data", "build", "tux", "--deb", str(deb), "--out", str(out)])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "apt-get download" in done.stderr
    assert (out / "train.parquet").read_bytes() == b"of before"


def test_options_belong_to_sets() -> None:
    done = CliRunner().invoke(cli, ["data", "build", "tux"])
    assert done.exit_code == 2
    assert "--deb FILE" in done.stderr
    done = CliRunner().invoke(cli, ["data", "build", "emoji-shards", "--deb", "a.deb"])
    assert done.exit_code == 2
    assert "--deb belongs to tux" in done.stderr
