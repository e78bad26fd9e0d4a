"""The component that serves the packaged emoji set: purity of samples, contract of splits."""

from __future__ import annotations

import pickle
import secrets
from collections import Counter
from typing import Literal

import numpy as np
import pytest
import torch
from packaged_emoji import decoded, rows
from PIL import Image

from workbench.data.emoji import FILES, Emoji
from workbench.loading.feed import Feed
from workbench.recipe.component import schema

SEED = secrets.randbelow(2**32)


@pytest.fixture(scope="module")
def data() -> Emoji:
    return Emoji(views=2, captions=3, drawings="different")


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


# --- samples


def test_recipe_keys() -> None:
    assert set(schema(Emoji).model_fields) == {
        "views",
        "captions",
        "drawings",
        "captions_from",
        "languages",
        "shuffled",
        "limit",
        "noise",
        "path",
    }


@pytest.mark.slow
def test_a_sample_is_a_pure_function_of_index_and_generator(data: Emoji) -> None:
    for index in np.random.default_rng(SEED).integers(len(data), size=20).tolist():
        first, second = (data.sample(index, np.random.default_rng([SEED, index])) for _ in range(2))
        data.sample(0, np.random.default_rng())  # what is drawn in between leaves no trace
        again = pickle.loads(pickle.dumps(data)).sample(index, np.random.default_rng([SEED, index]))
        for other in (second, again):
            assert pixels(first.inputs["image"]) == pixels(other.inputs["image"]), SEED
            assert first.inputs["text"] == other.inputs["text"], SEED
            assert first.id == other.id


@pytest.mark.slow
@pytest.mark.parametrize("captions_from", ["name", "any"])
def test_arms_with_more_views_or_captions_begin_with_those_of_fewer(captions_from: Literal["name", "any"]) -> None:
    arms = [
        Emoji(views=1, captions=1, drawings="same", captions_from=captions_from),
        Emoji(views=2, captions=2, drawings="same", captions_from=captions_from),
        Emoji(views=2, captions=1, drawings="different", captions_from=captions_from),
        Emoji(views=5, captions=4, drawings="different", captions_from=captions_from),
    ]
    for index in np.random.default_rng(SEED).integers(len(arms[0]), size=20).tolist():
        one, same, two, five = (arm.sample(index, np.random.default_rng([SEED, index])) for arm in arms)
        anchor = pixels(one.inputs["image"])
        assert pixels(same.inputs["image"]) == anchor * 2, SEED
        assert pixels(two.inputs["image"])[:1] == anchor, SEED
        assert pixels(five.inputs["image"])[:2] == pixels(two.inputs["image"]), SEED
        assert five.inputs["text"][:1] == one.inputs["text"] == two.inputs["text"], SEED
        assert five.inputs["text"][:2] == same.inputs["text"], SEED


def test_views_are_drawings_of_the_anchors_concept_repeated_only_when_there_are_no_more(concepts: list[dict]) -> None:
    data, train = Emoji(views=9, drawings="different"), rows("train.parquet")
    drawn = Counter(row["concept"] for row in train)
    most, fewest = drawn.most_common()[0], drawn.most_common()[-1]
    assert most[1] == 8
    assert fewest[1] < 4
    for key, number in (most, fewest):
        own = [decoded(row["image"]) for row in train if row["concept"] == key]
        index = next(i for i, row in enumerate(train) if row["concept"] == key)
        sample = data.sample(index, np.random.default_rng(SEED))
        views = pixels(sample.inputs["image"])
        assert concepts[sample.id]["concept"] == key
        assert set(views) == set(own), SEED
        assert views[number:] == views[: 9 - number], SEED  # the same ones again, in the same order
        assert views[0] == own[0]


def test_the_first_view_is_the_drawing_of_the_index_whatever_is_drawn() -> None:
    data, train = Emoji(views=2, drawings="different"), rows("train.parquet")
    for index in np.random.default_rng(SEED).integers(len(data), size=20).tolist():
        sample = data.sample(index, np.random.default_rng([SEED, index]))
        assert pixels(sample.inputs["image"])[0] == decoded(train[index]["image"]), (SEED, index)


