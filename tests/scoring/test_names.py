"""What evaluators say that they yield is what they yield, and a misspelt eval.best is found before training."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from several import TOWERS

from workbench.build import build_parts
from workbench.recipe.schema import RecipeError, load_recipe, parse_recipe
from workbench.runs.cost import assemble
from workbench.scoring.names import NamesMetrics
from workbench.studies import arms
from workbench.training.metrics import Criterion


def yielded_and_named(recipe: Any) -> tuple[set[str], set[str]]:
    parts = build_parts(recipe)
    named = set()
    for key, spec in recipe.eval.evaluators.items():
        evaluator = spec.build()
        assert isinstance(evaluator, NamesMetrics)
        named |= {f"{key}/{name}" for name in evaluator.names(parts.objective)}

    return {name for name, _ in parts.evaluate(torch.device("cpu"))}, named


@pytest.mark.parametrize("objective", ["clip", "confu", "symile", "hub"])
def test_of_a_synthetic_task(objective: str) -> None:
    more = ("eval.synthetic.batches=2", "eval.synthetic.samples=64")
    found, named = yielded_and_named(arms.recipe_of({"name": "xor"}, objective, 0, more))
    assert named - {"synthetic/floor", "synthetic/no_information_loss", "synthetic/recovered"} <= found <= named


@pytest.mark.slow
@pytest.mark.parametrize(
    "evaluators",
    [
        {"retrieval": {"k": [1, 7]}, "gap": {}},
        {"retrieval": {"query": "text", "candidates": "image", "both_ways": False}},
        {"zeroshot": {}, "retrieval": {"together": [1]}},
        {"probe": {"limit": 60, "split": "test"}, "few": {"name": "probe", "on": ["image", ["image", "text"]]}},
    ],
)
def test_of_pictures_and_texts(evaluators: dict[str, Any]) -> None:
    found, named = yielded_and_named(parse_recipe({**yaml.safe_load(TOWERS), "eval": evaluators}))
    of_other_labels = ("top5", "_f1", "mae", "r2", "spearman", "mean_average_precision", "absent")
    where_any_is_left_out = ("left_out", "unpaired", "unlabelled")
    sure = {name for name in named if not name.endswith((*of_other_labels, *where_any_is_left_out))}
    assert sure <= found <= named


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ("synthetic/acuracy", r"did you mean 'synthetic/accuracy'\?"),
        ("min synthetic/los", r"no metric 'synthetic/los' .*did you mean 'synthetic/loss'"),
        ("retrieval/mean_recall", r"no evaluator 'retrieval' \(known: synthetic\)"),
        ("accuracy", r"no evaluator 'accuracy' \(known: synthetic\)"),
    ],
)
def test_a_misspelt_one_is_refused_by_the_check(best: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        assemble(load_recipe("synth/clip", (f"eval.best={best}", "eval.start=false")))
    assemble(load_recipe("synth/clip", ("eval.best=min synthetic/loss",)))


def test_an_evaluator_of_ones_own_need_not_say_its_names(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Own:\n    def run(self, context):\n        yield 'x', 1.0\n")
    assemble(load_recipe("synth/clip", (f"eval.own={tmp_path}/own.py:Own", "eval.best=own/whatever")))


@pytest.mark.parametrize(
    ("text", "less"),
    [
        ("retrieval/image_to_text_median_rank", True),
        ("synthetic/loss", True),
        ("gap/l2m", True),
        ("gap/uniformity_image", True),
        ("retrieval/mean_recall", False),
        ("zeroshot/accuracy", False),
        ("loss/accuracy", False),
        ("min own/seconds", True),
        ("max synthetic/loss", False),
    ],
)
def test_the_name_of_a_metric_tells_its_direction(text: str, less: bool) -> None:
    assert Criterion.parse(text).less == less
