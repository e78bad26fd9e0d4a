"""An evaluation sees the model without dropout, and training goes on as if there had been none."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from small_engines import MODEL, built, weights
from torch import Tensor, nn

from workbench.build import Parts
from workbench.callbacks.evaluation import Evaluation
from workbench.scoring.embedding import Embedder, evaluate
from workbench.scoring.examples import Examples
from workbench.types import Context, Items, Objective, Side, Split

MASKED = MODEL | {"encoders": {m: {"name": "mlp", "width": 16, "depth": 2, "dropout": 0.4} for m in "abc"}}
SIDES = ["a", "b", "a+b"]
CPU = torch.device("cpu")


def embed(parts: Parts, n: int = 9) -> dict[str, Tensor]:
    inputs = {m: torch.randn(n, 3, generator=torch.Generator().manual_seed(i)) for i, m in enumerate("abc")}
    return {side: view.z for side, view in parts.context(CPU).embed(inputs, SIDES).items()}


@pytest.mark.parametrize("training", [True, False])
def test_embeddings_have_no_dropout_and_leave_the_mode_as_it_was(training: bool) -> None:
    parts, _ = built(model=MASKED)
    parts.model.train(training)
    once, again = embed(parts), embed(parts)
    assert {module.training for module in parts.model.modules()} == {training}
    parts.model.eval()
    inputs = {m: torch.randn(9, 3, generator=torch.Generator().manual_seed(i))[:, None] for i, m in enumerate("abc")}
    with torch.no_grad():
        plain = parts.model(inputs, dict.fromkeys("abc", torch.ones(9, 1, dtype=torch.bool)), SIDES)
    for side in SIDES:
        assert torch.equal(once[side], again[side])
        torch.testing.assert_close(once[side], plain[side].z)


def test_the_mode_is_restored_after_an_error() -> None:
    parts, _ = built(model=MASKED)
    parts.model.train()
    parts.model.encoders["b"].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(parts)
    assert parts.model.training


@pytest.mark.slow
def test_training_goes_on_as_if_nothing_had_been_evaluated() -> None:
    """The mode, the dropout and the weights of every step are those of a run without evaluations."""
    runs: list[tuple[list[float], dict[str, Tensor]]] = []
    for every in (99, 1):
        parts, engine = built(model=MASKED, microbatch=8)

        def facts(p: Parts = parts) -> Any:
            yield "norm", float(sum(z.sum() for z in embed(p).values()))

        engine.callbacks.append(Evaluation(facts, every, None))
        modes: list[bool] = []
        dropout = next(m for m in parts.model.encoders["a"].modules() if isinstance(m, nn.Dropout))
        engine.objective.register_forward_hook(lambda *_, d=dropout, seen=modes: seen.append(d.training))
        engine.fit()
        assert modes == [True] * 12
        values = [record["train/loss"] for record in engine.metrics.records if "train/loss" in record]
        runs.append((values, weights(parts)))
    (seldom, mine), (often, theirs) = runs
    assert seldom == often
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_an_embedding_that_is_no_number_is_named() -> None:
    parts, _ = built(model=MASKED)
    inputs = {m: torch.ones(5, 3) for m in "abc"}
    inputs["b"][3] = torch.inf
    there = {m: torch.ones(5, dtype=torch.bool) for m in "abc"}
    with pytest.raises(ValueError, match=r"side 'b': the embedding of item 3 is no number .* 1 of 5\): that item"):
        parts.context(CPU).embed(inputs, SIDES, there)
    there["b"][3] = False
    views = parts.context(CPU).embed(inputs, ["a", "b"], there)
    assert views["a"].z.isfinite().all(), "what is not there may hold anything"
    nn.init.constant_(next(iter(parts.model.encoders["a"].parameters())), torch.inf)
    with pytest.raises(ValueError, match=r"side 'a': .* 5 of 5\): the weights hold"):
        parts.context(CPU).embed(inputs, SIDES, there)


def test_every_batch_of_items_has_its_own_rows_and_validity() -> None:
    parts, _ = built(model=MASKED)
    x = {m: torch.randn(11, 3) for m in "ab"}
    there = {"a": torch.arange(11) % 3 > 0, "b": torch.arange(11) % 2 > 0}
    transforms = parts.transforms(train=False)
    small, large = (Embedder(parts.model, transforms, CPU, batch)(x, SIDES, there) for batch in (4, 99))
    parts.model.eval()
    with torch.no_grad():
        plain = parts.model({m: t[:, None] for m, t in x.items()}, {m: t[:, None] for m, t in there.items()}, SIDES)
    for side in SIDES:
        for found in (small[side], large[side]):
            assert torch.equal(found.valid, plain[side].valid)
            torch.testing.assert_close(found.z, plain[side].z)


def test_items_are_prepared_as_for_an_evaluation() -> None:
    """The transform of training adds noise here."""
    noisy = MODEL | {"encoders": {m: {"name": "mlp", "noise": 0.5} for m in "abc"}}
    parts, _ = built(model=noisy)
    items = {m: [[float(i), 1.0, -1.0] for i in range(5)] for m in "abc"}
    found = parts.context(CPU).embed(items, SIDES)
    ready = parts.context(CPU).embed({m: torch.tensor(x) for m, x in items.items()}, SIDES)
    assert all(torch.equal(found[side].z, ready[side].z) for side in SIDES)


def test_examples_of_a_fused_side_keep_the_labels_of_the_items_that_they_are_made_of() -> None:
    ids, labels = torch.tensor([3, 1, 7, 1]), {"kind": torch.tensor([30, 10, 70, 11])}
    a = Items(torch.arange(4.0), ids, labels)
    b = Items(torch.arange(3.0), torch.tensor([1, 3, 3]), {"kind": torch.tensor([-1, -1, -1])})
    found = Examples.of(Split({"a": a, "b": b}), Side.parse("a+b"))
    assert found.ids.tolist() == [3, 1, 1]
    assert found.targets["kind"].tolist() == [30, 10, 11]
    assert [float(found.raw["a"][i]) for i in range(3)] == [0, 1, 3]
    assert [float(found.raw["b"][i]) for i in range(3)] == [1, 0, 0]


class Yields:
    def __init__(self, *facts: object) -> None:
        self.facts = facts

    def run(self, context: object) -> Any:
        return iter(self.facts)


class ForgetsToYield:
    def run(self, context: object) -> Any: ...


NOTHING = Context(cast(Any, None), Objective(), cast(Any, None), 1, 0)


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [
        (Yields(("a", "text")), r"eval\.own yields \('a', 'text'\): a fact is a pair of a name and a number"),
        (Yields(("a", torch.ones(2))), r"eval\.own yields \('a', tensor.*: a fact is a pair"),
        (Yields(("a", None)), r"a fact is a pair"),
        (Yields(1.5), r"eval\.own yields 1\.5: a fact is a pair"),
        (Yields(("a", 1.0), ("b", 2), ("a", 3.0)), r"eval\.own yields 'own/a' again"),
        (ForgetsToYield(), r"eval\.own yields nothing: its `run` has no `yield`"),
    ],
)
def test_what_is_no_fact_is_refused_with_the_evaluators_key(evaluator: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(evaluate({"own": evaluator}, context=NOTHING))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"eval\.a/b yields 'a/b/c' again"):
        list(evaluate({"a": Yields(("b/c", 1.0)), "a/b": Yields(("c", 2.0))}, context=NOTHING))  # type: ignore[arg-type]
    good = {"own": Yields(("a", torch.tensor(1.5)), ("b", np.float32(2))), "too": Yields(("a", 3))}
    assert dict(evaluate(good, context=NOTHING)) == {"own/a": 1.5, "own/b": 2.0, "too/a": 3.0}  # type: ignore[arg-type]
