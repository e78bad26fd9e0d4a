"""`wb data build`: what is missing is said."""

import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import workbench.builders.emoji as emoji
from workbench.cli import cli
from workbench.data.emoji import Emoji
from workbench.data.shards import Shards


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("PATH", str(tmp_path))
    folders = ["--out", str(tmp_path / "out"), "--sources", str(tmp_path / "sources")]
    result = CliRunner().invoke(cli, ["data", "build", "emoji", *folders])
    assert result.exit_code == 1
    assert "npm" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_builder_gets_the_folders_and_its_counts_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, Path]] = []
    monkeypatch.setattr(emoji, "build", lambda out, sources: seen.append((out, sources)) or {"images": {"train": 1234}})
    arguments = ["data", "build", "emoji", "--out", str(tmp_path / "a"), "--sources", str(tmp_path / "b")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert seen == [(tmp_path / "a", tmp_path / "b")]
    assert "images: train 1,234" in result.stdout
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert '"images": {"train": 1234}' in result.stdout


def test_an_unknown_set_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["data", "build", "emojy"])
    assert result.exit_code == 2
    assert "did you mean 'emoji'?" in result.stderr


@pytest.mark.parametrize("below", ["", "deeper/down"])
def test_a_file_in_the_place_of_the_folder_is_told_and_kept(tmp_path: Path, below: str) -> None:
    (tmp_path / "notes").write_text("mine")
    result = CliRunner().invoke(cli, ["data", "build", "emoji-shards", "--out", str(tmp_path / "notes" / below)])
    assert result.exit_code == 2
    assert f"{tmp_path / 'notes'} is a file" in result.stderr
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.slow
def test_the_packaged_emoji_as_tars_are_what_shards_reads(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["data", "build", "emoji-shards", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    emoji, shards = Emoji(), Shards(path=f"{tmp_path}/train-*.tar", validation=f"{tmp_path}/validation-*.tar")
    assert len(shards) == len(emoji)
    index = random.randrange(len(emoji))
    ours, theirs = (data.sample(index, np.random.default_rng(0)).inputs for data in (emoji, shards))
    assert ours["image"][0].tobytes() == theirs["image"][0].tobytes(), index
    assert ours["text"] == theirs["text"], index
    assert len(shards.split("validation").items["image"]) == len(emoji.split("validation").items["image"])
    assert (
        "--sources belongs to emoji"
        in CliRunner().invoke(cli, ["data", "build", "emoji-shards", "--sources", str(tmp_path)]).stderr
    )
