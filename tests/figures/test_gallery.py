"""The gallery: few examples, the same ones each time, linked by their ids."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.figures.embeddings import spread
from workbench.figures.gallery import ROOM, Gallery
from workbench.types import Context, Items, Modality, Side, Split


def context(split: Split, sides: list[str], kinds: dict[str, Any]) -> Context:
    data: Any = SimpleNamespace(modalities={m: Modality(kind) for m, kind in kinds.items()}, split=lambda name: split)
    objective = SimpleNamespace(all_sides=[Side.parse(side) for side in sides])
    return Context(lambda inputs, sides: {}, objective, data, batch=4, seed=0)


def test_images_lead_and_texts_are_the_first_of_their_ids() -> None:
    images = Items([object()] * 1000, torch.arange(1000) // 4)
    texts = Items([f"text {i}" for i in range(600)], torch.arange(600) // 2 + 10)  # ids 10 to 309: images end at 249
    gallery = Gallery.of(context(Split({"text": texts, "image": images}), ["text", "image"], _IMAGE_TEXT), "validation")
    shown = gallery.examples["image"].ids
    assert len(shown) == ROOM
    assert shown.min() >= 10
    assert shown.max() == 249
    ids = gallery.examples["text"].ids.tolist()
    assert ids == sorted(set(shown.tolist()))
    assert gallery.labels["text"] == [f"text {2 * (i - 10)}" for i in ids]
    assert gallery.labels["image"] == [f"text {2 * (i - 10)}" for i in shown.tolist()]
    rows, columns = gallery.matches("image", "text", 64)
    assert len(rows) == len(columns) == 64
    assert shown[rows].equal(gallery.examples["text"].ids[columns])
    assert len(set(shown[rows].tolist())) == 64


_IMAGE_TEXT = {"image": "image", "text": "text"}


def test_fused_sides_need_a_paired_split_and_pairs_share_no_modality() -> None:
    items = {m: Items(torch.eye(3), torch.arange(3)) for m in "abc"}
    sides, kinds = ["a", "b", "c", "a+b", "+c"], dict.fromkeys("abc", "vector")
    unpaired = Gallery.of(context(Split(items), sides, kinds), "validation")
    assert list(unpaired.examples) == ["a", "b", "c", "+c"]
    paired = Gallery.of(context(Split(items, paired=True), sides, kinds), "validation")
    assert set(paired.pairs()) == {
        ("a", "b"), ("a", "c"), ("b", "c"), ("a", "+c"), ("b", "+c"), ("a+b", "c"), ("a+b", "+c"),
    }  # fmt: skip
    assert paired.labels["a+b"] == ["100 + 100", "010 + 010", "001 + 001"]


def test_a_split_that_shows_nothing() -> None:
    gallery = Gallery.of(context(Split({}), ["image", "text"], _IMAGE_TEXT), "validation")
    assert gallery.pairs() == []


@given(st.lists(st.integers(), max_size=50), st.integers(1, 20))
def test_spread_is_even_and_in_order(items: list[int], room: int) -> None:
    places = spread(range(len(items)), room)
    assert len(places) == min(room, len(items))
    gaps = {b - a for a, b in pairwise(places)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    assert min(gaps, default=1) >= 1
    assert spread(items, room) == [items[i] for i in places]
