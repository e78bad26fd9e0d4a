"""The table of a sweep: it fits the terminal, and each arm has one line while runs go on."""

from pathlib import Path

import pytest
from rich.console import Console
from tiny_sweeps import write_sweep

from workbench.studies.side_by_side import Progress
from workbench.studies.sweep import read_sweep
from workbench.studies.sweep_report import _table
from workbench.studies.sweep_results import RunResult
from workbench.studies.sweeping import Sweeping

SWEEP = """
name: it
base: small.yaml
seeds: 3
arms:
  clip: {objective: clip}
  a_rather_long_name: {model.fusion: {name: mlp, hidden: 64, dropout: 0.2}, train.weight_decay: 0.1}
  confu: {}
"""


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_each_arm_has_a_line_and_every_number_is_whole(tmp_path: Path, width: int) -> None:
    runs = read_sweep(write_sweep(tmp_path, SWEEP)).runs(tmp_path)
    sweeping = Sweeping(runs, 2)
    for place, run in enumerate(runs):
        if place < 5:
            metrics = {"eval/synthetic/loss": 0.123456 + place / 1000}
            sweeping.results[place] = RunResult(run.arm.name, run.seed, run.folder, "done", metrics)
        else:
            sweeping.progress[place] = Progress("running" if place < 7 else "waiting", 1, 2)
    console = Console(width=width, record=True, file=(tmp_path / "out").open("w"))
    console.print(_table(sweeping, ", about 12 s left", width))
    head, clip, long, confu, caption = console.export_text().rstrip().splitlines()
    assert max(map(len, (head, clip, long, confu, caption))) <= width
    assert ("synthetic/loss, last" if width > 60 else "loss, last") in head
    assert clip.split()[:7] == ["clip", "2", "1", "0", "0.125", "±", "0.0015"]
    assert long.split()[:2] == ["a_rather_long_name", "2"]
    assert ("differs by" in head) == (width >= 80)
    assert ("train.weight_decay: 0.1" in long) == (width == 200)
    assert "about 12 s left" in caption
