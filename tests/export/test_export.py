"""Exports are what the run is: by each client's own calls, by `workbench.load`, and by the lines of their cards."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner
from json_keys import assert_keys
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import normalize

import workbench
from workbench.build import build_parts
from workbench.cli import cli
from workbench.errors import RecipeError, RunError
from workbench.export import exporting, safetensors, transformers
from workbench.export import open_clip as for_open_clip
from workbench.export.card import wilson
from workbench.export.samples import read_samples
from workbench.export.source import Source, refuse
from workbench.recipe.component import validate
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.evaluating import evaluate_source
from workbench.runs.graphs import name_puts
from workbench.runs.inference import as_loaded
from workbench.runs.train import train
from workbench.types import Side

pytestmark = pytest.mark.slow

VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
TOWER = {"context_length": 8, "width": 16, "heads": 2, "layers": 1}
PICTURES = [Image.effect_noise((40, 50), sigma).convert("RGB") for sigma in (20, 90, 200)]
WORDS = ["a cat", "Grinning face!", "a text of many more words than the tower reads"]


def encoder(config: dict[str, Any]) -> dict[str, Any]:
    return {"name": "open_clip", "config": config}


def recipe(objective: Any = "clip", data: Any = "emoji", encoders: Any = None, **model: Any) -> Recipe:
    encoders = encoders or {"image": encoder(VIT), "text": encoder(TOWER)}
    return parse_recipe(
        {
            "name": "tiny",
            "data": data,
            "model": {"dim": 16, "encoders": encoders, **model},
            "objective": objective,
            "train": {"for": "1 steps", "batch": 4},
            "parallel": {"workers": 0},
            "log": {"tensorboard": False},
        }
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and texts, a fusion of training alone, and a measurement of the exported step."""
    path = tmp_path_factory.mktemp("runs") / "pair"
    fusion = {"name": "transformer", "layers": 1, "heads": 2, "readout": "mean"}
    train(recipe("ito", {"name": "emoji", "views": 2}, fusion=fusion), path)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1, "samples": 4, "eval/retrieval/image_to_text_r1": 0.25}) + "\n")
    return path


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors that share an encoder, whose fusion stays."""
    terms = {"name": "terms", "terms": [{"between": ["a", "b"]}, {"between": ["a+b", "a"]}]}
    path = tmp_path_factory.mktemp("runs") / "fused"
    train(recipe(terms, XOR, {"a": "mlp", "b": {"name": "shared", "with": "a"}}, fusion="mlp"), path)
    return path


def export(run: Path, format: str, out: Path) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["export", str(run), "--format", format, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert_keys("export", found)
    assert found["largest_difference"] <= 1e-5
    assert found["items"] == 16
    assert "validation" in found["samples"]
    assert set(found["files"]) == {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert list(out.parent.glob(".*")) == []
    return found


def run_card(out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the lines of a model card as they stand; returns the card."""
    card = (out / "README.md").read_text()
    monkeypatch.chdir(out)
    for lines in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        if "sentence_transformers" not in lines or find_spec("sentence_transformers"):
            exec(lines, {})
    return card


