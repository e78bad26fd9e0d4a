"""Votes of neighbours against scikit-learn's classifier with the same weights, and on sets whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from workbench.evals.knn import KNN, votes
from workbench.scoring.classes import answer
from workbench.types import Context, Items, Split


def two_splits(world, train: tuple[torch.Tensor, list[int]], test: tuple[torch.Tensor, list[int]]) -> Context:
    context = world({"image": (test[0], range(len(test[0])))})
    splits = {
        name: Split({"image": Items(list(x), torch.arange(len(x)), {"group": torch.tensor(labels)})})
        for name, (x, labels) in {"train": train, "validation": test}.items()
    }
    context.data.split = splits.__getitem__
    return context


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (7, 1.0), (500, 0.3)])
def test_accuracy_is_that_of_scikit_learn(world, k: int, temperature: float) -> None:
    rng = np.random.default_rng()
    labels, new = rng.integers(4, size=60), rng.integers(4, size=37)
    means = rng.normal(size=(4, 5))
    x, y = (torch.from_numpy(means[c] + rng.normal(size=(len(c), 5))).float() for c in (labels, new))

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance**2 / 2) / temperature)

    theirs = KNeighborsClassifier(min(k, 60), weights=weights).fit(F.normalize(x, dim=1).numpy(), labels)
    context = two_splits(world, (x, labels.tolist()), (y, new.tolist()))
    found = dict(KNN(k=k, temperature=temperature, chunk=10).run(context))
    assert found["accuracy"] == pytest.approx(theirs.score(F.normalize(y, dim=1).numpy(), new), abs=1e-9)
    assert found["chance"] == 1 / len(set(labels))
    assert found["majority"] == np.bincount(new).max() / 37
    assert "top5" not in found


def test_a_near_neighbour_outweighs_many_far_ones() -> None:
    bank = F.normalize(torch.tensor([[1.0, 0.02], [1.0, 1.0], [1.0, 1.0], [1.0, -1.0]]), dim=1)
    x = torch.tensor([[1.0, 0.0]])
    assert votes(x, bank, torch.tensor([2, 0, 0, 0]), 4, 0.07, 3).argmax() == 2
    assert votes(x, bank, torch.tensor([2, 0, 0, 0]), 4, 10.0, 3).argmax() == 0
    assert votes(x, bank, torch.tensor([2, 0, 0, 0]), 1, 1e-9, 3).tolist() == [[0, 0, 1]]  # no overflow, no 0 / 0


def test_of_equal_votes_the_lower_class_wins() -> None:
    score = torch.tensor([[1.0, 3.0, 3.0]]).expand(3, -1)
    assert answer(score, torch.tensor([0, 1, 2])).ranks.tolist() == [3, 1, 2]


def test_items_without_a_label_neither_vote_nor_count(world) -> None:
    x = torch.eye(6)
    context = two_splits(world, (x, [0, -1, 1, 2, 3, 5]), (x, [0, 3, -1, 2, 3, 5]))
    found = dict(KNN(k=1).run(context))
    assert found["accuracy"] == 4 / 5
    assert found["chance"] == 1 / 5
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ([0, 0, 0], {}, "has one class of 'group', two are needed"),
        ([-1, -1, -1], {}, "all are -1"),
        ([0, 1, 2], {"label": "species"}, "no label 'species' of image: it has group"),
    ],
)
def test_what_cannot_vote_is_refused(world, train: list[int], options: dict, message: str) -> None:
    context = two_splits(world, (torch.eye(3), train), (torch.eye(3), [0, 1, 2]))
    with pytest.raises(ValueError, match=message):
        dict(KNN(**options).run(context))
    with pytest.raises(ValueError, match="every item would find itself"):
        KNN(split="train")
