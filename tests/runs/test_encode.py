"""A loaded model embeds every side that it kept, and says which modality it means where a run has several of a kind."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

import workbench
from workbench.loading.decode import decode_image
from workbench.recipe.schema import parse_recipe
from workbench.runs.inference import LoadedModel
from workbench.runs.train import train

pytestmark = pytest.mark.slow

VIT = {"name": "open_clip", "config": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}}
TEXT = {"name": "open_clip", "config": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}}
PICTURES = [Image.effect_noise((40, 50), sigma).convert("RGB") for sigma in (20, 90, 200)]
WORDS = ["a cat", "grinning face", ""]


def run(path: Path, data: Any, encoders: dict[str, Any], objective: Any, **model: Any) -> Path:
    """One step of a tiny recipe."""
    tree = {
        "name": "tiny",
        "data": data,
        "model": {"dim": 16, "encoders": encoders, **model},
        "objective": objective,
        "train": {"for": "1 steps", "batch": 8},
        "parallel": {"workers": 0},
        "log": {"tensorboard": False},
    }
    train(parse_recipe(tree), path)
    return path


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Picture, English and German: ConFu's fusion stays at inference."""
    folder = tmp_path_factory.mktemp("german")
    data = {"name": "emoji", "languages": ["de"]}
    return run(folder / "run", data, {"image": VIT, "text": TEXT, "de": TEXT}, "confu", fusion="mlp")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XOR: three modalities of numbers, no picture and no text."""
    folder = tmp_path_factory.mktemp("vectors")
    return run(folder / "run", {"name": "synthetic", "task": "xor"}, dict.fromkeys("abc", "mlp"), "confu", fusion="mlp")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two modalities of pictures and two of texts, none of them called image or text."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "own.py").write_text(OWN)
    encoders = {"photo": VIT, "sketch": VIT, "en": TEXT, "de": TEXT}
    return run(folder / "run", f"{folder}/own.py:Four", encoders, "clip")


OWN = """
from PIL import Image
from workbench.types import Modality, Sample

