"""What a recipe says of the optimizer reaches the optimizer."""

import pytest
from small_engines import built


def test_every_group_has_what_the_recipe_says() -> None:
    settings = {"betas": [0.81, 0.93], "eps": 3e-7, "weight_decay": 0.37, "lr": 0.02, "warmup": "4 steps"}
    parts, engine = built("confu", **settings)
    groups = engine.optimizer.param_groups
    assert {(group["betas"], group["eps"]) for group in groups} == {((0.81, 0.93), 3e-7)}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for p in [*parts.model.parameters(), *parts.objective.parameters()]:
        if p.requires_grad:
            assert decay[id(p)] == (0.37 if p.ndim >= 2 else 0.0)
    engine.fit()
    rates = [record["train/lr"] for record in engine.metrics.records]
    assert rates[:4] == pytest.approx([0.005, 0.01, 0.015, 0.02])
    assert rates[-1] < 0.005
