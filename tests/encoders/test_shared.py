"""An encoder that two fields share: one set of weights, kept once, which both train."""

from typing import Any

import pytest
import torch

from workbench.build import Parts, build_optimizer, build_parts
from workbench.errors import RecipeError
from workbench.recipe.schema import parse_recipe
from workbench.types import Side

TOWER = {"name": "open_clip", "config": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}}


def parts(shared: dict[str, Any], **more: Any) -> Parts:
    fields = {"text": {}, "german": {"kind": "text"}, "size": {"kind": "vector", "dim": 3}}
    towers = {"text": TOWER, "german": shared, "size": {"name": "mlp"}}
    return build_parts(
        parse_recipe(
            {
                "name": "shared",
                "data": {"name": "csv", "path": "none.csv", "fields": fields},
                "model": {"dim": 16, "encoders": towers},
                "objective": {"name": "clip"},
                "train": {"for": "1 steps", "batch": 4},
                **more,
            }
        )
    )


def test_both_fields_are_encoded_alike_and_train_the_same_weights_once() -> None:
    built = parts({"name": "shared", "with": "text"})
    ids = torch.stack([built.transforms(train=False)["german"](t) for t in ("a", "b b", "c")])[:, None]
    valid = torch.ones(3, 1, dtype=torch.bool)
    sides = [Side(("text",)), Side(("german",))]
    found = built.model({"text": ids, "german": ids}, {"text": valid, "german": valid}, sides)
    a, b = (found[side].z for side in sides)
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    names = [name for name, _ in built.model.named_parameters()]
    assert not [name for name in names if "german" in name]
    assert not [name for name in built.model.state_dict() if "german" in name]
    assert all(map(built.model.learns, sides))
    weight = torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    (a * weight).sum().backward()
    of_text = [p.grad.clone() for p in built.model.encoders["text"].parameters() if p.grad is not None]
    (b * weight).sum().backward()
    for once, twice in zip(of_text, built.model.encoders["text"].parameters(), strict=True):
        torch.testing.assert_close(twice.grad, 2 * once)
    optimizer = build_optimizer(built)
    counted = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(counted) == len(set(counted))


@pytest.mark.parametrize(
    ("shared", "says"),
    [
        ({"name": "shared", "with": "txt"}, r"model.encoders.german: with: txt has no encoder of its own .*text, size"),
        ({"name": "shared", "with": "german"}, r"german has no encoder of its own"),
        ({"name": "shared", "with": "size"}, r"size is encoded from vector 3, and this field gives text"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(shared: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parts(shared)
