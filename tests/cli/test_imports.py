"""What `wb check` and `wb show` import: they take as long as that, so they import what they look at and no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workbench.recipe.yaml_file import recipe_names

COSTLY = [
    "datasets", "matplotlib", "pandas", "sklearn", "sympy", "tensorboard", "torch._dynamo", "torch._inductor",
    "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor", "torch.utils.flop_counter",
    "torchvision.transforms.v2", "transformers", "triton",
]  # fmt: skip
"""half a second or more each, or what brings such a one along"""
TOWERS = ["open_clip", "timm", "torchvision"]
"""needed by recipes with image or text towers alone"""
HEARING = ["clotho_clip.yaml", "clotho_confu.yaml"]
"""torchaudio imports the compiler of torch, and with it half of the list"""
RUN = """
import sys
from workbench.cli import cli
try:
    cli.main(sys.argv[1:], standalone_mode=False)
except SystemExit as end:
    assert not end.code, end.code
print("IMPORTED", *sorted(sys.modules))
"""


def imported(*command: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", RUN, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "beside"),
    [
        (["check", *(name for name in recipe_names() if name not in HEARING)], []),
        (["check", "synth/comm.yaml"], [*TOWERS, "pyarrow"]),
        (["check", "ito_l14.yaml"], ["timm"]),
        (["show", "objective", "ito"], [*TOWERS, "pyarrow"]),
        (["show", "recipe", "ito_b16_cc12m.yaml"], ["timm"]),
    ],
    ids=["all", "synthetic", "vit", "objective", "recipe"],
)
def test_costly_modules_are_not_imported(command: list[str], beside: list[str]) -> None:
    assert not imported(*command) & {*COSTLY, *beside}
