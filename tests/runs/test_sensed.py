"""Sounds, readings and frames from a data class to a trained model that embeds new ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sensed import recipe
from tiny_transformers import make
from transformers import AutoModel

from workbench.build import build_engine, build_parts
from workbench.cli import cli
from workbench.distributed.processes import Parallel
from workbench.recipe.schema import parse_recipe
from workbench.runs.cost import cost
from workbench.runs.deep_check import check_deeply
from workbench.runs.inference import load
from workbench.runs.train import train


def fused(tree: dict[str, Any]) -> dict[str, Any]:
    """ITO of speech and face, whose fusion reads their tokens."""
    encoders = {m: e for m, e in tree["model"]["encoders"].items() if m != "sensor"}
    fusion = {"name": "transformer", "heads": 2, "layers": 1}
    return tree | {
        "data": tree["data"] | {"sounds": 2},
        "objective": "ito",
        "model": {"dim": 16, "encoders": encoders, "fusion": fusion},
    }


@pytest.mark.slow
@pytest.mark.parametrize("ito", [False, True])
def test_a_recipe_checks_costs_trains_resumes_and_evaluates(tmp_path: Path, ito: bool) -> None:
    tree = fused(recipe(tmp_path)) if ito else recipe(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    checked = CliRunner().invoke(cli, ["check", str(path)])
    assert checked.exit_code == 0, checked.output
    assert cost(parse_recipe(tree)).flops_per_sample > 0
    outcome = train(parse_recipe(tree), tmp_path / "run")
    assert outcome.finished
    retrieved = [record for record in outcome.records if any("retrieval" in name for name in record)]
    assert len(retrieved) >= 2
    train(parse_recipe(tree | {"train": tree["train"] | {"for": "4 steps"}}), tmp_path / "run")
    loaded = load(tmp_path / "run")
    data = outcome.parts.data
    items = {m: [data.item(m, 200 + i) for i in range(3)] for m in loaded.modalities}
    rows = loaded.encode(items)
    assert {str(side) for side in rows} == {str(side) for side in loaded.sides}
    assert all(z.shape == (3, 16) for z in rows.values())
    assert ("speech+sensor" in rows) == (not ito)
    inputs = {m: torch.stack([loaded.preprocessors[m](item) for item in items[m]]) for m in items}
    assert all(torch.equal(z, rows[side]) for side, z in loaded.encode(inputs).items())


@pytest.mark.slow
@pytest.mark.parametrize("ito", [False, True])
def test_micro_batches_are_exact(tmp_path: Path, ito: bool) -> None:
    tree = fused(recipe(tmp_path)) if ito else recipe(tmp_path)
    tree["model"]["encoders"]["face"]["dropout"] = 0.0
    tree["model"]["fusion"]["dropout"] = 0.0

    def gradients(microbatch: int | None) -> dict[str, torch.Tensor]:
        parsed = parse_recipe(tree | {"train": tree["train"] | {"microbatch": microbatch}})
        parts = build_parts(parsed)
        engine = build_engine(parts, Parallel())
        engine.gradients(next(iter(engine.batches(0))))
        return {name: p.grad for name, p in parts.model.named_parameters() if p.grad is not None}

    whole, cut = gradients(None), gradients(2)
    assert whole.keys() == cut.keys()
    assert any(name.startswith("encoders.face") for name in whole)
    atol = 1e-5 * max(g.abs().max() for g in whole.values()).item()
    for name, g in whole.items():
        torch.testing.assert_close(cut[name], g, rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_deep_check_finds_nothing(tmp_path: Path) -> None:
    findings = check_deeply(parse_recipe(recipe(tmp_path)))
    assert all(finding.passed for finding in findings), findings


@pytest.mark.slow
def test_a_model_of_transformers_hears_with_layers_that_learn_at_rates_of_their_own(tmp_path: Path) -> None:
    tree = fused(recipe(tmp_path))
    tree["model"]["encoders"]["speech"] = {"name": "transformers", "model": make(tmp_path, "hubert"), "lock": 1}
    tree["model"]["fusion"]["readout"] = "mean"
    tree["train"] |= {"layer_decay": 0.5}
    assert cost(parse_recipe(tree)).frozen["speech"] > 0
    outcome = train(parse_recipe(tree), tmp_path / "run")
    assert outcome.finished
    published = AutoModel.from_pretrained(tmp_path / "hubert").state_dict()
    trained = outcome.parts.model.encoders["speech"].tower.state_dict()
    changed = {name for name, x in trained.items() if not torch.equal(x, published[name])}
    assert changed
    assert all(name.startswith("encoder.layers.2.") for name in changed)
    (tmp_path / "hubert" / "model.safetensors").unlink()  # a checkpoint has all weights
    rows = load(tmp_path / "run").encode({"speech": [(torch.randn(999), 16_000)]})
    assert rows["speech"].shape == (1, 16)
