"""real-modsum of a tiny package: an exact relation, nothing on both sides, the same bytes each time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_modsum import ROWS, VOICES, build_tiny, write_stamps

from workbench.builders import real_modsum
from workbench.cli import cli
from workbench.loading.sounds import decode_sound

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("modsum"))


def table(built: Path, split: str) -> list[dict[str, str]]:
    return pq.read_table(built / f"{split}.parquet").to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("split", ROWS)
def test_the_word_is_the_sum_of_the_digits_and_every_pair_of_digits_is_equally_frequent(built, split):
    rows = table(built, split)
    for row in rows:
        assert WORDS.index(row["text"]) == (WORDS.index(row["written"]) + WORDS.index(row["spoken"])) % 10
    assert {*Counter((row["written"], row["spoken"]) for row in rows).values()} == {len(rows) // 100}


@pytest.mark.parametrize("split", ROWS)
def test_paths_lead_to_what_the_row_says(built, split):
    """Pictures show their digit in grey, sounds say it by their length (tiny_modsum)."""
    for row in table(built, split)[::7]:
        pixels, mels = np.load(built / row["pixels"]), np.load(built / row["mels"])
        assert (pixels.shape, mels.shape) == ((64,), (1024,))
        if row["pixels"].endswith("-0.npy"):
            assert round(float(pixels.max() + 1) * 8) == 1 + WORDS.index(row["written"])
        else:  # another hand writes greyer or blacker
            assert -1 <= pixels.min() < pixels.max() <= 1
        waveform, rate = decode_sound((built / row["speech"]).read_bytes())
        assert rate == 16_000
        if row["speech"].endswith("-0.wav"):
            assert len(waveform) / rate == pytest.approx(0.1 + 0.02 * WORDS.index(row["spoken"]), abs=0.004)
        assert row["speech"].startswith(f"voices/{row['voice']}/")


def test_no_picture_and_no_held_out_voice_is_on_both_sides(built):
    rows = {split: table(built, split) for split in ROWS}
    pictures = {split: {row["image"].partition("-")[0] for row in found} for split, found in rows.items()}
    voices = {split: {row["voice"] for row in found} for split, found in rows.items()}
    assert not pictures["train"] & (pictures["validation"] | pictures["test"] | pictures["voice"])
    assert not pictures["validation"] & pictures["test"]
    assert voices["train"] == voices["validation"] == voices["test"] == {"en", "de", "es_desc"}
    assert voices["voice"] == {"en_GB"}
    assert voices["language"] == {"nl"}
    assert {row["speech"][-5] for row in rows["train"]} == {*"01234"}
    hands = {int(Path(row["image"]).stem.partition("-")[2]) for row in rows["train"]}
    assert hands <= set(range(17))
    assert len(hands) > 8
    for split in ("validation", "voice"):
        assert {row["speech"][-5] for row in rows[split]} == {row["image"][-5] for row in rows[split]} == {"0"}


@pytest.mark.slow
def test_the_bytes_are_the_same_each_time_whether_packed_or_unpacked(built, tmp_path):
    again = build_tiny(tmp_path, unpacked=True)
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    different = [str(file) for file in files if (built / file).read_bytes() != (again / file).read_bytes()]
    assert different == ["README.txt"]  # which names the package's version, where there is one
    assert "1.2-3" in (built / "README.txt").read_text()


def test_a_digit_that_no_voice_of_a_split_says_is_one_message(tmp_path, monkeypatch):
    deb = write_stamps(tmp_path / "a.deb", {**VOICES, "_nl": range(1, 10)})
    with pytest.raises(ValueError, match="no recording of zero for the split 'language' \\(nl, pt, sv\\)"):
        real_modsum.build(tmp_path / "out", deb=deb)
    assert not (tmp_path / "out").exists()


def test_rows_that_cannot_be_balanced_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\{'train': 150\}.*multiples of 100"):
        real_modsum.build(tmp_path, deb=tmp_path, rows={"train": 150})


@pytest.mark.parametrize("case", ["missing", "none", "no option"])
def test_a_package_that_is_none_is_one_message(tmp_path, case):
    (tmp_path / "none").write_text("hello")
    option = [] if case == "no option" else ["--deb", str(tmp_path / case)]
    result = CliRunner().invoke(cli, ["data", "build", "real-modsum", "--out", str(tmp_path / "out"), *option])
    assert result.exit_code == (2 if case == "no option" else 1)
    assert "apt-get download" in result.output or "--deb FILE" in result.output
    assert "Traceback" not in result.output


def test_the_command_tells_what_it_built(tmp_path, monkeypatch):
    monkeypatch.setattr(real_modsum, "build", lambda out, deb: {"pictures": 3, "rows": {"train": 100}})
    result = CliRunner().invoke(cli, ["data", "build", "real-modsum", "--deb", "x", "--out", "y", "--json"])
    assert json.loads(result.output) == {"name": "real-modsum", "out": "y", "pictures": 3, "rows": {"train": 100}}
