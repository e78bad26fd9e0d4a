"""Models of transformers as towers: equal to what transformers computes, row by row, and locked as asked."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from items import MODALITIES, items
from PIL import Image
from tiny_transformers import make

from workbench.encoders.transformers import Transformers
from workbench.errors import RecipeError
from workbench.first_law import refuse_mixing_encoder
from workbench.recipe.component import validate
from workbench.types import Kind, Modality

DIM = 6
MODELS: list[tuple[Kind, str]] = [
    ("text", "bert"),
    ("text", "gpt2"),
    ("text", "t5"),
    ("text", "clip"),
    ("image", "vit"),
    ("image", "dinov2"),
    ("image", "convnext"),
    ("image", "clip"),
    ("audio", "wav2vec2"),
    ("audio", "hubert"),
    ("audio", "whisper"),
    ("audio", "ast"),
    ("audio", "clap"),
    ("audio", "clap-fused"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    there: dict[str, str] = {}
    parent = tmp_path_factory.mktemp("models")

    def find(name: str) -> str:
        if name not in there:
            there[name] = make(parent, name)
        return there[name]

    return find


def build(kind: Kind, model: str, **settings: Any) -> Transformers:
    torch.manual_seed(0)
    encoder = validate("encoder", {"name": "transformers", "model": model} | settings).build(MODALITIES[kind], DIM)
    encoder.load_pretrained()
    return encoder


def rows_of(encoder: Transformers, kind: Kind, train: bool = False, seed: int = 0) -> torch.Tensor:
    transform, rows = encoder.transform(train), []
    for i, item in enumerate(items(kind, seed)):
        torch.manual_seed(i)
        rows.append(transform(item))
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_a_row_depends_on_its_item_alone(kind: Kind, name: str, folder: Callable[[str], str]) -> None:
    encoder = build(kind, folder(name)).eval()
    rows, others = rows_of(encoder, kind), rows_of(encoder, kind, seed=1)
    out = encoder(rows, tokens=True)
    for i in range(len(rows)):
        for batch, at in ((rows[i : i + 1], 0), (torch.stack([others[(i + 1) % 5], rows[i], others[i]]), 1)):
            found = encoder(batch, tokens=True)
            torch.testing.assert_close(found.z[at], out.z[i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.pooled[at], out.pooled[i], rtol=1e-4, atol=1e-5)
            real = slice(None) if out.mask is None else out.mask[i]
            torch.testing.assert_close(found.tokens[at][real], out.tokens[i][real], rtol=1e-4, atol=1e-5)
            assert out.mask is None or torch.equal(found.mask[at], out.mask[i])
    torch.testing.assert_close(encoder(rows).z, out.z)
    assert out.z.shape == (5, DIM)
    assert out.tokens.shape == (5, out.positions.shape[0], DIM)
    assert out.pooled.shape[1] == encoder.width
    assert (out.cls == 0) == encoder.has_class_token


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_a_missing_modality_gives_numbers_and_gradients(kind: Kind, name: str, folder: Callable[[str], str]) -> None:
    encoder = build(kind, folder(name)).train()
    rows = rows_of(encoder, kind, train=True)
    assert torch.equal(rows, rows_of(encoder, kind, train=True))
    rows[1] = 0
    out = encoder(rows, tokens=True)
    assert all(x.isfinite().all() for x in (out.z, out.pooled, out.tokens))
    out.z.square().sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in gradients.values()), [
        n for n, g in gradients.items() if g is None
    ]
    assert set(encoder.depths()) == {name for name, _ in encoder.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_training_draws_from_the_seed_of_the_step_alone(kind: Kind, name: str, folder: Callable[[str], str]) -> None:
    encoder = build(kind, folder(name)).train()
    rows = rows_of(encoder, kind)
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(encoder(rows).z)
        np.random.random()
    assert torch.equal(*found)
    settings = vars(encoder.tower.config)
    own = {key: settings[key] for key in ("layerdrop", "mask_time_prob", "apply_spec_augment") if key in settings}
    assert not any(own.values()), own


@pytest.mark.slow
def test_text_is_what_transformers_computes(folder: Callable[[str], str]) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder("bert")).eval(), AutoTokenizer.from_pretrained(folder("bert"))
    texts = ["a", "the second text", "zebra " * 60]
    for pool in ("mean", "first", "last", "pooler"):
        encoder = build("text", folder("bert"), pool=pool).eval()
        assert encoder.context_length == 40
        out = encoder(torch.stack([encoder.transform(False)(text) for text in texts]), tokens=True)
        for i, text in enumerate(texts):
            theirs = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=40))
            h = theirs.last_hidden_state[0]
            pooled = {"mean": h.mean(0), "first": h[0], "last": h[-1], "pooler": theirs.pooler_output[0]}[pool]
            torch.testing.assert_close(out.pooled[i], pooled, rtol=1e-4, atol=1e-5)
            assert out.mask[i].sum() == len(h)
            torch.testing.assert_close(out.tokens[i, : len(h)], encoder.project(h), rtol=1e-4, atol=1e-5)
        assert encoder.has_class_token == (pool == "first")
    assert encoder.transform(False).cuts(texts[2])
    assert not encoder.transform(False).cuts(texts[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for kind, name in MODELS if kind == "text"])
def test_training_leaves_out_what_is_padding_in_every_text(name: str, folder: Callable[[str], str]) -> None:
    encoder = build("text", folder(name)).double().eval()
    lengths: list[int] = []
    encoder.tower.register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    rows = torch.stack([encoder.transform(True)(text) for text in ("a", "the second text", "else a")])
    upstream = torch.randn(3, DIM, dtype=torch.float64)
    bound = 1e-5 if name == "t5" else 1e-12  # whose norms are float32 in any case

    def step(training: bool, tokens: bool, read: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], int | None]:
        encoder.training, encoder.padding_is_read = training, read  # its parts stay without dropout
        encoder.zero_grad()
        out = encoder(rows, tokens=tokens)
        (out.z * upstream).sum().backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        return out.z, gradients, out.tokens.shape[1] if tokens else None

    whole, expected, _ = step(False, False, False)
    for training, tokens, read in ((True, False, True), (True, True, False), (True, True, True), (False, True, False)):
        z, gradients, length = step(training, tokens, read)
        torch.testing.assert_close(z, whole, rtol=bound, atol=bound)
        assert gradients.keys() == expected.keys()
        for part, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[part], rtol=100 * bound, atol=bound, msg=part)
        assert length in (None, lengths[-1])
    short, context = int((rows >= 0).sum(1).max()), encoder.context_length
    assert lengths == [context, short, short, context, context]
    encoder.requires_grad_(False)  # locked whole, it promises the bits of its features in a file
    encoder.training = True
    encoder(rows)
    assert lengths[-1] == context


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix", "grid"), [("vit", 1, (2, 2)), ("dinov2", 1, (4, 4)), ("convnext", 0, (4, 4))]
)
def test_images_are_what_transformers_computes(
    name: str, prefix: int, grid: tuple[int, int], folder: Callable[[str], str]
) -> None:
    from transformers import AutoImageProcessor, AutoModel

    model, processor = AutoModel.from_pretrained(folder(name)).eval(), AutoImageProcessor.from_pretrained(folder(name))
    pictures = items("image")
    encoder = build("image", folder(name)).eval()
    out = encoder(torch.stack([encoder.transform(False)(picture) for picture in pictures]), tokens=True)
    theirs = model(**processor(images=pictures, return_tensors="pt"))
    torch.testing.assert_close(out.pooled, theirs.pooler_output.flatten(1), rtol=1e-4, atol=1e-5)
    assert (encoder.prefix, encoder.grid) == (prefix, grid)
    blank = Image.new("RGB", (32, 32), (9, 99, 199))
    bytes_ = build("image", folder(name), augment="none").transform(True)(blank)
    assert bytes_.dtype == torch.uint8
    torch.testing.assert_close(
        encoder.normalise(bytes_[None])[0], encoder.transform(False)(blank), atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
def test_padding_of_a_sound_is_masked_where_the_model_knows_masks(folder: Callable[[str], str]) -> None:
    encoder = build("audio", folder("wav2vec2")).eval()
    short, long = ((0.1 * torch.randn(n), 16_000) for n in (3_000, 8_000))
    rows = torch.stack([encoder.transform(False)(item) for item in (short, long)])
    out = encoder(rows, tokens=True)
    assert 0 < out.mask[0].sum() < out.mask[1].sum() == out.mask.shape[1]
    other = rows.clone()
    other[0, 3_000:] = 1e-30  # nearly silence, and no padding
    assert encoder(other, tokens=True).mask[0].all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [("text", "bert"), ("text", "t5"), ("image", "convnext"), ("audio", "hubert")]
)
def test_lock_and_layers(kind: Kind, name: str, folder: Callable[[str], str]) -> None:
    whole = build(kind, folder(name))
    depths, count = whole.depths(), len(whole.repeated())
    assert count == {"bert": 3, "t5": 2, "convnext": 2, "hubert": 3}[name]
    assert set(depths.values()) == set(range(count + 2))
    for unlocked in (0, 1):
        encoder = build(kind, folder(name), lock=unlocked)
        free = {n for n, p in encoder.named_parameters() if p.requires_grad and n.startswith("tower.")}
        assert bool(free) == bool(unlocked)
        assert all(depths[n] >= count for n in free)
        encoder.train()
        assert encoder.training
        rows = rows_of(encoder, kind)
        if not unlocked:  # a frozen tower drops nothing out
            assert not encoder.tower.training
            assert torch.equal(encoder(rows).z, encoder(rows).z)


@pytest.mark.slow
def test_batchnorm_is_refused_unless_locked(folder: Callable[[str], str]) -> None:
    with pytest.raises(RecipeError, match="mixes the samples of a batch"):
        refuse_mixing_encoder("image", build("image", folder("resnet")), MODALITIES["image"])
    refuse_mixing_encoder("image", build("image", folder("resnet"), lock=0), MODALITIES["image"])
    with pytest.raises(RecipeError, match="mixes the samples of a batch"):
        refuse_mixing_encoder("audio", build("audio", folder("clap")), MODALITIES["audio"])
    refuse_mixing_encoder("audio", build("audio", folder("clap"), lock=0), MODALITIES["audio"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clap", "clap-fused"])
def test_a_sound_that_is_longer_than_a_model_hears_is_cropped_by_our_seed(
    name: str, folder: Callable[[str], str]
) -> None:
    """CLAP's extractor crops by numpy's generator, which nobody seeds for a sample."""
    spec = validate("encoder", {"name": "transformers", "model": folder(name), "lock": 0})
    encoder = spec.build(Modality("audio", (48_000,), rate=16_000), DIM)
    sound = torch.randn(48_000), 16_000
    for train in (False, True):
        transform, found = encoder.transform(train), []
        for seed in (1, 1, 2):
            np.random.seed(len(found))
            torch.manual_seed(seed)
            found.append(transform(sound))
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2]) != train


def test_published_weights_are_loaded_unless_they_are_not_asked_for(folder: Callable[[str], str]) -> None:
    from safetensors.torch import load_file

    published = load_file(Path(folder("bert")) / "model.safetensors")["encoder.layer.0.output.dense.weight"]
    own = build("text", folder("bert")).tower.encoder.layer[0].output.dense.weight
    drawn = build("text", folder("bert"), pretrained=False).tower.encoder.layer[0].output.dense.weight
    assert torch.equal(own, published)
    assert not torch.equal(drawn, published)


@pytest.mark.slow
def test_a_check_without_numbers_leaves_none_behind(folder: Callable[[str], str], tmp_path: Path) -> None:
    """A constant of torchaudio was without a number for good where a check had imported it."""
    script = tmp_path / "script.py"
    script.write_text("""
