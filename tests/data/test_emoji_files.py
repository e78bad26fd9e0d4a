"""The files of the packaged emoji set: counts, licences, leaks, and what a damaged one says."""

from __future__ import annotations

import io
import secrets
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from packaged_emoji import rows
from PIL import Image

from workbench.data.emoji import FILES, PACKAGED, Emoji

SEED = secrets.randbelow(2**32)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the set that a test may damage."""
    return Path(shutil.copytree(PACKAGED, tmp_path / "emoji"))


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
