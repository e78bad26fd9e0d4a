"""Compositional pairs and Winoground against loops by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workbench.evals.compositional import Compositional
from workbench.evals.winoground import Winoground, scores
from workbench.scoring.within_samples import BLOCK
from workbench.types import Context, Items, Modality, Objective, Side, Split, View


class Plain(Objective):
    """Cosines of image and text."""

    def __init__(self) -> None:
        super().__init__()
        self.all_sides = [Side(("image",)), Side(("text",))]


def context(table: dict[str, Any], fields: dict[str, list[tuple[str, int]]]) -> Context:
    """A split whose items are keys of a table of vectors: {field: [(key, sample), ...]}; ids are all alike."""

    def embed(inputs, sides):
        (side,) = sides
        z = torch.stack([torch.as_tensor(table[key]) for key in inputs[side.members[0]]]).float()
        return {side: View(F.normalize(z, dim=1)[:, None], torch.ones(len(z), 1).bool())}

    items = {
        name: Items([key for key, _ in rows], torch.zeros(len(rows)).long(), {}, torch.tensor([s for _, s in rows]))
        for name, rows in fields.items()
    }
    kinds = {name: Modality("image" if name.startswith("image") else "text") for name in fields}
    data: Any = SimpleNamespace(modalities=kinds, split=lambda name: Split(items))
    return Context(embed, Plain(), data, batch=8, seed=0)


def vectors(rng, names):
    return {name: rng.normal(size=4) for name in names}


def cosine(a, b):
    return float(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


def test_captions_beat_all_negatives_of_their_own_sample() -> None:
    """Ragged captions and negatives, gaps in every field, more pairs than a block has."""
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    there = {name: rng.random(90) < 0.9 for name in ("image", "text", "negative", "other")}
    fields: dict[str, list[tuple[str, int]]] = {name: [] for name in there}
    for sample in rng.permutation(90).tolist():
        for name, known in there.items():
            number = 1 if name in ("image", "other") else rng.integers(1, 4)
            fields[name] += [(f"{name}{sample}.{i}", sample) for i in range(number) if known[sample]]
    table = vectors(rng, [key for rows in fields.values() for key, _ in rows])
    got = dict(Compositional(negative=("negative", "other")).run(context(table, fields)))

    right, chances, complete = [], [], set()
    images = {sample: key for key, sample in fields["image"]}
    for caption, sample in fields["text"]:
        wrong = [key for name in ("negative", "other") for key, s in fields[name] if s == sample]
        if sample in images and wrong:
            image = table[images[sample]]
            right.append(all(cosine(image, table[caption]) > cosine(image, table[key]) for key in wrong))
            chances.append(1 / (1 + len(wrong)))
            complete.add(sample)
    assert sum(1 / c - 1 for c in chances) > BLOCK
    expected = {"accuracy": np.mean(right), "chance": np.mean(chances), "captions": len(right)}
    known = {sample for rows in fields.values() for _, sample in rows}
    assert got == pytest.approx({**expected, "left_out": len(known - complete)}, abs=1e-12), seed


def test_a_tie_is_a_loss_and_one_negative_has_a_chance_of_a_half() -> None:
    """A model that says one thing of every text, and a negative that repeats its caption."""
    fields = {
        "image": [("i", 0), ("j", 1)],
        "text": [("right", 0), ("same", 1)],
        "negative": [("wrong", 0), ("same", 1)],
    }
    table = {"i": [1.0, 0], "j": [1.0, 0], "right": [1.0, 0.5], "wrong": [0.0, 1], "same": [0.3, 0.7]}
    assert dict(Compositional().run(context(table, fields))) == {"accuracy": 0.5, "chance": 0.5, "captions": 2}
    table = {key: [0.1, 0.7] for key in table}
    assert dict(Compositional().run(context(table, fields)))["accuracy"] == 0


def test_negatives_are_read_as_texts_of_the_data() -> None:
    there = context({}, {"image": [], "text": [], "image_0": []})
    with pytest.raises(ValueError, match=r"no field negative of negatives: declare it, as data.fields=\{negative:"):
        Compositional().check(there.objective, there.data)
    with pytest.raises(ValueError, match="'image_0' is a field of kind image, not text"):
        Compositional(negative=("image_0",)).check(there.objective, there.data)
    apart = context({}, {"image": [("i", 0)], "text": [("t", 1)], "negative": [("n", 0)]})
    with pytest.raises(ValueError, match="no sample of split 'validation' has image, text and negative together"):
        dict(Compositional().run(apart))


FIELDS = ("image_0", "image_1", "caption_0", "caption_1")


@pytest.mark.parametrize(
    ("s00", "s01", "s10", "s11", "expected"),
    [
        (4, 1, 2, 3, {"text": 1, "image": 1, "group": 1}),
        (4, 2, 1, 3, {"text": 1, "image": 1, "group": 1}),
        (4, 3, 1, 2, {"text": 1, "image": 0, "group": 0}),
        (4, 1, 3, 2, {"text": 0, "image": 1, "group": 0}),
        (2, 2, 1, 2, {"text": 0, "image": 0, "group": 0}),
        (1, 1, 1, 1, {"text": 0, "image": 0, "group": 0}),
    ],
)
def test_winogrounds_scores_of_four_numbers(s00, s01, s10, s11, expected) -> None:
    """By hand, from s(image i, caption j)."""
    found = scores([[torch.tensor([s00]), torch.tensor([s01])], [torch.tensor([s10]), torch.tensor([s11])]])
    assert {name: right.item() for name, right in found.items()} == expected


def test_winogrounds_rows_are_images() -> None:
    """Both captions say the first image best: each image has a text of its own, the captions share an image."""
    table = {"image_0": [1.0, 0, 0], "image_1": [0, 1.0, 0], "caption_0": [0.9, 0.1, 0.4], "caption_1": [0.8, 0.5, 0.3]}
    got = dict(Winoground().run(context(table, {name: [(name, 0)] for name in FIELDS})))
    chances = {"chance_text": 0.25, "chance_image": 0.25, "chance_group": 1 / 6}
    assert got == pytest.approx({"text": 1, "image": 0, "group": 0, **chances, "samples": 1})


def test_winogrounds_chances_are_those_of_random_scores_and_gaps_are_counted() -> None:
    rng = np.random.default_rng()
    n = 400
    fields = {name: [(f"{name}.{i}", i) for i in rng.permutation(n + 9).tolist()] for name in FIELDS}
    fields["caption_1"] = [(key, sample) for key, sample in fields["caption_1"] if sample < n]
    table = {key: x for rows in fields.values() for key, x in zip(*zip(*rows, strict=True), strict=True)}
    table = dict(zip(table, rng.normal(size=(len(table), 16)), strict=True))
    got = dict(Winoground().run(context(table, fields)))
    assert (got["samples"], got["left_out"]) == (n, 9)
    for name, chance in (("text", 1 / 4), ("image", 1 / 4), ("group", 1 / 6)):
        assert got[f"chance_{name}"] == chance
        assert got[name] == pytest.approx(chance, abs=5 * (chance * (1 - chance) / n) ** 0.5)


def test_winogrounds_fields_are_four() -> None:
    with pytest.raises(ValueError, match="'a' stands twice"):
        Winoground(images=("a", "a"))
    there = context({}, {name: [] for name in FIELDS[:3]})
    with pytest.raises(ValueError, match="no field caption_1"):
        Winoground().check(there.objective, there.data)


def test_names_are_those_that_they_yield() -> None:
    table = {name: [1.0, 0] for name in (*FIELDS, "image", "text", "negative")}
    for evaluator, fields in ((Winoground(), FIELDS), (Compositional(), ("image", "text", "negative"))):
        rows = {name: [(name, 0)] for name in fields}
        gap = replace(context(table, rows | {fields[0]: [(fields[0], 0), (fields[0], 1)]}))
        assert sorted(dict(evaluator.run(gap))) == sorted(evaluator.names(gap.objective))
