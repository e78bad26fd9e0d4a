"""Probes on sets whose answer is known, and against logistic regressions written out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss

from workbench.evals._readouts import STRENGTHS, SeveralClasses
from workbench.evals.probe import Probe
from workbench.objectives.clip import CLIP
from workbench.objectives.confu import ConFu
from workbench.recipe.component import validate
from workbench.types import Context, Items, Side, Split, View

pytestmark = pytest.mark.slow

Rows = dict[str, tuple[np.ndarray, Any, Any]]
"""{modality: (vectors, ids, labels)}"""
LINE = 0.91
"""a line is right on three of XOR's four clusters at most: .75, and five standard errors of 200 samples"""


def context(splits: dict[str, Rows], objective: Any, *, seed: int = 0, label: str = "group") -> Context:
    """Plain sides are the vectors themselves, fused ones their members' product; remembers how many rows it embeds."""

    def split(name: str) -> Split:
        items = {
            m: Items(torch.as_tensor(x), torch.as_tensor(ids), {label: torch.as_tensor(labels)})
            for m, (x, ids, labels) in splits[name].items()
        }
        return Split(items)

    def embed(inputs, sides):
        views = {}
        for name in sides:
            rows = [torch.stack([torch.as_tensor(x) for x in inputs[m]]).float() for m in Side.parse(name).members]
            z = torch.stack(rows).prod(0)[:, None]
            embedded.append((name, len(z)))
            views[name] = View(z, torch.ones(z.shape[:2], dtype=torch.bool))
        return views

    embedded: list[tuple[str, int]] = []
    data: Any = SimpleNamespace(split=split, embedded=embedded)
    return Context(embed, objective, data, batch=8, seed=seed)


def three(make) -> dict[str, Rows]:
    return {name: make() for name in ("train", "validation", "test")}


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_separable_set_is_solved(kind):
    """Three classes, three units apart at noise .1; the last class is rare."""
    rng = np.random.default_rng()

    def make() -> Rows:
        labels = rng.permutation(np.repeat([0, 1, 2], [30, 25, 5]))
        x = 3 * np.eye(4)[labels] + 0.1 * rng.normal(size=(60, 4))
        return {"image": (x, range(60), labels)}

    splits = three(make)
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    got = dict(Probe(kind=kind, on=("single",)).run(context(splits, objective)))
    assert got == pytest.approx({"chance": 1 / 3, "majority": 1 / 2, "image/accuracy": 1, "image/balanced_accuracy": 1})


def test_random_labels_leave_chance():
    rng = np.random.default_rng()
    splits = three(lambda: {"image": (rng.normal(size=(1000, 5)), range(1000), rng.integers(0, 4, 1000))})
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    got = dict(Probe(on=("image",)).run(context(splits, objective)))
    assert got["chance"] == 0.25
    for name in ("image/accuracy", "image/balanced_accuracy"):
        assert got[name] == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 1000) ** 0.5)


@pytest.fixture(scope="module")
def xor() -> dict[str, Rows]:
    """Signs a, b and the label whether they agree: neither tells it, nor does a linear function of both; a b does."""
    rng = np.random.default_rng()

    def make() -> Rows:
        a, b, c = rng.choice([-1.0, 1.0], (3, 200, 1))
        label = (a == b)[:, 0].astype(int)
        return {
            m: (x + 0.05 * rng.normal(size=x.shape), range(200), label) for m, x in zip("abc", (a, b, c), strict=True)
        }

    return three(make)


def test_a_fused_side_tells_what_no_single_one_does(xor):
    got = dict(Probe().run(context(xor, ConFu(("a", "b", "c")))))
    inputs = ["a", "b", "c", "a+b", "a+c", "b+c", "concatenated_single", "concatenated_all"]
    assert list(got) == ["chance", "majority"] + [f"{x}/{y}" for x in inputs for y in ("accuracy", "balanced_accuracy")]
    solved = {x for x in inputs if got[f"{x}/accuracy"] > 0.96}
    assert solved == {"a+b", "concatenated_all"}
    assert all(got[f"{x}/accuracy"] < LINE for x in inputs if x not in solved)