def test_captions_are_distinct_texts_of_the_concept(concepts: list[dict]) -> None:
    any_, name = (Emoji(captions=8, captions_from=source) for source in ("any", "name"))
    firsts = Counter()
    for index in np.random.default_rng(SEED).integers(len(any_), size=300).tolist():
        rng = np.random.default_rng([SEED, index])
        sample = any_.sample(index, rng)
        texts, known = sample.inputs["text"], concepts[sample.id]["texts"]
        assert len(texts) == len(set(texts)) == min(8, len(known)), SEED
        assert set(texts) <= set(known), SEED
        firsts[texts[0] == known[0]] += 1
        named = name.sample(index, rng).inputs["text"]
        assert named[0] == concepts[sample.id]["name"]
        assert len(named) == len(set(named)) == len(texts)
    assert 0 < firsts[True] < 150, SEED  # a concept has 11 texts: about 1 in 11 begins with the name


def test_noise_tells_a_share_of_the_drawings_wrongly_and_always_in_the_same_way(concepts: list[dict]) -> None:
    def make(noise: str | None, seed: int) -> Emoji:
        data = Emoji(views=1, captions=2, captions_from="name", languages=("de",), noise=noise, limit=300)
        data.draw_limit(seed)
        return data

    def names(data: Emoji) -> list[str]:
        """Say how each drawing is told: by a concept's name, which no other has, and another text of the concept."""
        samples = [data.sample(index, np.random.default_rng([SEED, index])) for index in range(len(data))]
        for sample in samples:
            (told,) = [row for row in concepts if row["name"] == sample.inputs["text"][0]]
            assert set(sample.inputs["text"]) <= set(told["texts"])
            assert sample.inputs["de"] == [concepts[sample.id]["names"]["de"]]  # other fields are right
        return [sample.inputs["text"][0] for sample in samples]

    noisy, right = make("40 %", 5), make(None, 5)
    told, true = names(noisy), names(right)
    assert true == [concepts[right.sample(i, np.random.default_rng()).id]["name"] for i in range(len(right))]
    assert sum(a != b for a, b in zip(told, true, strict=True)) == round(0.4 * len(noisy))
    noisy.draw_limit(5)
    assert names(noisy) == told
    whole, seeds = Emoji(captions_from="name", noise="40 %"), []
    for seed in (5, 6):  # the same drawings, as nothing limits them
        whole.draw_limit(seed)
        seeds.append([whole.sample(i, np.random.default_rng(0)).inputs["text"][0] for i in range(100)])
    assert seeds[0] != seeds[1]
    assert noisy.split("validation").items["text"].raw == right.split("validation").items["text"].raw


@pytest.mark.parametrize("noise", ["some", 0.4, 40, "0 %", "100 %"])
def test_a_noise_that_is_no_share_is_refused(noise: str | float) -> None:
    with pytest.raises(ValueError, match=r"^noise: .* write the share of the drawings that are told wrongly"):
        Emoji(noise=noise)


def test_noise_needs_a_second_concept() -> None:
    with pytest.raises(ValueError, match=r"noise: there is one concept, and no text of another"):
        Emoji(noise="40 %", limit=1)


def test_every_text_can_come_first() -> None:
    data = Emoji()
    first = [data.sample(0, np.random.default_rng([SEED, i])).inputs["text"][0] for i in range(400)]
    texts = rows("concepts.parquet")[data.sample(0, np.random.default_rng()).id]["texts"]
    assert set(first) == set(texts), SEED  # missed with probability < n (1 - 1/n)^400 < 1e-10 for n = 13


def test_batches_are_those_of_the_feed_whatever_the_workers(data: Emoji, concepts: list[dict]) -> None:
    def image(x: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(x)).permute(2, 0, 1)

    def text(x: str) -> torch.Tensor:
        return torch.tensor([len(x)])

    for workers in (0, 1):
        feed = Feed({"image": image, "text": text}, batch=16, seed=SEED, workers=workers)
        batch = next(data.batches(3, feed))
        assert batch.inputs["image"].shape == (16, 2, 3, 64, 64)
        assert batch.valid["image"].all()
        known = torch.tensor([len(concepts[i]["texts"]) for i in batch.ids.tolist()])
        assert batch.valid["text"].sum(1).equal(known.clamp(max=3))
        if workers == 0:
            expected = batch
    assert batch.ids.equal(expected.ids)
    assert batch.inputs["image"].equal(expected.inputs["image"])
    assert batch.inputs["text"].equal(expected.inputs["text"])


