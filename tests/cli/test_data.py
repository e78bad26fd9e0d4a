"""`wb data build`: what is missing is said."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import workbench.builders.emoji as emoji
from workbench.cli import cli


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
