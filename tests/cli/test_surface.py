"""The command line is a promise to scripts: verbs and options change here or nowhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from json_keys import KEYS, assert_same

from workbench.cli import cli

WITNESSES = Path(__file__).parents[1] / "golden" / "runs"
SURFACE = {
    "synth": {"--task", "--list", "--objective", "--seeds", "--set", "--run", "--jobs", "--json"}
    | {"--tasks", "--rendered", "--csv", "--plot"},  # of the matrix
    "init": {"data", "--out", "--source", "--synergy", "--json"},
    "pretrain": {"recipe", "--set", "--run", "--nproc", "--fresh", "--dry", "--profile", "--json"},
    "sweep": {"sweep", "--set", "--run", "--jobs", "--list", "--arm", "--dry", "--fresh", "--json"},
    "eval": {"run", "--suite", "--data", "--checkpoint", "--per-class", "--out", "--set", "--json"},
    "embed": {"source", "--with", "--out", "--split", "--field", "--tokens", "--shared", "--batch", "--dim"}
    | {"--checkpoint", "--source", "--set", "--json"},
    "search": {"run", "--text", "--image", "--query", "--images", "--texts", "--among", "--top", "--sheet", "--index"}
    | {"--split", "--source", "--set", "--checkpoint", "--json"},
    "export": {"run", "--format", "--out", "--checkpoint", "--licence", "--json"},
    "compare": {"runs", "--metric", "--at", "--against", "--anyway", "--format", "--csv", "--plot", "--html", "--json"},
    "claim": {"claim", "--set", "--run", "--jobs", "--seeds", "--judge", "--keep", "--from", "--dry", "--json"},
    "synergy": {"data", "--target", "--field", "--batch", "--samples", "--seeds", "--seed", "--split", "--source"}
    | {"--set", "--jobs", "--plot", "--json"},
    "check": {"recipes", "--set", "--deep", "--overfit", "--json"},
    "ls": {"kind", "--dir", "--json"},
    "show": {"kind", "name", "--set", "--json"},
    "data build": {"name", "--out", "--sources", "--deb", "--json"},
    "runs prune": {"folders", "--keep", "--weights", "--dry", "--json"},
    "data inspect": {"path", "--source", "--set", "--limit", "--sheet", "--bad", "--json"},
    "board": {"folder", "--port", "--bind-all"},
    "doctor": {"--json"},
}


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    context = click.Context(group)
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        nested = isinstance(command, click.Group)
        found |= commands(command, f"{prefix}{name} ") if nested else {prefix + name: command}
    return found


def test_the_surface_is_frozen() -> None:
    surface = {
        name: {
            p.opts[0] if isinstance(p, click.Argument) else next(o for o in p.opts if o.startswith("--"))
            for p in command.params
        }
        for name, command in commands(cli).items()
    }
    assert_same(surface, {name: words | {"--quiet"} for name, words in SURFACE.items()})


RUN = str(WITNESSES / "one")
JSON = {
    "ls": {"name", "summary"},
    "ls objective": {"name", "summary"},
    f"ls run --dir {WITNESSES}": {"finished", "metric", "name", "recipe", "step", "value"},
    "show objective ito": {"block", "example", "file", "inner", "kind", "name"},
    f"show run {RUN}": {"best", "evaluations", "finished", "recipe", "run", "step"},
    f"runs prune --dry {RUN}": {"freed", "left", "run", "why_not"},
    "doctor": {"compiler", "cpus", "data", "device", "disk_free_bytes", "gpus", "kernels", "memory_bytes"}
    | {"platform", "versions"},
    "show recipe image_text_xor.yaml": {"as_terms", "recipe"},
    "check image_text_xor.yaml": {"image_text_xor.yaml"},
    "sweep sweeps/ito_ablation --list": {"arm", "number", "run", "seed", "state"},
}
"""{a command that prints --json at once: the keys of its object, or of the first one of its list}"""
BUILT = ("show recipe", "check", "sweep")
"""of these, those that import what they print of"""
JSON_CALLS = [
    pytest.param(call, id=call.replace(str(WITNESSES), "RUNS"), marks=[pytest.mark.slow] * call.startswith(BUILT))
    for call in JSON
]


@pytest.mark.parametrize("call", JSON_CALLS)
def test_the_keys_of_json_are_frozen(call: str) -> None:
    done = CliRunner().invoke(cli, [*call.split(), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert_same({call: set(found[0] if isinstance(found, list) else found)}, {call: JSON[call]})


def test_every_command_with_json_has_its_keys_frozen_where_a_test_runs_it() -> None:
    printing = {name for name, words in SURFACE.items() if "--json" in words}
    held = {name for name in printing for call in (*KEYS, *JSON) if call.startswith(name)}
    assert held == printing
    tests = "".join(file.read_text(encoding="utf-8") for file in WITNESSES.parents[1].rglob("test_*.py"))
    assert [call for call in KEYS if f'assert_keys("{call}", ' not in tests] == []


def test_the_difference_of_a_surface_is_printed() -> None:
    with pytest.raises(AssertionError, match=r"- wb b: --old\n.*\+ wb b: --new\n.*\+ wb c: nothing"):
        assert_same({"a": {"x"}, "b": {"--new"}, "c": set()}, {"a": {"x"}, "b": {"--old"}})


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_help_has_an_example_exit_codes_and_no_silent_option(name: str) -> None:
    command = commands(cli)[name]
    assert f"wb {name}" in (command.help or "")
    assert re.search(r"Exit codes: 0 .*?1 .*?2 ", command.help or "", re.DOTALL) or name in ("ls", "doctor", "board")
    assert "Exit codes: 0 " in (command.help or "")
    assert all(p.help for p in command.params if isinstance(p, click.Option))


@pytest.mark.slow
def test_help_lists_and_reports_of_runs_do_not_pay_for_torch() -> None:
    calls = [["--help"], *([*name.split(), "--help"] for name in SURFACE)]
    kinds = ("encoder", "fusion", "objective", "data", "eval", "callback", "task", "recipe")
    calls += [["ls"], *(["ls", kind] for kind in kinds)]
    calls += [["ls", "run", "--dir", str(WITNESSES)], ["show", "run", str(WITNESSES / "ito")]]
    code = (
        "import sys\n"
        "from workbench.cli import cli\n"
        f"for arguments in {calls}:\n"
        "    cli(arguments, prog_name='wb', standalone_mode=False)\n"
        "    light = ['pydantic_core'] if arguments[0] in ('ls', 'show') else []\n"
        "    heavy = {'torch', 'open_clip', 'pydantic_core'} & set(sys.modules) - set(light)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_verb_is_one_message() -> None:
    done = subprocess.run([sys.executable, "-m", "workbench", "pretrian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean 'pretrain'?" in done.stderr
    assert not done.stdout
