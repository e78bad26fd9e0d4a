"""What a recipe says of the optimizer reaches the optimizer, which is torch's."""

import pytest
import torch
from small_engines import built

from workbench.training.optim import AdamW


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


@pytest.mark.slow  # it imports what this saves
@pytest.mark.parametrize("first", [AdamW, torch.optim.AdamW])  # torch hooks a class's step when it is first made
def test_it_updates_as_torch_does_bit_for_bit(first: type[torch.optim.AdamW]) -> None:
    draw = torch.Generator().manual_seed(0)
    starts = [torch.randn(size, generator=draw) for size in ((5, 3), (3,))]
    found = {}
    other = {AdamW: torch.optim.AdamW, torch.optim.AdamW: AdamW}[first]
    for kind in (first, other):
        weights = [start.clone().requires_grad_() for start in starts]
        groups = [{"params": weights[:1], "weight_decay": 0.3}, {"params": weights[1:], "weight_decay": 0.0}]
        optimizer, seen = kind(groups, lr=0.1, betas=(0.7, 0.9), eps=1e-3, fused=True), []
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("step"))
        for _ in range(3):
            sum(((w * w).sum() for w in weights), torch.zeros(())).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert seen == ["step"] * 3
        assert all(w.grad is None for w in weights)
        found[kind] = weights + [moment for w in weights for moment in optimizer.state[w].values()]
    assert all(torch.equal(one, other) for one, other in zip(*found.values(), strict=True))
