"""What commands import: short ones take as long as that, so they import what they look at and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_engines import TOWERS

from workbench.recipe.yaml_file import recipe_names

COSTLY = [
    "datasets", "matplotlib", "pandas", "sklearn", "sympy", "tensorboard", "torch._dynamo", "torch._inductor",
    "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.utils.flop_counter",
    "torchvision.transforms.v2", "transformers", "triton",
]  # fmt: skip
"""half a second or more each, or what brings such a one along"""
OF_TOWERS = ["open_clip", "timm", "torchvision"]
"""needed by recipes with image or text towers alone"""
HEARING = ("clotho", "tux")
"""torchaudio imports the compiler of torch, and with it half of the list"""
UNUSED = [
    "datasets", "matplotlib", "pandas", "sklearn", "sympy", "torch._dynamo", "torch._inductor",
    "torch.distributed.checkpoint",
]  # fmt: skip
"""of COSTLY what no small training, resume or evaluation uses"""
SERVER = """
import json, os, sys, torch
for line in sys.stdin:
    if os.fork():
        assert not os.wait()[1]
        continue
    from workbench.cli import cli
    for command in json.loads(line):
        try:
            cli.main(command, standalone_mode=False)
        except SystemExit as end:
            assert not end.code, end.code
    print("IMPORTED", *sorted(sys.modules), flush=True)
    os._exit(0)
"""
"""runs each line's commands in a fork that has imported torch, as all of them do, and nothing else"""
Imported = Callable[..., set[str]]


@pytest.fixture(scope="module")
def imported() -> Iterator[Imported]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], **pipes) as server:  # type: ignore[call-overload]

        def run(*commands: list[str]) -> set[str]:
            server.stdin.write(json.dumps(commands) + "\n")
            server.stdin.flush()
            for line in server.stdout:
                if line.startswith("IMPORTED "):
                    return set(line.split()[1:])
            raise AssertionError("a command failed; what it said is above")

        yield run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "beside"),
    [
        ([["check", *(name for name in recipe_names() if not name.startswith(HEARING))]], []),
        ([["check", "synth/comm.yaml"], ["show", "objective", "ito"]], [*OF_TOWERS, "pyarrow"]),
        ([["check", "ito_l14.yaml"], ["show", "recipe", "ito_b16_cc12m.yaml"]], ["timm"]),
    ],
    ids=["all", "no towers", "vit"],
)
def test_costly_modules_are_not_imported(commands: list[list[str]], beside: list[str], imported: Imported) -> None:
    assert not imported(*commands) & {*COSTLY, *beside}


@pytest.mark.slow
def test_a_training_does_without_the_compiler(tmp_path: Path, imported: Imported) -> None:
    """Two micro-batches of pictures and texts, augmented; then the run is resumed and evaluated."""
    recipe, run = tmp_path / "recipe.yaml", str(tmp_path / "run")
    recipe.write_text(json.dumps(TOWERS | {"train": {"for": "1 steps", "batch": 4, "microbatch": 2}}))
    train = ["pretrain", str(recipe), "--run", run, "--set"]
    modules = imported([*train, "seed=0"], [*train, "train.for=2 steps"], ["eval", run])
    assert "torchvision.transforms.v2" in modules
    assert not modules & {*UNUSED}
