"""Zero-shot classification against a loop over the items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from workbench.evals import zeroshot
from workbench.evals.zeroshot import ZeroShot
from workbench.recipe.component import schema, validate
from workbench.scoring.embedding import evaluate
from workbench.types import Classes, Side, View


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def lookup(texts):
    """Embeds vectors as they are, and texts by a table."""

    def embed(inputs, sides):
        (name,) = sides
        (raw,) = (inputs[m] for m in Side.parse(name).members)
        z = torch.stack([torch.as_tensor(texts[x] if isinstance(x, str) else x) for x in raw]).float()
        return {name: View(torch.nn.functional.normalize(z, dim=1)[:, None], torch.ones(len(z), 1).bool())}

    return embed


@pytest.mark.parametrize(("num_classes", "n"), [(3, 41), (7, 127)])
def test_equals_brute_force(world, num_classes, n):
    """Ragged prompts times templates, unlabelled items, a class that no item has."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, num_classes - 1, n)  # the last class is absent
    images = rng.normal(size=(n, 5))
    templates = ("{}", "a photo of {}", "{} and {}")[:2]
    prompts = tuple(tuple(f"{c}.{i}" for i in range(1 + c % 3)) for c in range(num_classes))
    table = {t.format(p): rng.normal(size=5) for of_class in prompts for p in of_class for t in templates}
    classes = {"kind": Classes(tuple(map(str, range(num_classes))), prompts)}
    items = {"image": (torch.from_numpy(images), range(n))}
    context = world(items, targets={"kind": labels.tolist()}, classes=classes, lookup=lookup(table))
    got = dict(ZeroShot(label="kind", prompts=templates).run(context))

    means = [np.mean([unit(table[t.format(p)]) for p in of_class for t in templates], 0) for of_class in prompts]
    scores = unit(images[labels >= 0]) @ unit(np.array(means)).T
    truth = labels[labels >= 0]
    hits = scores.argmax(1) == truth
    expected = {
        "accuracy": hits.mean(),
        "balanced_accuracy": np.mean([hits[truth == c].mean() for c in set(truth.tolist())]),
        "chance": 1 / num_classes,
        "majority": max((truth == c).mean() for c in range(num_classes)),
        "unlabelled": (labels < 0).sum(),
    }
    if num_classes > 5:
        expected["top5"] = np.mean([t in np.argsort(-s)[:5] for s, t in zip(scores, truth, strict=True)])
    assert got == pytest.approx(expected, abs=1e-12), seed


def test_classes_are_reported_one_by_one_and_embedded_a_few_at_a_time(world, monkeypatch):
    monkeypatch.setattr(zeroshot, "AT_ONCE", 3)
    classes = {"group": Classes(("a", "b", "c", "d"), (("a",), ("b", "a", "c"), ("c",), ("d",)))}
    table = dict(zip("abcd", torch.eye(4), strict=True))
    items = {"image": (torch.eye(4)[[0, 2, 3, 3]], range(4))}
    context = world(items, targets={"group": [0, 2, 2, 3]}, classes=classes, lookup=lookup(table))
    tables = {}
    dict(evaluate({"key": ZeroShot()}, replace(context, report=tables.__setitem__)))
    assert tables["key"].names == ("a", "b", "c", "d")
    assert tables["key"].columns["recall"].tolist() == [1, 0, 0.5, 1]
    assert tables["key"].columns["precision"].tolist() == [1, 0, 1, 0.5]
    assert tables["key"].pairs.tolist() == [[0, 0, 1], [2, 2, 1], [2, 3, 1], [3, 3, 1]]