def test_an_mlp_tells_what_a_linear_probe_cannot(xor):
    """No fused side where the objective trains none: `fused` stands for nothing."""
    found = {
        kind: dict(Probe(kind=kind, on=("fused", ("a", "b"))).run(context(xor, CLIP(("a", "b", "c")))))
        for kind in ("linear", "mlp")
    }
    assert set(found["mlp"]) == {"chance", "majority", "a|b/accuracy", "a|b/balanced_accuracy"}
    assert found["mlp"]["a|b/accuracy"] > 0.99
    assert found["linear"]["a|b/accuracy"] < LINE


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_the_strength_is_that_of_the_validation_split(noise):
    """Standardised, chosen and fitted again by hand; noise dimensions make a strong penalty worth its while."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)

    def make() -> Rows:
        labels = rng.integers(0, 3, 41)
        x = np.concatenate([np.eye(3)[labels], rng.normal(size=(41, 20))], 1) + noise * rng.normal(size=(41, 23))
        return {"image": (np.float32(5 * x + 2), range(41), labels)}

    splits = three(make)
    (x, _, y), (x_val, _, y_val), (x_test, _, y_test) = (splits[s]["image"] for s in ("train", "validation", "test"))

    def fitted(x, y, strength):
        x = x.astype(np.float64)
        mean, std = x.mean(0), x.std(0)
        model = LogisticRegression(C=1 / strength, max_iter=1000).fit((x - mean) / std, y)
        return lambda new: model.predict_proba((new.astype(np.float64) - mean) / std)

    def merit(strength):
        p = fitted(x, y, strength)(x_val)
        return (p.argmax(1) == y_val).mean(), -log_loss(y_val, p, labels=[0, 1, 2])

    strength = max(STRENGTHS["linear"], key=merit)
    p = fitted(np.concatenate([x, x_val]), np.concatenate([y, y_val]), strength)(x_test)
    hits = p.argmax(1) == y_test
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    got = dict(Probe(on=("image",)).run(context(splits, objective)))
    assert got["image/accuracy"] == pytest.approx(hits.mean()), seed
    balanced = [hits[y_test == c].mean() for c in np.unique(y_test)]
    assert got["image/balanced_accuracy"] == pytest.approx(np.mean(balanced)), seed


def f1(found: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Weighted and macro F1 by counts: 2 tp / (2 tp + fp + fn) of each class."""
    tp, wrong = (found & labels).sum(0), (found ^ labels).sum(0)
    of_each = 2 * tp / np.maximum(2 * tp + wrong, 1)
    return float(of_each @ labels.sum(0) / labels.sum()), float(of_each.mean())


def several(rng: np.random.Generator, n: int, noise: float) -> Rows:
    """Four classes, common and rare, each an axis of six; some samples have none, and the last class all have."""
    labels = rng.random((n, 4)) < [0.6, 0.3, 0.12, 1.0]
    x = np.concatenate([labels[:, :3], np.zeros((n, 3))], 1) + noise * rng.normal(size=(n, 6))
    return {"image": (np.float32(3 * x - 1), range(n), labels)}