def test_a_language_is_a_modality_of_names_and_changes_nothing_else(concepts: list[dict]) -> None:
    plain, with_names = Emoji(captions=2), Emoji(captions=2, languages=("fr", "ja"))
    assert list(with_names.modalities) == ["image", "text", "fr", "ja"]
    assert (with_names.modalities["ja"].kind, with_names.modalities["ja"].count) == ("text", 1)
    for index in np.random.default_rng(SEED).integers(len(plain), size=20).tolist():
        one, more = (data.sample(index, np.random.default_rng([SEED, index])) for data in (plain, with_names))
        assert one.inputs["text"] == more.inputs["text"], SEED
        assert pixels(one.inputs["image"]) == pixels(more.inputs["image"]), SEED
        assert [more.inputs["fr"], more.inputs["ja"]] == [[concepts[one.id]["names"][x]] for x in ("fr", "ja")], SEED
    split = with_names.split("test")
    names = split.items["ja"]
    known = {i: c for i, c in enumerate(concepts) if c["split"] == "test"}
    drawn = [i for i in known if i in set(split.items["image"].ids.tolist())]
    assert names.ids.tolist() == drawn
    assert list(names.raw) == [known[i]["names"]["ja"] for i in drawn]
    groups = [split.classes["group"].names[i] for i in names.targets["group"].tolist()]
    assert groups == [known[i]["group"] for i in drawn]


# --- splits


@pytest.mark.parametrize("name", list(FILES))
def test_a_split_is_its_file_and_the_texts_of_its_concepts(data: Emoji, concepts: list[dict], name: str) -> None:
    split, table = data.split(name), rows(FILES[name])
    images, texts = split.items["image"], split.items["text"]
    assert not split.paired
    assert [concepts[i]["concept"] for i in images.ids.tolist()] == [row["concept"] for row in table]
    at = int(np.random.default_rng(SEED).integers(len(table)))
    assert images.raw[at].mode == "RGB"
    assert images.raw[at].tobytes() == decoded(table[at]["image"]), SEED
    assert pixels(list(images.raw[at : at + 2])) == [decoded(row["image"]) for row in table[at : at + 2]], SEED

    drawn = {row["concept"] for row in table}
    expected = [(i, text) for i, c in enumerate(concepts) if c["concept"] in drawn for text in c["texts"]]
    assert list(zip(texts.ids.tolist(), texts.raw, strict=True)) == expected
    for items in (images, texts):
        for target, classes in split.classes.items():
            names = [classes.names[i] for i in items.targets[target].tolist()]
            assert names == [concepts[i][target] for i in items.ids.tolist()]


def test_classes_are_the_groups_prompted_by_their_subgroups(data: Emoji, concepts: list[dict]) -> None:
    classes = data.split("test").classes
    prompts = dict(zip(classes["group"].names, classes["group"].prompts, strict=True))
    assert set(prompts) == {c["group"] for c in concepts}
    assert len(prompts) == 9
    assert prompts["animals-nature"][0] == "animals nature"
    assert "animal mammal" in prompts["animals-nature"]
    assert "food fruit" in prompts["food-drink"]
    assert sum(len(p) - 1 for p in prompts.values()) == len({c["subgroup"] for c in concepts})
    assert set(classes["subgroup"].names) == {c["subgroup"] for c in concepts}
    assert dict(zip(classes["subgroup"].names, classes["subgroup"].prompts, strict=True))["food-fruit"] == (
        "food fruit",
    )


@pytest.mark.slow
def test_held_out_concepts_are_never_trained_and_held_out_styles_are_of_trained_ones(data: Emoji) -> None:
    """Every drawing is the anchor of a training sample, whose id is its concept."""
    trained = {data.sample(index, np.random.default_rng(0)).id for index in range(0, len(data), 7)}
    for name in FILES:
        held_out = set(data.split(name).items["image"].ids.tolist())
        assert len(held_out) > 50, name
        if name in ("validation", "test"):
            assert not held_out & trained, name
        elif name != "train":
            assert len(held_out & trained) > 0.8 * len(held_out), name


def test_an_unknown_split_is_an_error_that_names_the_splits(data: Emoji) -> None:
    with pytest.raises(ValueError, match=r"no split 'dev'.*train, validation, test, style_a, style_b"):
        data.split("dev")