def same(rows: dict[str, Tensor], run: Path) -> None:
    own = workbench.load(run).encode({"image": PICTURES, "text": WORDS})
    assert set(rows) == set(own)
    for side, z in rows.items():
        torch.testing.assert_close(z, own[side], rtol=0, atol=1e-5)


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_open_clip_computes_what_the_run_does(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict_umask: None
) -> None:
    out = tmp_path / "deep" / "out"
    found = export(pair, "open_clip", out)
    assert found["prepared"] == {"image": 0.0, "text": 0.0}
    assert found["dropped"] == ["the fusion (transformer) that made image+text: it exists only while training"]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    with torch.no_grad():
        rows = {
            "image": model.eval().encode_image(torch.stack([preprocess(p) for p in PICTURES]), normalize=True),
            "text": model.encode_text(tokenizer(WORDS), normalize=True),
        }
    same(rows, pair)
    same(workbench.load(out).encode({"image": PICTURES, "text": WORDS}), pair)
    card = run_card(out, monkeypatch)
    number = len(build_parts(recipe()).data.split("validation").items["image"])
    low, high = wilson(0.25, number)
    assert f"| retrieval/image_to_text_r1 | 0.25 | {low:.3g} to {high:.3g} ({number} queries) |" in card
    for path in [out, *out.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path
        assert path.is_dir() or str(tmp_path.parent).encode() not in path.read_bytes()


def test_transformers_computes_what_the_run_does(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert export(pair, "transformers", out)["prepared"]["text"] == 0.0
    from transformers import AutoProcessor, CLIPModel

    model, processor, own = CLIPModel.from_pretrained(out), AutoProcessor.from_pretrained(out), workbench.load(pair)
    words = processor.tokenizer(WORDS, padding=True, truncation=True, return_tensors="pt")
    pixels = torch.stack([own.preprocess(p) for p in PICTURES])
    with torch.no_grad():
        found = model(pixel_values=pixels, **words)
    same({"image": found.image_embeds, "text": found.text_embeds}, pair)
    cosines = own.encode_image(PICTURES) @ own.encode_text(WORDS).T
    torch.testing.assert_close(found.logits_per_image / cosines, torch.full((3, 3), 14.28), rtol=0.01, atol=0)
    assert "zero-shot-image-classification" in run_card(out, monkeypatch)
    same(workbench.load(out).encode({"image": PICTURES, "text": WORDS}), pair)


def test_sentence_transformers_answers_a_zero_shot_question_as_the_run_does(pair: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    export(pair, "transformers", tmp_path / "out")
    theirs, own = package.SentenceTransformer(str(tmp_path / "out")), workbench.load(pair)
    # pictures of the size that the tower reads: resizing is each package's own, and is compared where it is the same
    pictures = [picture.resize((32, 32)) for picture in PICTURES]
    texts, images = theirs.encode(WORDS), theirs.encode(pictures)
    torch.testing.assert_close(torch.tensor(texts), own.encode_text(WORDS), rtol=0, atol=1e-5)
    answers = own.encode_image(pictures) @ own.encode_text(WORDS).T
    torch.testing.assert_close(theirs.similarity(images, texts), answers, rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_a_fusion_that_stays_is_written_as_a_head_of_its_own(
    fused: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    assert set(export(fused, format, out)["differences"]) == {"a", "b", "a+b"}
    x = {m: torch.randn(5, 3) for m in "ab"}
    back, own = workbench.load(out).encode(x), workbench.load(fused).encode(x)
    for side in ("a", "b", "a+b"):
        torch.testing.assert_close(back[side], own[side], rtol=0, atol=1e-5)
    run_card(out, monkeypatch)
    for file in out.rglob("*.*"):
        assert str(Path(workbench.__file__).parent).encode() not in file.read_bytes(), file
    ask, data = ["eval.retrieval={name: retrieval}"], str(fused / "recipe.yaml")
    then, now = evaluate_source(str(fused), overrides=ask), evaluate_source(str(out), data, overrides=ask)
    assert now.step == then.step == 1
    assert now.metrics == pytest.approx(then.metrics, abs=0.01)
    with pytest.raises(RecipeError, match="comes without data: name some"):
        evaluate_source(str(out))
    with pytest.raises(RunError, match="is an export, not a run folder"):
        exporting.export(out, "onnx", tmp_path / "again")
    with pytest.raises(RunError, match="is an export, which holds the weights of one step"):
        workbench.load(out, "best")


@cache
def data_of(block: str) -> Any:
    return validate("data", json.loads(block)).build()


def source(made: Recipe) -> Source:
    """A run's parts without a run; data sets, which nothing here changes, are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.build.build_data", lambda r: data_of(json.dumps(r.data.as_dict())))
        parts = build_parts(made, training=False)
    return Source(Path("run"), parts, 0, as_loaded(parts, torch.device("cpu")))


def towers(image: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"image": encoder(VIT | (image or {})), "text": encoder(TOWER | (text or {}))}


TIMM = {"image": encoder({"timm_model_name": "test_convnext", "image_size": 64}), "text": encoder(TOWER)}
VIT_OF_TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 64}
RESIZED = {"image": encoder(VIT_OF_TIMM), "text": encoder(TOWER)}
XOR = {"name": "synthetic", "task": "xor"}
GERMAN = {"name": "emoji", "languages": ["de"]}
JOINED = {"name": "terms", "terms": [{"between": ["image", "text"]}, {"between": ["image+text", "text"]}]}
ASIDE = {"name": "terms", "terms": [{"between": ["image@a", "text"]}]}
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "bias": (
        transformers,
        {"objective": "siglip"},
        "bias of a sigmoid loss.*--format open_clip or onnx",
    ),
    "three": (for_open_clip, {"data": GERMAN, "encoders": {**towers(), "de": encoder(TOWER)}}, "3 modalities image, t"),
    "vectors": (transformers, {"data": XOR, "encoders": dict.fromkeys("ab", "mlp")}, "2 modalities a .vector., b"),
    "convolutions": (transformers, {"encoders": TIMM}, "test_convnext of timm.*open_clip or onnx"),
    "resized": (for_open_clip, {"encoders": RESIZED}, "test_vit of timm at 64 pixels.*onnx or safetensors can"),
    "causal": (transformers, {"encoders": towers(text={"no_causal_mask": True})}, "no_causal_mask .True. of the tower"),
    "projection": (
        transformers,
        {"encoders": towers(text={"proj_bias": True})},
        "proj_bias .True. of the tower",
    ),
    "norm": (transformers, {"encoders": towers({"qk_norm": True})}, "qk_norm .True. of the tower of image"),
    "no first norm": (transformers, {"encoders": towers({"no_ln_pre": True})}, "no_ln_pre .True."),
    "pool": (transformers, {"encoders": towers({"pool_type": "avg"})}, "pool_type .avg. of the tower of image"),
    "oblong": (transformers, {"encoders": towers({"image_size": [32, 48]})}, "pictures of 32 x 48 pixels"),
    "head": (for_open_clip, {"head": "linear"}, "linear head of image.*nor the linear head of text"),
    "fusion": (
        for_open_clip,
        {"objective": JOINED, "fusion": "mlp"},
        "fusion .mlp. that makes image.text: .*onnx",
    ),
    "aside": (for_open_clip, {"objective": ASIDE}, "image, which was trained through image@a alone"),
    "score": (transformers, {"objective": "gram"}, "the score of gram"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_format_has_no_place_for_is_named_with_the_formats_that_have_one(case: str) -> None:
    client, made, message = REFUSED[case]
    format: Any = client.__name__.rpartition(".")[2]
    with pytest.raises(ValueError, match=f"--format {format} cannot hold .*{message}"):
        refuse(format, list(client.refusals(source(recipe(**made)))))


def test_two_kinds_of_gelu_are_no_model_of_open_clip_and_one_of_transformers() -> None:
    made = source(recipe(encoders=towers() | {"image": {**encoder(VIT), "quick_gelu": True}}))
    with pytest.raises(ValueError, match=r"image has OpenAI's approximation\): --format transformers or onnx"):
        refuse("open_clip", list(for_open_clip.refusals(made)))
    assert list(transformers.refusals(made)) == []


def test_the_bias_of_a_sigmoid_is_open_clips_own(tmp_path: Path) -> None:
    made = source(recipe("siglip"))
    for_open_clip.write(made, tmp_path)
    model, *_ = for_open_clip._load(tmp_path)
    assert model.logit_bias.item() == -10.0
    assert model.logit_scale.exp().item() == pytest.approx(10.0)


def test_what_differs_leaves_nothing(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = for_open_clip.state_dict
    monkeypatch.setattr(for_open_clip, "state_dict", lambda t: right(t) | {"visual.proj": 1 + right(t)["visual.proj"]})
    done = CliRunner().invoke(cli, ["export", str(pair), "--format", "open_clip", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert re.search(
        r"open_clip_torch \S+ computes other embeddings of 16 items .*: image by .*, and 1e-05", done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already and not empty: remove it, or choose another folder"):
        exporting.export(pair, "safetensors", tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        exporting.export(pair, "safetensors", tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_data_that_are_gone_give_way_to_packaged_items(monkeypatch: pytest.MonkeyPatch) -> None:
    made = source(recipe())

    class Gone:
        def split(self, name: str) -> None:
            raise FileNotFoundError("the disk is elsewhere")

    monkeypatch.setattr(made.parts, "data", Gone())
    samples = read_samples(made)
    assert len(samples) == 16
    assert "packaged emoji" in samples.origin
    own = safetensors.sides(made)
    assert {str(side) for side in samples.rows} == {str(side) for side in own}
    assert torch.allclose(normalize(samples.rows[own[0]], dim=1), samples.rows[own[0]])


def test_a_graph_has_no_two_things_of_one_name() -> None:
    assert name_puts("frames", "sequence", [Side(("frames",))]) == ("frames_", "features")
    assert name_puts("features", "vector", [Side(("features",))]) == ("vectors", "features_")


def test_a_bad_item_of_the_validation_split_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = source(recipe()), build_parts(recipe()).data.split("validation").items

    class Bad:
        def split(self, name: str) -> Any:
            return SimpleNamespace(items={m: SimpleNamespace(raw=[7, *list(whole[m].raw)[:9]]) for m in whole})

    monkeypatch.setattr(made.parts, "data", Bad())
    samples = read_samples(made)
    assert samples.origin == "split 'validation'"
    assert len(samples) == 9
    assert 7 not in samples.raw["image"]


def test_an_interval_is_wilsons() -> None:
    for share, number in ((0.25, 40), (0.0, 7), (1.0, 300)):
        known = binomtest(round(share * number), number).proportion_ci(method="wilson")
        assert wilson(share, number) == pytest.approx((known.low, known.high), abs=1e-4)
