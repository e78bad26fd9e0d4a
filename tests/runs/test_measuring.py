"""What encoders fit to the training split: before the first step, once, and in the checkpoint from then on."""

import json
from pathlib import Path

import pytest
import torch

from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.inference import load
from workbench.runs.train import train
from workbench.training import checkpoint, checkpoint_files

DATA = """
import torch
from workbench.errors import BadSample
from workbench.types import Items, Modality, Sample, Split

class Sensors:
    '''Readings around 1000, a third of them missing; every 10th sample is bad.'''
    def __init__(self, *, samples: int = 60):
        self.samples = samples
        self.modalities = {"a": Modality("vector", (3,), measured=True), "b": Modality("vector", (2,))}
    def __len__(self):
        return self.samples
    def reading(self, index):
        return 1000 + 10 * torch.randn(3, generator=torch.Generator().manual_seed(index))
    def sample(self, index, rng):
        if index % 10 == 9:
            raise BadSample(f"row {index}", "it is one")
        a = [] if index % 3 == 0 else [self.reading(index)]
        return Sample({"a": a, "b": [self.reading(index)[:2] / 1000]}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
    def split(self, name):
        ids = torch.arange(20)
        a = [self.reading(i) for i in range(20)]
        return Split({"a": Items(a, ids), "b": Items([x[:2] / 1000 for x in a], ids)})

class WithItems(Sensors):
    def raw_items(self, modality, at_most):
        assert modality == "a"
        yield from [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 5.0])][:at_most]

class NoItems(Sensors):
    sample = None
    def batches(self, start, feed):
        raise AssertionError("nothing is read")
"""


def recipe(folder: Path, data: str, **train_keys: object) -> Recipe:
    (folder / "own.py").write_text(DATA)
    return parse_recipe(
        {
            "name": "sensors",
            "parallel": {"workers": 0},
            "data": {"name": f"{folder / 'own.py'}:{data}"},
            "model": {"dim": 4, "encoders": {"a": {"name": "mlp", "noise": 0.1}, "b": "mlp"}},
            "objective": "clip",
            "train": {"batch": 10, "for": "3 steps"} | train_keys,
        }
    )


def buffers(run: Path) -> dict[str, list[float]]:
    weights = checkpoint.read(checkpoint_files.newest(run / "checkpoints")[0], "model")
    return {name.rpartition(".")[2]: x.tolist() for name, x in weights.items() if "standardise" in name}


def test_the_checkpoint_has_mean_and_spread_of_the_training_split(tmp_path: Path) -> None:
    said: list[str] = []
    train(recipe(tmp_path, "Sensors"), tmp_path / "run", say=said.append)
    rows = torch.stack(
        [
            1000 + 10 * torch.randn(3, generator=torch.Generator().manual_seed(i))
            for i in range(60)
            if i % 3 and i % 10 != 9
        ]
    ).double()
    assert f"measured {len(rows)} training items of a" in said
    found = buffers(tmp_path / "run")
    assert found["mean"] == pytest.approx(rows.mean(0).tolist(), rel=1e-6)
    assert found["spread"] == pytest.approx(rows.std(0, correction=0).tolist(), rel=1e-5)
    loaded = load(tmp_path / "run")
    assert loaded.model.encoders["a"].standardise.mean.tolist() == found["mean"]


def test_a_resumed_run_measures_nothing_and_goes_on_bitwise(tmp_path: Path) -> None:
    train(recipe(tmp_path, "WithItems"), tmp_path / "whole")
    train(recipe(tmp_path, "WithItems", **{"for": "1 steps", "schedule": {"for": "3 steps"}}), tmp_path / "parts")
    said: list[str] = []
    train(recipe(tmp_path, "WithItems"), tmp_path / "parts", say=said.append)
    assert not any("measured" in line for line in said)
    assert buffers(tmp_path / "parts") == buffers(tmp_path / "whole") == {"mean": [2, 2, 4], "spread": [1, 1, 1]}
    lines = [
        [json.loads(line)["train/loss"] for line in (tmp_path / run / "metrics.jsonl").open() if "train/loss" in line]
        for run in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 3


def test_data_that_gives_no_single_item_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.encoders.a: .*set standardise to false, or give its class"):
        train(recipe(tmp_path, "NoItems"))
