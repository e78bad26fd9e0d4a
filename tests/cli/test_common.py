"""What all commands share: --quiet, progress, Ctrl-C, colours, what a shell offers at Tab."""

import io
import json
import re
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from workbench.cli import _common, cli, format_warning
from workbench.recipe import yaml_file

WITNESS = Path(__file__).parents[1] / "golden" / "runs" / "one"


def offered(*words: str) -> list[str]:
    """List what a shell is offered for the last of the words."""
    complete = ShellComplete(cli, {}, "wb", "_WB_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1]) if item.type == "plain"]


@pytest.mark.parametrize(
    ("words", "some", "none"),
    [
        (["ls", "o"], "objective", "encoder"),
        (["show", "objective", "i"], "ito", "clip"),
        (["show", "task", ""], "xor-flip", "ito"),
        (["show", "recipe", ""], "emoji_ito.yaml", "xor-flip"),
        (["synth", "--task", "x"], "xor", "and"),
        (["synth", "--objective", "c"], "clip", "xor"),
        (["pretrain", "emoji"], "emoji_ito.yaml", "synth/confu.yaml"),
        (["check", "sweeps/"], "sweeps/ito_ablation", "emoji_ito.yaml"),
        (["sweep", ""], "sweeps/ito_ablation", "emoji_ito.yaml"),
        (["claim", ""], "claims/confu_c1_synergy", "sweeps/ito_ablation"),
        (["eval", "runs/"], "runs/a/b-seed0", "runs/a"),
        (["compare", "runs/c", ""], "runs/c", "runs/a/b-seed0/code"),
        (["data", "build", ""], "tux", "xor"),
        (["pretrain", "--q"], "--quiet", "--set"),
    ],
)
def test_a_shell_is_offered_names(
    words: list[str], some: str, none: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("a/b-seed0", "c"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "recipe.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    found = offered(*words)
    assert some in found
    assert none not in found


def test_what_cannot_be_listed_is_offered_as_nothing() -> None:
    assert offered("show", "nonsense", "") == []


def test_quiet_leaves_the_result_and_errors() -> None:
    loud, quiet = (CliRunner().invoke(cli, ["ls", "recipe", *more]) for more in ([], ["--quiet"]))
    assert loud.stdout == quiet.stdout
    assert loud.stderr
    assert not quiet.stderr
    wrong = CliRunner().invoke(cli, ["ls", "nonsense", "-q"])
    assert wrong.exit_code == 2
    assert "nonsense" in wrong.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("file", "quiet"), [(io.StringIO, False), (io.StringIO, True), (Terminal, True)])
def test_progress_is_a_log_where_there_is_no_terminal(
    file: type[io.StringIO], quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, err = iter(range(0, 100, 4)), file()
    monkeypatch.setattr(_common.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setattr(_common, "is_quiet", lambda: quiet)
    with _common.show_progress("decoding") as show:
        for done in range(1, 7):
            show(done, 1000 * done)
    assert err.getvalue() == ("" if quiet else "decoding: 3 of 3,000\ndecoding: 6 of 6,000\n")


def test_progress_is_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    with _common.show_progress("decoding") as show:
        show(30, 1000, "30 files")
    assert "\x1b[" in click.get_text_stream("stderr").getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("verb", "inside"),
    [
        ("ls recipe", "workbench.cli.ls._recipes"),
        ("show run runs/x", "workbench.cli.show._show_run"),
        ("runs prune .", "workbench.runs.thin.find_folders"),
        ("doctor", "workbench.cli.doctor.collect"),
        ("nonsense", "workbench.errors.did_you_mean"),
    ],
)
def test_ctrl_c_is_one_line_and_130(verb: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inside, interrupt)
    done = CliRunner().invoke(cli, verb.split())
    assert done.exit_code == 130
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("stopped")
    assert not done.stdout


def test_a_warning_of_this_program_is_a_line_and_others_keep_their_place() -> None:
    assert format_warning("so", UserWarning, yaml_file.__file__, 3) == "warning: so\n"
    assert format_warning("so", UserWarning, json.__file__, 3).startswith(f"{json.__file__}:3: UserWarning: so")


@pytest.mark.parametrize("variable", ["TERM", "NO_COLOR"])
def test_colours_are_for_terminals_that_want_them(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe there are none, whatever TERM says; NO_COLOR takes them from a terminal, too."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(variable, "1" if variable == "NO_COLOR" else "xterm-256color")
    said = Terminal() if variable == "NO_COLOR" else io.StringIO()
    monkeypatch.setattr("sys.stdout", said)
    cli(["show", "run", str(WITNESS)], standalone_mode=False)
    assert "step" in said.getvalue()
    assert not re.search(r"\x1b\[[\d;]*3[0-7]", said.getvalue())