import sys, torch
assert "torchaudio" not in sys.modules, "then this shows nothing"
from workbench.encoders.transformers import Transformers
from workbench.types import Modality
modality = Modality("audio", (8_000,), rate=8_000)
with torch.device("meta"):
    assert next(Transformers(modality, 4, model=sys.argv[1]).parameters()).is_meta
encoder = Transformers(modality, 4, model=sys.argv[1])
assert encoder(encoder.transform(True)((torch.randn(900), 8_000))[None]).z.isfinite().all()
""")
    ended = forked.run([folder("ast")], module=str(script))
    assert ended.returncode == 0, ended.stderr


def test_what_cannot_be_is_told_in_one_line(
    tmp_path: Path, folder: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"no config of the model '.*': it is no folder"):
        build("text", str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match=r"no config of the model '.*': the folder has no such file"):
        build("text", str(tmp_path))
    bare = shutil.copytree(folder("bert"), tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights of the model"):
        build("text", str(bare))
    for file in bare.glob("token*"):
        file.unlink()
    with pytest.raises(RecipeError, match="no tokenizer of the model"):
        build("text", str(bare))
    with pytest.raises(RecipeError, match="CLIPModel has towers for text and image, none for audio"):
        build("audio", folder("clip"))
    with pytest.raises(RecipeError, match=r"context_length \(99\) is above this model's limit: set 40 or less"):
        build("text", folder("bert"), context_length=99)
    with pytest.raises(RecipeError, match="GPT2Model has no pooler: set pool to mean"):
        build("text", folder("gpt2"), pool="pooler")
    with pytest.raises(RecipeError, match="gain: no option of a model for text"):
        build("text", folder("bert"), gain=3.0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install 'multimodal-workbench\[transformers\]'"):
        build("text", folder("bert"))