@pytest.mark.parametrize("noise", [0.4, 1.5])
def test_several_classes_are_probed_one_by_one(noise):
    """Standardised, a logistic regression a class, the strength by weighted F1; all of it written out by hand."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    splits = three(lambda: several(rng, 90, noise))
    (x, _, y), (x_val, _, y_val), (x_test, _, y_test) = (splits[s]["image"] for s in ("train", "validation", "test"))

    def fitted(x, y, strength):
        x = x.astype(np.float64)
        mean, std = x.mean(0), x.std(0)
        models = [LogisticRegression(C=1 / strength, max_iter=1000).fit((x - mean) / std, y[:, c]) for c in range(3)]

        def predict(new):
            z = (new.astype(np.float64) - mean) / std
            return np.stack([*(m.predict_proba(z)[:, 1] for m in models), np.ones(len(z))], 1)

        return predict

    def merit(strength):
        p = fitted(x, y, strength)(x_val)
        return f1(p > 0.5, y_val)[0], np.log(np.where(y_val, p, 1 - p)).mean()

    strength = max(STRENGTHS["linear"], key=merit)
    p = fitted(np.concatenate([x, x_val]), np.concatenate([y, y_val]), strength)(x_test)
    weighted, macro = f1(p > 0.5, y_test)
    always = f1(np.ones_like(y_test), y_test)
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    got = dict(Probe(on=("image",)).run(context(splits, objective)))
    assert got == pytest.approx(
        {
            "always_weighted_f1": always[0],
            "always_macro_f1": always[1],
            "image/weighted_f1": weighted,
            "image/macro_f1": macro,
        }
    ), seed


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_several_separable_classes_are_told(kind):
    rng = np.random.default_rng()
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    got = dict(Probe(kind=kind, on=("single",)).run(context(three(lambda: several(rng, 150, 0.05)), objective)))
    assert got["image/weighted_f1"] == got["image/macro_f1"] == 1
    assert set(got) < set(Probe(kind=kind, on=("single",)).names(objective))  # type: ignore[arg-type]


def test_several_classes_that_leave_nothing_to_tell_are_refused():
    rng = np.random.default_rng()
    rows = several(rng, 60, 1.0)
    x, ids, labels = rows["image"]
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    for wrong, said in (
        (labels[:, :1], "has one class"),
        (labels[:, [3, 3]], "label 'group' of split 'train' has no class that some"),
    ):
        with pytest.raises(ValueError, match=said):
            dict(Probe().run(context(three(lambda wrong=wrong: {"image": (x, ids, wrong)}), objective)))
    with pytest.raises(ValueError, match="shots are samples of one class"):
        dict(Probe(shots=3).run(context(three(lambda: rows), objective)))


def test_a_strong_penalty_that_is_barely_right_is_not_chosen():
    """On balanced training labels every strength is right; fitted again on unbalanced ones, the strongest says the
    majority."""

    def rows(ones: int, zeros: int) -> Rows:
        labels = np.repeat([1, 0], [ones, zeros])
        return {"image": (2.0 * labels[:, None] - 1, range(ones + zeros), labels)}

    splits = {"train": rows(100, 100), "validation": rows(40, 160), "test": rows(100, 100)}
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    assert dict(Probe(on=("image",)).run(context(splits, objective)))["image/accuracy"] == 1


def test_limits_and_shots_are_drawn_by_the_seed():
    rng = np.random.default_rng()
    labels = np.repeat([0, 1, 2, -1], [150, 40, 10, 100])
    splits = three(lambda: {"image": (rng.normal(size=(300, 3)) + labels[:, None], range(300), labels)})
    objective = SimpleNamespace(all_sides=[Side(("image",))])

    def rows(seed: int = 0, **options: Any) -> tuple[dict[str, float], list[int]]:
        world = context(splits, objective, seed=seed)
        got = dict(Probe(on=("image",), **options).run(world))
        return got, [n for _, n in world.data.embedded]  # type: ignore[attr-defined]

    assert rows()[1] == [200, 200, 200], "items labelled -1 are left out"
    assert rows(limit=70)[1] == [70, 70, 70]
    assert rows(shots=20, limit=150)[1] == [20 + 20 + 10, 150, 150]
    assert rows(seed=3, limit=70) == rows(seed=3, limit=70) != rows(seed=4, limit=70)
    assert rows(seed=3, limit=15, kind="mlp") == rows(seed=3, limit=15, kind="mlp")


def test_samples_are_joined_by_id():
    """Each image with the first text of its id: here the second texts are misleading."""
    rng = np.random.default_rng()
    labels = rng.integers(0, 2, 60)
    texts = np.repeat(2.0 * labels[:, None] - 1, 2, 0) * np.tile([[1.0], [-1.0]], (60, 1))
    rows = {
        "image": (rng.normal(size=(61, 1)), [*range(60), 99], np.append(labels, 0)),
        "text": (texts, np.repeat(np.arange(60), 2), np.repeat(labels, 2)),
    }
    world = context(three(lambda: rows), CLIP(("image", "text")))
    got = dict(Probe(on=(("image", "text"),)).run(world))
    assert got["image|text/accuracy"] == 1
    assert {n for _, n in world.data.embedded} == {60}  # type: ignore[attr-defined]


def test_refusals():
    rows = {"image": (np.eye(3), range(3), [0, 0, 0])}
    objective = SimpleNamespace(all_sides=[Side(("image",))])
    with pytest.raises(ValueError, match="no label 'kind' of image: it has group"):
        list(Probe(label="kind").run(context(three(lambda: rows), objective)))
    with pytest.raises(ValueError, match="one class"):
        list(Probe().run(context(three(lambda: rows), objective)))
    with pytest.raises(ValueError, match="no side for on="):
        list(Probe(on=("fused",)).run(context(three(lambda: rows), objective)))
    unlabelled = {"image": (np.eye(3), range(3), [-1, -1, -1])}
    with pytest.raises(ValueError, match="all are -1"):
        list(Probe().run(context(three(lambda: unlabelled), objective)))


@pytest.mark.parametrize(
    "splits", [{"train": "test"}, {"validation": "test"}, {"train": "validation"}, {"split": "train"}]
)
def test_a_split_that_would_be_used_twice_is_refused(splits):
    """Fitted and reported on the same items, a probe reads out its own memory."""
    with pytest.raises(ValueError, match=r"are both '\w+'.* different splits"):
        validate("eval", {"name": "probe", **splits}).build()


def test_the_recipe_reads_its_arguments():
    spec = validate("eval", {"name": "probe", "kind": "mlp", "on": ["single", ["image", "text"]], "shots": 5})
    assert spec.build() == Probe(kind="mlp", on=("single", ("image", "text")), shots=5)
    with pytest.raises(ValueError, match="kind"):
        validate("eval", {"name": "probe", "kind": "tree"})


def test_of_several_classes_the_strength_is_that_of_the_best_weighted_f1():
    """One classifier is right of the common class, the other of the rare one: the plain mean would take the other."""
    labels = np.array([[True, n == 0] for n in range(9)] + [[False, True]])

    class Says:
        def __init__(self, common, rare, sure=0.8):
            self.found, self.sure = np.stack([common, rare], axis=1), sure

        def predict(self, x):
            return self.found

        def predict_proba(self, x):
            return self.found * self.sure + (1 - self.sure) / 2

    common, rare = Says(labels[:, 0], ~labels[:, 1]), Says(np.arange(10) < 4, labels[:, 1])
    weighted, macro = (
        [f1_score(labels, c.found, average=average, zero_division=0) for c in (common, rare)]
        for average in ("weighted", "macro")
    )
    assert weighted[0] > weighted[1]
    assert macro[0] < macro[1]
    merit: Any = SeveralClasses().merit
    assert merit(common, np.zeros((10, 1)), labels) > merit(rare, np.zeros((10, 1)), labels)
    surer = Says(labels[:, 0], labels[:, 1], sure=0.9)
    assert merit(surer, np.zeros((10, 1)), labels) > merit(Says(*labels.T), np.zeros((10, 1)), labels)
