"""`wb check --deep` finds what breaks a law of the program, in classes that a user might write."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from workbench.cli import cli
from workbench.runs import deep_check

MINE = """
import torch
from torch import nn

from workbench.terms import Scale, Term, Terms
from workbench.types import Features, Loss


class Sound(Terms):
    def __init__(self, modalities):
        super().__init__(modalities, [Term(between=("a", "b"))], Scale())


class Forgets(Sound):
    "contrasts this process's rows with themselves alone"
    def forward(self, z, pool):
        mine = {side: view.z[:, 0] for side, view in z.items()}
        x, y = list(mine.values())[:2]
        return Loss(nn.functional.cross_entropy(5 * x @ y.T, torch.arange(len(x))), {})


class Counts(Sound):
    "gives the first rows of the batch more weight"
    def forward(self, z, pool):
        x, y = (view.z[:, 0] for view in list(z.values())[:2])
        weight = torch.linspace(0, 1, len(pool.ids))[pool.offset : pool.offset + len(x)]
        return Loss((weight * (x * y).sum(1)).mean(), {})


class Centred(nn.Module):
    "subtracts the mean of a batch that is large enough"
    def __init__(self, modality, dim):
        super().__init__()
        self.width, self.layer = dim, nn.Linear(modality.shape[0], dim)

    def transform(self, train):
        return torch.as_tensor

    def forward(self, x, tokens=False):
        z = self.layer(x)
        return Features(z - z.mean(0) * (len(z) > 8), z)
"""


def check(folder: Path, *overrides: str) -> tuple[int, dict[str, str], str]:
    (folder / "mine.py").write_text(MINE)
    overrides = ("eval.synthetic=null", *(o.replace("mine.py", f"{folder}/mine.py") for o in overrides))
    options = [word for override in overrides for word in ("--set", override)]
    result = CliRunner().invoke(cli, ["check", "synth/clip.yaml", "--deep", "--json", *options])
    return result.exit_code, json.loads(result.stdout), result.stderr


@pytest.mark.slow
def test_sound_parts_pass_every_comparison(tmp_path: Path, no_new_interpreter: None) -> None:
    code, found, said = check(tmp_path, "objective=mine.py:Sound", "model.encoders.a.dropout=0.3")
    assert (code, found) == (0, {"synth/clip.yaml": None})
    assert [line.split()[1] for line in said.splitlines() if "the same" in line] == [
        "alone", "order", "micro-batches", "processes"
    ]  # fmt: skip


@pytest.mark.slow
def test_an_objective_that_forgets_the_rows_of_other_processes_is_told_so(
    tmp_path: Path, no_new_interpreter: None
) -> None:
    code, found, _ = check(tmp_path, "objective=mine.py:Forgets")
    assert code == 2
    assert "processes (" in str(found)
    assert "pool.views" in str(found)
    assert "order (" not in str(found)


@pytest.mark.parametrize(
    ("part", "broken", "sound"),
    [
        ("objective=mine.py:Counts", "order", "alone"),
        ("model.encoders.b=mine.py:Centred", "alone", "order"),
    ],
)
def test_what_breaks_a_law_is_named_with_the_law(
    tmp_path: Path, part: str, broken: str, sound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep_check, "_on_two_processes", lambda *_, **__: deep_check.Gradients(0.0, {}))
    code, found, _ = check(tmp_path, part)
    assert code == 2
    (complaint,) = found.values()
    assert f"{broken} (" in complaint
    assert f"{sound} (" not in complaint
