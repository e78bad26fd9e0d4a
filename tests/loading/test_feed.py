"""The feed is a pure function of (seed, step): any start, any number of workers or processes sees the same samples."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from workbench.loading.feed import Feed, epoch_steps
from workbench.types import Batch, Modality, Sample, Skipped


class Numbers:
    """Sample i holds i and a random number; every third sample lacks its second caption."""

    modalities: Mapping[str, Modality] = {"x": Modality("vector", (2,)), "caption": Modality("vector", (1,), count=2)}

    def __len__(self) -> int:
        return 23

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        captions = [torch.tensor([float(index + 100 * k)]) for k in range(1 if index % 3 == 0 else 2)]
        return Sample(
            {"x": [torch.tensor([float(index), rng.random()])], "caption": captions}, index, {"odd": index % 2}
        )


def test_a_batch_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's loader leaves what cannot pin itself as it is, and says nothing."""
    asked: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: asked.append(x.data_ptr()) or x)
    x, valid, ids, label = torch.ones(3, 1, 4), torch.ones(3, 1, dtype=torch.bool), torch.arange(3), torch.arange(3)
    batch = pin_memory(Batch({"a": x}, {"a": valid}, ids, {"label": label}, (Skipped("b", "c"),)))
    assert sorted(asked) == sorted(t.data_ptr() for t in (x, valid, ids, label))
    assert batch.skipped == (Skipped("b", "c"),)


def noisy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def feed(**changes: Any) -> Feed:
    return Feed(**({"transforms": {"x": noisy, "caption": identity}, "batch": 4, "seed": 3} | changes))


def same(a: Batch, b: Batch) -> bool:
    trees = ((a.inputs, b.inputs), (a.valid, b.valid), (a.targets, b.targets), ({"ids": a.ids}, {"ids": b.ids}))
    return all(torch.equal(x[k], y[k]) for x, y in trees for k in x)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_later_start_continues_the_same_stream_with_any_workers(workers: int) -> None:
    whole = list(islice(feed().load(Numbers(), 0), 13))
    resumed = list(islice(feed(workers=workers).load(Numbers(), 4), 9))  # across two epoch ends: five steps an epoch
    assert all(same(a, b) for a, b in zip(whole[4:], resumed, strict=True))


def test_an_epoch_has_no_repeats_and_the_next_one_another_order() -> None:
    rows = [indices for _, indices in islice(feed().rows(0, 23), 10)]
    first, second = np.concatenate(rows[:5]), np.concatenate(rows[5:])
    assert len(set(first)) == len(set(second)) == 20
    assert not np.array_equal(first, second)


class Nothing(Numbers):
    """Every item is zero, so that the noise of its transform is all there is; `own` is what the data set draws."""

    modalities: Mapping[str, Modality] = {
        "x": Modality("vector", (2,), count=2),
        "y": Modality("vector", (2,)),
        "own": Modality("vector", (1,)),
    }

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        item = torch.zeros(2)
        return Sample({"x": [item, item], "y": [item], "own": [torch.tensor([rng.random()])]}, index)


def test_every_view_of_every_sample_in_every_epoch_has_draws_of_its_own() -> None:
    nothing = feed(transforms={"x": noisy, "y": noisy, "own": identity})
    batches = list(islice(nothing.load(Nothing(), 0), 15))  # three epochs
    for names in (("x", "y"), ("own",)):
        draws = torch.cat([batch.inputs[name].flatten() for batch in batches for name in names])
        assert len(draws.unique()) == len(draws) == 15 * 4 * (6 if "x" in names else 1)


def test_processes_share_a_batch_in_order() -> None:
    whole = [indices for _, indices in islice(feed().rows(2, 23), 5)]
    shares = [[i for _, i in islice(feed(rank=r, world=2).rows(2, 23), 5)] for r in range(2)]
    assert all(np.array_equal(w, np.concatenate([a, b])) for w, a, b in zip(whole, *shares, strict=True))


def test_missing_items_are_padded_and_marked() -> None:
    batch = next(iter(feed(batch=23).load(Numbers(), 0)))
    assert batch.inputs["caption"].shape == (23, 2, 1)
    assert torch.equal(batch.valid["caption"][:, 1], batch.ids % 3 != 0)
    assert batch.valid["caption"][:, 0].all()
    # with an item that there is, so that a tower never reads what no sample could hold
    absent = ~batch.valid["caption"][:, 1]
    assert torch.equal(batch.inputs["caption"][absent, 1], batch.inputs["caption"][absent, 0])
    assert (batch.inputs["caption"][absent, 1] == batch.ids[absent, None]).all()
    assert torch.equal(batch.targets["odd"], batch.ids % 2)


def test_another_seed_is_another_stream() -> None:
    a, b = (next(iter(feed(seed=s).load(Numbers(), 0))) for s in (3, 4))
    assert not torch.equal(a.ids, b.ids)


def test_another_seed_augments_the_same_sample_otherwise() -> None:
    draws = []
    for seed in (3, 4):
        batches = islice(feed(transforms={"x": noisy, "y": noisy, "own": identity}, seed=seed).load(Nothing(), 0), 5)
        draws += [{int(i): x for batch in batches for i, x in zip(batch.ids, batch.inputs["x"], strict=True)}]
    both = draws[0].keys() & draws[1].keys()
    assert len(both) > 10
    assert not any(torch.equal(draws[0][i], draws[1][i]) for i in both)


def test_a_batch_larger_than_the_data_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"train.batch=64 is larger than the data set \(23 samples\): set train.batch=23 or less"
    ):
        epoch_steps(23, 64)
    with pytest.raises(ValueError, match=r"\(1 samples\): it needs two"):  # a batch of one is refused, too
        epoch_steps(1, 64)


class Broken(Numbers):
    """Sample 7 cannot be read."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        if index == 7:
            raise FileNotFoundError(2, "No such file or directory", "shard-7.tar")
        return super().sample(index, rng)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_one_line_with_any_workers(workers: int) -> None:
    with pytest.raises(ValueError, match=r"^sample 7 of the training data .*: 'shard-7.tar'\. The last") as raised:
        list(islice(feed(workers=workers).load(Broken(), 0), 10))
    assert "\n" not in str(raised.value)
