"""Synthetic data: evaluation splits are drawn apart from the training set, and what a sample lacks is marked."""

from itertools import islice
from typing import Any

import pytest
import torch

from workbench.loading.batching import to_float32
from workbench.loading.feed import Feed
from workbench.recipe.schema import parse_recipe

SAMPLES = 300


def synthetic(task: dict[str, Any]) -> Any:
    tree: dict[str, Any] = {"name": "x", "objective": "clip", "train": {"for": "1 steps", "batch": 30}}
    tree |= {"data": {"name": "synthetic", "task": task, "samples": SAMPLES, "held_out": SAMPLES}}
    return parse_recipe(tree | {"model": {"dim": 4, "encoders": dict.fromkeys("abc", "mlp")}}).data.build()


def epoch(data: Any, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """All training samples in the order of their ids, and which modalities each has."""
    feed = Feed(dict.fromkeys("abc", to_float32), 30, seed)
    batches = list(islice(data.batches(0, feed), SAMPLES // 30))
    order = torch.cat([batch.ids for batch in batches]).argsort()
    inputs = {m: torch.cat([batch.inputs[m][:, 0] for batch in batches])[order] for m in "abc"}
    return inputs, {m: torch.cat([batch.valid[m][:, 0] for batch in batches])[order] for m in "abc"}


@pytest.mark.parametrize("seed", [0, 1, 17])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_evaluation_split_is_drawn_apart_from_the_training_set(seed: int, split: str) -> None:
    data = synthetic({"name": "xor", "bits": 8})
    trained, _ = epoch(data, seed)
    alike = [(data.split(split).items[m].raw == trained[m]).all(1).float().mean() for m in "abc"]
    assert max(alike) < 0.1  # by chance one of 256


def test_what_a_sample_lacks_is_marked_and_holds_nothing() -> None:
    data = synthetic({"name": "missing", "of": "xor", "rate": {"a": 0.4, "b": 0.0, "c": 0.2}})
    inputs, valid = epoch(data, 3)
    shares = {m: there.float().mean().item() for m, there in valid.items()}
    assert shares == pytest.approx({"a": 0.6, "b": 1.0, "c": 0.8}, abs=0.12)
    for m, there in valid.items():
        assert (inputs[m][~there] == 0).all()
        assert (inputs[m][there] != 0).any(1).float().mean() > 0.5