class Four:
    modalities = {m: Modality("image" if m in ("photo", "sketch") else "text") for m in ("photo", "sketch", "en", "de")}
    def __len__(self):
        return 16
    def sample(self, index, rng):
        picture = Image.new("RGB", (20, 20), (16 * index, 3, 90))
        return Sample({"photo": [picture], "sketch": [picture], "en": [f"{index}"], "de": [f"{index}!"]}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
    def split(self, name):
        raise ValueError("no splits")
"""


def tower(model: LoadedModel, modality: str, x: Tensor) -> Tensor:
    """Unit rows straight from a tower."""
    with torch.inference_mode():
        return normalize(model.model.encoders[modality](x).z, dim=-1)


def test_english_goes_to_the_tower_called_text(german: Path) -> None:
    model = workbench.load(german)
    ids = torch.stack([model.tokenizer(text) for text in WORDS])
    rows = model.encode_text(WORDS)
    torch.testing.assert_close(rows, tower(model, "text", ids))
    assert not torch.allclose(rows, tower(model, "de", ids), atol=1e-3)
    torch.testing.assert_close(model.encode({"de": WORDS}, ["de"])["de"], tower(model, "de", ids))
    torch.testing.assert_close(workbench.load(german, text="de").encode_text(WORDS), tower(model, "de", ids))
    with pytest.raises(ValueError, match=r"text='fr': the model has \['text', 'de'\] of that kind"):
        workbench.load(german, text="fr")
    with pytest.raises(ValueError, match=r"image='de': the model has \['image'\]"):
        workbench.load(german, image="de")


def test_where_several_could_be_meant_one_has_to_be_named(several: Path) -> None:
    model = workbench.load(several)
    with pytest.raises(ValueError, match=r"several modalities of kind text \(en, de\): name one.*text='en'"):
        model.encode_text(WORDS)
    with pytest.raises(ValueError, match=r"several modalities of kind image \(photo, sketch\).*encode\({'photo'"):
        model.encode_image(PICTURES)
    with pytest.raises(ValueError, match=r"several modalities of kind text"):
        model.tokenizer("a")
    named = workbench.load(several, image="sketch", text="de")
    torch.testing.assert_close(named.encode_image(PICTURES), model.encode({"sketch": PICTURES})["sketch"])
    torch.testing.assert_close(named.encode_text(WORDS), model.encode({"de": WORDS})["de"])
    assert not torch.allclose(named.encode_text(WORDS), model.encode({"en": WORDS})["en"], atol=1e-3)


def test_every_kept_side_is_embedded(german: Path) -> None:
    model = workbench.load(german)
    everything = model.encode({"image": PICTURES, "text": WORDS, "de": WORDS})
    assert set(everything) == {"image", "text", "de", "image+text", "image+de", "text+de"}
    for z in everything.values():
        assert z.shape == (3, 16)
        assert z.dtype == torch.float32
        torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
        z.clone().requires_grad_().sum().backward()  # rows are plain tensors: one can learn on them
    assert set(model.encode({"text": WORDS, "de": WORDS})) == {"text", "de", "text+de"}
    assert list(model.encode({"text": WORDS, "de": WORDS}, ["text+de"])) == ["text+de"]
    torch.testing.assert_close(model.encode({"image": PICTURES})["image"], model.encode_image(PICTURES))
    # the fused rows are those of the fusion module on the towers' features
    ids, pixels = (
        torch.stack([f(x) for x in items]) for f, items in ((model.tokenizer, WORDS), (model.preprocess, PICTURES))
    )
    with torch.inference_mode():
        pooled = [model.model.encoders[m](x).pooled for m, x in (("image", pixels), ("text", ids))]
        fused = normalize(model.model.fusion.mlps["image+text"](torch.cat(pooled, 1)), dim=-1)
    torch.testing.assert_close(everything["image+text"], fused)


def test_sides_that_do_not_exist_or_do_not_fit_are_refused(german: Path) -> None:
    model = workbench.load(german)
    for attempt, message in (
        (lambda: model.encode({"fr": WORDS}), r"no modality fr: it has image, text, de"),
        (lambda: model.encode({}), r"no side of the model is made of nothing: it has image, text"),
        (lambda: model.encode({"text": WORDS}, ["text+image+de"]), r"no side 'text\+image\+de': it has"),
        (
            lambda: model.encode({"text": WORDS}, ["image+text"]),
            r"side 'image\+text' needs items of image, and",
        ),
        (lambda: model.encode({"text": WORDS}, "text"), r"sides is a list of names: write \['text'\]"),
        (lambda: model.encode({"text": WORDS}, ["text@x"]), r"no side 'text@x'"),
        (lambda: model.encode({"text": WORDS}, ["te xt"]), r"'te xt' is not a side"),
        (lambda: model.encode({"image": PICTURES, "text": WORDS[:2]}), r"joins item i of each member.*'text': 2"),
        (lambda: model.encode({"text": "a cat"}), r"text: give a list of strings"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    rows = model.encode({"image": PICTURES, "text": WORDS[:2]}, ["image", "text"])  # not aligned
    assert [len(z) for z in rows.values()] == [3, 2]


def test_a_run_without_pictures_loads_and_encodes(vectors: Path) -> None:
    model = workbench.load(vectors, 1)
    x = {m: torch.randn(5, 3) for m in "abc"}
    rows = model.encode(x)
    assert set(rows) == {"a", "b", "c", "a+b", "a+c", "b+c"}
    torch.testing.assert_close(rows["a"], tower(model, "a", x["a"]))
    lists = model.encode({m: values.tolist() for m, values in x.items()})
    arrays = model.encode({m: values.numpy() for m, values in x.items()})
    for side, z in rows.items():
        torch.testing.assert_close(lists[side], z)
        torch.testing.assert_close(arrays[side], z)
    with pytest.raises(ValueError, match=r"no modality of kind image: it has a, b, c"):
        model.encode_image(PICTURES)
    with pytest.raises(ValueError, match=r"item 1 of 'a' holds inf"):
        model.encode({"a": [[0, 1, 2], [0, float("inf"), 2]]})
    with pytest.raises(ValueError, match=r"side 'a': the embedding of item 1 is no number"):
        model.encode({"a": torch.tensor([[0, 1, 2], [0, float("inf"), 2]])})
    with pytest.raises(ValueError, match=r"item 1 of 'c' cannot be read: "):
        model.encode({"c": [[0, 1, 2], ["x", 1, 2]]})
    with pytest.raises(ValueError, match=r"item 2 of 'b'.*\[n, 3\]"):
        model.encode({"b": [[0, 1, 2], [0, 1, 2], [0, 1]]})


def test_a_fusion_of_training_alone_is_no_side(tmp_path: Path) -> None:
    fusion = {"name": "transformer", "layers": 1, "heads": 2}
    path = run(tmp_path / "run", {"name": "emoji", "views": 2}, {"image": VIT, "text": TEXT}, "ito", fusion=fusion)
    model = workbench.load(path)
    assert set(model.encode({"image": PICTURES, "text": WORDS})) == {"image", "text"}
    with pytest.raises(ValueError, match=r"no side 'image\+text': it has image, text"):
        model.encode({"image": PICTURES, "text": WORDS}, ["image+text"])


def files() -> dict[str, bytes]:
    """Pictures whose modes Pillow's own conversion gets wrong, encoded."""
    levels = np.random.default_rng().integers(0, 256, (40, 40, 4), dtype=np.uint8)
    levels[..., 3] = np.where(np.arange(40) < 20, 0, 255)  # the left half is transparent, and holds noise
    deep = (levels[..., 0].astype(np.uint16) * 257).clip(0, 30_000)
    clear = Image.fromarray(levels)
    modes = {"RGBA": (clear, {}), "LA": (clear.convert("LA"), {}), "16": (Image.fromarray(deep), {})}
    palette = Image.fromarray(np.where(levels[..., 3] > 0, levels[..., 0] | 1, 0).astype(np.uint8)).convert("P")
    encoded = {}
    for name, (picture, settings) in (modes | {"P": (palette, {"transparency": 0})}).items():
        picture.save(buffer := io.BytesIO(), "PNG", **settings)
        encoded[name] = buffer.getvalue()
    return encoded


@pytest.mark.parametrize("mode", ["RGBA", "LA", "16", "P"])
def test_a_picture_that_the_user_opens_is_the_picture_that_training_decodes(german: Path, mode: str) -> None:
    model, encoded = workbench.load(german), files()[mode]
    opened = Image.open(io.BytesIO(encoded))
    trained = model.encode_image([decode_image(encoded)])
    torch.testing.assert_close(model.encode_image([opened]), trained)
    torch.testing.assert_close(model.encode_image([encoded]), trained)
    torch.testing.assert_close(model.preprocess(opened), model.preprocess(decode_image(encoded)))
    naive = model.encode_image([np.array(opened.convert("RGB"))])
    assert cosine_similarity(naive, trained) < 0.999
