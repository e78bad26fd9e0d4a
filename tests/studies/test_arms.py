"""The line-up: every task builds with every default objective, each on the modalities that the task has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.build import build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.errors import RecipeError
from workbench.recipe.component import names
from workbench.recipe.schema import Recipe
from workbench.studies import arms
from workbench.training.metrics import Metrics

SMALL = ("data.samples=64", "data.held_out=16", "train.batch=32", "train.for=1 steps", "eval.every=2 steps")
VECTORS = ("xor", "xor-flip", "parity", "hub", "m3-lite", "missing", "redundancy", "latent-synergy", "and")


def engine_of(task: str, objective: str, *overrides: str) -> Any:
    recipe = arms.recipe_of({"name": task}, objective, 0, (*SMALL, "eval.synthetic.batches=2", *overrides))
    parts = build_parts(recipe)
    return parts, build_engine(parts, Parallel(), Metrics(None))


@pytest.mark.slow
@pytest.mark.parametrize("task", names("task"))
def test_every_task_has_a_recipe_of_each_default_objective(task: str) -> None:
    for objective in arms.choose_default(task):
        recipe = arms.recipe_of({"name": task}, objective, 1, ("train.for=3 epochs",))
        built = recipe.data.settings.task.build()
        assert tuple(recipe.model.encoders) == built.modalities
        assert recipe.seed == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", VECTORS)
def test_a_step_and_its_evaluation(task: str) -> None:
    parts, engine = engine_of(task, arms.choose_default(task)[-1])
    engine.fit()
    facts = dict(parts.evaluate(engine.parallel.device))
    assert 0 <= facts["synthetic/accuracy"] <= 1
    assert facts["synthetic/floor"] <= facts["synthetic/no_information_loss"] + 1e-9
    assert facts["synthetic/loss"] > facts["synthetic/floor"] - 4 * facts["synthetic/loss_se"] - 1e-3


def test_tasks_are_named_as_in_the_literature() -> None:
    assert {"and", "latent-synergy", "m3-lite", "xor-flip"} <= set(names("task"))
    assert not any("_" in name for name in names("task"))
    assert arms.recipe_of({"name": "and"}, "clip", 0).as_dict()["data"]["task"] == {"name": "and", "bits": 1}


def test_two_modalities_leave_out_what_needs_three() -> None:
    assert arms.choose_default("xor") == arms.DEFAULT
    assert arms.choose_default("latent-synergy") == ("clip", "siglip")
    with pytest.raises(RecipeError, match="symile needs three modalities"):
        build_parts(arms.recipe_of({"name": "latent-synergy"}, "symile", 0))


def test_the_number_of_modalities_can_be_set() -> None:
    recipe = arms.recipe_of({"name": "parity"}, "confu", 0, ("data.task.modalities=5", "model.encoders.e.width=8"))
    assert tuple(recipe.model.encoders) == ("a", "b", "c", "d", "e")
    assert recipe.model.encoders["e"].settings.width == 8  # type: ignore[attr-defined]
    assert len(build_parts(recipe).objective.terms) == 10 + 10 * 3


def test_pictures_and_words_get_towers_and_their_budget() -> None:
    recipe = arms.recipe_of({"name": "image-text-xor"}, "symile", 0)
    kinds = {m: encoder.name for m, encoder in recipe.model.encoders.items()}
    assert kinds == {"image": "open_clip", "text": "open_clip", "sum": "mlp"}
    assert recipe.train.lr == 1e-3
    scales = {o: arms.recipe_of({"name": "image-text-xor"}, o, 0).objective.settings.scale for o in ("confu", "symile")}
    assert {objective: scale.init for objective, scale in scales.items()} == {"confu": 4.0, "symile": 10.0}  # type: ignore[attr-defined]
    assert arms.recipe_of({"name": "xor"}, "symile", 0).train.lr == 0.03


def test_samples_lack_modalities_as_the_task_says() -> None:
    _, engine = engine_of("hub", "clip")
    batch = next(engine.batches(0))
    there = {m: valid[:, 0] for m, valid in batch.valid.items()}
    assert there["image"].all()
    assert torch.equal(there["text"], ~there["audio"])
    assert 4 < there["text"].sum() < 28
    for m, valid in there.items():
        assert torch.equal(batch.inputs[m][:, 0].abs().sum(1) > 0, valid), "what is missing is not shown"
    again = next(engine.batches(0))
    assert all(torch.equal(batch.valid[m], again.valid[m]) for m in there)


def test_a_batch_of_pictures_and_words() -> None:
    parts = build_parts(arms.recipe_of({"name": "missing"}, "clip", 0, (*SMALL, "data.task.of=image-text-xor")))
    batch = next(build_engine(parts, Parallel(), Metrics(None)).batches(0))
    assert batch.inputs["image"].shape == (32, 1, 3, 32, 32)
    assert batch.inputs["text"].dtype == torch.int64
    assert not all(valid.all() for valid in batch.valid.values())
    validation = parts.data.split("validation")
    assert validation.items["image"].raw[0].size == (32, 32)
    assert isinstance(validation.items["text"].raw[0], str)


def test_a_name_may_have_options_and_a_recipe_of_ones_own_may_stand_in_the_line_up(tmp_path: Path) -> None:
    def of(objective: str, *overrides: str) -> Recipe:
        return arms.recipe_of({"name": "xor"}, objective, 2, overrides)

    plain, other = of("confu"), of("confu lambda=0.25, scale={init: 4, learn: true} model.fusion=deep_set")
    assert other.objective.settings.lambda_ == 0.25  # type: ignore[attr-defined]
    assert other.objective.settings.scale.init == 4  # type: ignore[attr-defined]
    assert (plain.model.fusion.name, other.model.fusion.name) == ("mlp", "deep_set")  # type: ignore[union-attr]
    assert other.model.encoders == plain.model.encoders
    assert other.train == plain.train
    assert of("confu train.lr=0.5", "train.lr=0.25").train.lr == 0.25
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndata: emoji\nmodel: {dim: 16, encoders: {image: open_clip}, fusion: {name: mlp, hidden: 8}}\n"
        "objective: {name: confu, lambda: 0.125}\ntrain: {for: 3 steps, batch: 64}\neval: {gap: {}}\n"
    )
    mine = of(f"{tmp_path}/mine.yaml lambda=0.75")
    assert (mine.model.dim, mine.train.batch, mine.seed, mine.data.name) == (16, 64, 2, "synthetic")
    assert (mine.objective.name, mine.objective.settings.lambda_) == ("confu", 0.75)  # type: ignore[attr-defined]
    assert (list(mine.model.encoders), list(mine.eval.evaluators)) == (["a", "b", "c"], ["synthetic"])
    with pytest.raises(RecipeError, match=r"--objective 'confu lamda=0': objective.lamda: .*did you mean 'lambda'"):
        of("confu lamda=0")
    with pytest.raises(RecipeError, match="no such recipe"):
        of("none.yaml")