def test_several_classes_of_an_item_rank_all_items(world):
    """Average precision by hand: the items of class 0 are at places 1 and 3, that of class 1 at place 2."""
    classes = {"group": Classes(("a", "b", "c"), (("a",), ("b",), ("c",)))}
    table = {"a": torch.tensor([1.0, 0]), "b": torch.tensor([0, 1.0]), "c": torch.tensor([1.0, 1])}
    images = torch.tensor([[1.0, 0.0], [1.0, 0.5], [0.5, 1.0]])
    labels = [[True, False, False], [False, True, False], [True, False, False]]
    context = world({"image": (images, range(3))}, targets={"group": labels}, classes=classes, lookup=lookup(table))
    found = dict(ZeroShot().run(context))
    assert found["mean_average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2 + 0) / 3)
    assert found["absent"] == 1
    assert set(found) <= set(ZeroShot().names(context.objective))


def test_equal_scores_go_to_the_lower_class(world):
    classes = {"group": Classes(("a", "b", "c"), (("same",), ("same",), ("other",)))}
    table = {"same": torch.tensor([1.0, 0]), "other": torch.tensor([0, 1.0])}
    items = {"image": (torch.tensor([[1.0, 0]]).expand(4, 2), range(4))}
    context = world(items, targets={"group": [0, 1, 1, 1]}, classes=classes, lookup=lookup(table))
    got = dict(ZeroShot().run(context))
    assert got == pytest.approx({"accuracy": 0.25, "balanced_accuracy": 0.5, "chance": 1 / 3, "majority": 0.75})


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "{} {c}", "a {name}", "{0}", "}{}", "{{}}"])
def test_templates_that_void_the_number_are_refused(template):
    """A sentence without a place for the class gave every class the same text, and an accuracy."""
    with pytest.raises(ValueError) as found:
        validate("eval", {"name": "zeroshot", "prompts": ["fine: {}", template]})
    assert f"{template!r} needs one place for the name of a class" in str(found.value)


def test_both_ways_of_writing_a_place_are_read(world):
    items = {"image": (torch.eye(3), range(3))}
    classes = {"group": Classes(("a", "b", "c"), (("a",), ("b",), ("c",)))}
    table = {f"a {c}!": torch.eye(3)[i] for i, c in enumerate("bca")}
    context = world(items, targets={"group": [1, 2, 1]}, classes=classes, lookup=lookup(table))
    ways = [validate("eval", {"name": "zeroshot", "prompts": [t]}).build().run(context) for t in ("a {}!", "a {c}!")]
    first, second = map(dict, ways)
    assert first == second
    assert first["accuracy"] == pytest.approx(2 / 3)


def test_a_class_without_a_prompt_is_named(world):
    items = {"image": (torch.eye(2), range(2))}
    classes = {"group": Classes(("a", "b"), (("a",), ()))}
    context = world(items, targets={"group": [0, 0]}, classes=classes, lookup=lookup({"a": torch.eye(2)[0]}))
    with pytest.raises(ValueError, match="class 'b' of 'group' has no prompt"):
        list(ZeroShot().run(context))


def test_refusals(world):
    items = {"image": (torch.eye(2), range(2))}
    classes = {"group": Classes(("a",), (("a",),))}
    with pytest.raises(ValueError, match="no classes named 'kind': it has group"):
        list(ZeroShot(label="kind").run(world(items, targets={"kind": [0, 0]}, classes=classes)))
    with pytest.raises(ValueError, match="no labels of image named 'group': it has none"):
        list(ZeroShot().run(world(items, classes=classes)))
    with pytest.raises(ValueError, match="all are -1"):
        list(ZeroShot().run(world(items, targets={"group": [-1, -1]}, classes=classes)))
    with pytest.raises(ValueError, match="class prompts are of one"):
        list(ZeroShot(text="image+text").run(world(items, targets={"group": [0, 0]}, classes=classes)))


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (["a {}", "none"], r"'none' needs one place for the name of a class, \{\} or \{c\}"),
        ([], r"write a list of sentences with a place for the name of a class"),
        ("a {}", r"write a list of sentences"),
    ],
)
def test_wrong_templates_are_one_message(templates: object, message: str) -> None:
    """A wrong template also left an empty list, of which a second message spoke."""
    with pytest.raises(ValidationError, match=message) as caught:
        schema(ZeroShot).model_validate({"prompts": templates})
    assert caught.value.error_count() == 1
