"""Short runs whose losses, gradient norms and evaluations stand in curves/NAME.json: `just golden` writes them anew.

A refactoring reproduces them. Whoever renews one says why in the commit: the results of users' runs change with it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from several import spawn

from workbench.recipe.schema import parse_recipe
from workbench.runs.train import train

FOLDER = Path(__file__).parent / "curves"
CURVES = ("train/loss", "train/grad_norm")
TOLERANCE = 5e-5
"""relative. Other instructions of a processor (ATEN_CPU_CAPABILITY=default, MKL_CBWR=COMPATIBLE, two threads) changed
losses by 1e-6 and gradient norms by 4e-6 of their values, differences of losses in the evaluation by 2e-6; ten times
that is no rounding"""
RENEW = os.environ.get("WB_GOLDEN") == "renew"

XOR: dict[str, Any] = {
    "name": "xor",
    "data": {"name": "synthetic", "task": "xor", "samples": 320},
    "model": {
        "dim": 8,
        "head": "linear",
        "encoders": {m: {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.1} for m in "abc"},
        "fusion": {"name": "mlp", "hidden": 16, "dropout": 0.1},
    },
    "train": {"for": "24 steps", "batch": 32, "microbatch": 16, "lr": 0.01, "warmup": "4 steps", "clip": 1.0},
    "eval": {"start": False, "every": "24 steps", "synthetic": {"name": "synthetic", "batches": 10, "samples": 500}},
    "parallel": {"workers": 0},
}
EMOJI: dict[str, Any] = {
    "name": "emoji-ito",
    "data": {"name": "emoji", "views": 2, "captions": 2},
    "model": {
        "dim": 16,
        "encoders": {
            "image": {
                "name": "open_clip",
                "config": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
                "augment": "ito",
            },
            "text": {"name": "open_clip", "config": {"context_length": 12, "width": 16, "heads": 2, "layers": 1}},
        },
        "fusion": {"name": "transformer", "layers": 1, "heads": 2, "dropout": 0.1},
    },
    "objective": "ito",
    "train": {"for": "8 steps", "batch": 16, "microbatch": 8, "lr": 0.002, "warmup": "2 steps"},
    "eval": {"start": False, "every": "8 steps", "gap": {"name": "gap", "split": "validation", "max_pairs": 200}},
    "parallel": {"workers": 0},
}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    **{f"xor-{name}": (1, XOR | {"objective": name}) for name in ("clip", "symile", "confu")},
    "emoji-ito": (1, EMOJI),
    "xor-confu-two-ranks": (2, XOR | {"objective": {"name": "confu", "scale": {"learn": True}}}),
}
"""{name: (processes, recipe)}"""


def records_of(rank: int, recipe: dict[str, Any], file: str) -> None:
    """Train, in one process or in one of several, and write what the first one recorded."""
    records = train(parse_recipe(recipe)).records
    if rank == 0:
        Path(file).write_text(json.dumps(records))


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Keep a value a step of the curves, and the last evaluation, in seven digits: float32 has no more."""
    last = {k: v for record in records for k, v in record.items() if k.startswith("eval/")}
    steps = [record for record in records if CURVES[0] in record]
    found = {name: [float(f"{record[name]:.7g}") for record in steps] for name in CURVES}
    return found | {name: float(f"{value:.7g}") for name, value in last.items()}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if w > 1 else ()) for n, (w, _) in RUNS.items()]
)
def test_a_run_gives_the_numbers_that_it_always_gave(name: str, tmp_path: Path) -> None:
    world, recipe = RUNS[name]
    file, golden = tmp_path / "records.json", FOLDER / f"{name}.json"
    if world > 1:
        spawn(world, records_of, recipe, str(file))
    else:
        records_of(0, recipe, str(file))
    found = summary(json.loads(file.read_text()))
    if RENEW:
        FOLDER.mkdir(exist_ok=True)
        golden.write_text(json.dumps(found, indent=1) + "\n")
        return
    wanted = json.loads(golden.read_text())
    assert found.keys() == wanted.keys()
    for key in wanted:
        assert found[key] == pytest.approx(wanted[key], rel=TOLERANCE, abs=TOLERANCE / 10), key
