"""Swapped members, on fusions that read one member, the other, or both."""

import pytest
import torch
import torch.nn.functional as F

from workbench.evals.swap import Swap
from workbench.types import Objective, Side, View, Views


class Fused(Objective):
    """Trains image+text against itself and against audio."""

    def __init__(self) -> None:
        super().__init__()
        self.all_sides = [Side.parse(name) for name in ("image+text", "audio")]


def reader(image: float, text: float):
    """A fusion that adds its members with these weights."""

    def embed(inputs, sides) -> Views:
        views, weight = {}, {"image": image, "text": text, "audio": 1.0}
        for side in sides:
            total = sum(weight[m] * torch.stack(list(inputs[m])) for m in side.members)
            z = F.normalize(total, dim=1)[:, None]
            views[side] = View(z, torch.ones(z.shape[:2], dtype=torch.bool))
        return views

    return embed


def items(n: int = 23) -> dict:
    texts = torch.randn(n, 16)
    return {"image": (torch.randn(n, 16), range(n)), "text": (texts, range(n)), "audio": (texts, range(n))}


@pytest.mark.parametrize("reads", ["text", "image"])
def test_a_fusion_that_reads_one_member_notices_no_swap_of_the_other(world, reads: str) -> None:
    weights = {"text": (0.0, 1.0), "image": (1.0, 0.0)}[reads]
    ignored = {"text": "image", "image": "text"}[reads]
    found = dict(Swap().run(world(items(), objective=Fused(), lookup=reader(*weights))))
    assert (found[f"{ignored}_kept"], found[f"{ignored}_followed"]) == (1, 0)
    assert (found[f"{reads}_kept"], found[f"{reads}_followed"]) == (0, 1)
    assert found[f"{ignored}_cosine"] == pytest.approx(1)
    assert abs(found[f"{reads}_cosine"]) < 0.5
    assert found["chance"] == 1 / 23
    assert list(found) == Swap().names(Fused())


def test_a_fusion_that_reads_both_moves_half_of_the_way(world) -> None:
    found = dict(Swap().run(world(items(), objective=Fused(), lookup=reader(1.0, 1.0))))
    assert all(0.2 < found[f"{m}_cosine"] < 0.8 for m in ("image", "text"))


def test_a_third_modality_is_lost_with_the_member_that_knows_it(world) -> None:
    swap = Swap(candidates="audio")
    found = dict(swap.run(world(items(), objective=Fused(), lookup=reader(0.0, 1.0))))
    assert found == {"r1": 1, "image_r1": 1, "text_r1": 0, "chance": 1 / 23}
    assert list(found) == swap.names(Fused())


def test_nobody_is_swapped_with_a_sample_of_its_own_id(world) -> None:
    """Three texts of each image: two of one image would be no swap."""
    images, texts = torch.randn(8, 16), torch.randn(8, 16).repeat(3, 1)
    data = {"image": (images.repeat(3, 1), list(range(8)) * 3), "text": (texts, list(range(8)) * 3)}
    found = dict(Swap().run(world(data, objective=Fused(), lookup=reader(0.0, 1.0))))
    assert (found["text_kept"], found["text_followed"], found["chance"]) == (0, 1, 1 / 8)


def test_samples_are_limited_by_the_seed(world) -> None:
    data = items()
    made = [dict(Swap(limit=5).run(world(data, objective=Fused(), lookup=reader(1.0, 1.0), seed=s))) for s in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert made[0]["chance"] == 1 / 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "image"}, "has one member"),
        ({"candidates": "text"}, "no term of the objective trains side 'text'"),
    ],
)
def test_what_cannot_be_swapped_is_refused(world, options: dict, message: str) -> None:
    context = world(items(), objective=Fused(), lookup=reader(1.0, 1.0))
    with pytest.raises(ValueError, match=message):
        Swap(**options).check(context.objective, context.data)


def test_one_sample_has_no_other(world) -> None:
    data = {m: (x[:1], [0]) for m, (x, _) in items().items()}
    with pytest.raises(ValueError, match="has one id"):
        dict(Swap().run(world(data, objective=Fused(), lookup=reader(1.0, 1.0))))
