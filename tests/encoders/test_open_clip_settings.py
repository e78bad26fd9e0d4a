"""Towers of open_clip as a recipe asks for them: pretrained weights, images, texts, and what is refused, by name."""

import pickle

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg
from open_clip_towers import DIM, IMAGE, TEXT, TOWER, TRUNKS, VIT, clip, ids, make
from PIL import Image
from torch import nn

from workbench.encoders.open_clip import OpenCLIP, Preprocess, Tokenize
from workbench.loading.augment import Augment
from workbench.recipe.component import validate
from workbench.types import Modality

pytestmark = pytest.mark.slow


def checkpoint(folder: object, model: nn.Module) -> str:
    path = f"{folder}/model.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def test_pretrained_file(tmp_path: object) -> None:
    reference = clip()
    path = checkpoint(tmp_path, reference)
    images, x = torch.randn(3, 3, 32, 32), ids(3)
    image, text = make(IMAGE, config=VIT, pretrained=path).eval(), make(TEXT, config=TOWER, pretrained=path).eval()
    assert torch.equal(image(images).z, reference.encode_image(images))
    assert torch.equal(text(x).z, reference.encode_text(x))
    with pytest.raises(ValueError, match=r"(?s)does not fit this one.*visual.proj"):
        make(IMAGE, DIM + 1, config=VIT, pretrained=path)


def test_pretrained_plain_clip_at_another_size(tmp_path: object) -> None:
    path = checkpoint(tmp_path, open_clip.CLIP(DIM, VIT, TOWER))  # the old layout, without `text.`
    reference = clip(vision=VIT | {"image_size": 48}, text=TOWER | {"context_length": 8})
    open_clip.load_checkpoint(reference, path)
    images, x = torch.randn(3, 3, 48, 48), ids(3, length=8)
    image = make(IMAGE, config=VIT, image_size=48, pretrained=path).eval()
    text = make(TEXT, config=TOWER, context_length=8, pretrained=path).eval()
    assert torch.equal(image(images).z, reference.encode_image(images))
    assert torch.equal(text(x).z, reference.encode_text(x))


@pytest.mark.parametrize("shape", [(32, 32), (90, 50), (33, 71)])
def test_evaluation_images(shape: tuple[int, int]) -> None:
    encoder = OpenCLIP(IMAGE, DIM, config=VIT)
    image = Image.fromarray(np.random.default_rng().integers(0, 256, (*shape, 3), dtype=np.uint8))
    transform = pickle.loads(pickle.dumps(encoder.transform(train=False)))
    x = transform(image)
    assert torch.equal(x, open_clip.image_transform(32, is_train=False)(image))
    height, width = shape  # by hand: the shorter side to 32, the centre
    size = (int(32 * width / min(shape)), int(32 * height / min(shape)))
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))) / 255
    expected = (pixels - open_clip.OPENAI_DATASET_MEAN) / open_clip.OPENAI_DATASET_STD
    np.testing.assert_allclose(x.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_training_images() -> None:
    image = Image.fromarray(np.random.default_rng().integers(0, 256, (40, 40, 3), dtype=np.uint8))
    plain = OpenCLIP(IMAGE, DIM, config=VIT, augment=Augment.model_validate("none"))
    pixels, floats = plain.transform(train=True)(image)[None], plain.transform(train=False)(image)[None]
    assert (pixels.dtype, floats.dtype) == (torch.uint8, torch.float32)
    torch.testing.assert_close(plain.normalise(pixels), floats)
    plain.eval()
    torch.testing.assert_close(plain(pixels).z, plain(floats).z)
    for encoder in (OpenCLIP(IMAGE, DIM, config=VIT), OpenCLIP(IMAGE, DIM, config=TRUNKS["convnext"])):
        transform = encoder.transform(train=True)
        draws = [transform(image) for _ in range(4)]
        assert draws[0].shape == (3, *encoder.preprocess.size)
        assert any(not torch.equal(draws[0], x) for x in draws)


def test_texts() -> None:
    encoder = OpenCLIP(TEXT, DIM, config=TOWER)
    transform = pickle.loads(pickle.dumps(encoder.transform(train=True)))
    for text in ("a cat", "", "Ein Füchschen &amp; 🦊", "word " * 40):
        x = transform(text)
        assert torch.equal(x, open_clip.get_tokenizer("ViT-B-16", context_length=10)(text)[0])
        assert x.dtype == torch.int64
    assert torch.equal(transform("a cat"), encoder.tokenizer(["a cat"])[0])


@pytest.mark.parametrize(
    ("modality", "settings", "message"),
    [
        (Modality("vector"), {"model": "ViT-B-16"}, "not vectors: use 'mlp'"),
        (IMAGE, {}, "it got neither"),
        (IMAGE, {"model": "ViT-B-16", "config": VIT}, "it got both.*config: null"),
        (IMAGE, {"model": "ViT-B16"}, r"no model 'ViT-B16'; close: .*ViT-B-16"),
        (IMAGE, {"config": {"layer": 2}}, "did you mean 'layers'"),
        (IMAGE, {"model": "RN50"}, "ModifiedResNet.*convnext_atto"),
        (
            IMAGE,
            {"config": {"timm_model_name": "convnext_ato"}},
            "timm has no model.*close: convnext_atto",
        ),
        (IMAGE, {"config": VIT | {"patch_size": 0}}, "open_clip cannot build this tower"),
        (IMAGE, {"config": VIT | {"width": -8}}, "open_clip cannot build this tower"),
        (TEXT, {"config": TOWER | {"heads": 5}}, "open_clip cannot build this tower"),
        (IMAGE, {"model": "coca_ViT-B-32"}, "CoCa"),
        (TEXT, {"model": "coca_ViT-B-32"}, "CoCa"),
        (TEXT, {"model": "roberta-ViT-B-32"}, "hf_model_name roberta-base"),
        (TEXT, {"model": "ViT-B-16-SigLIP"}, "hf_tokenizer_name timm/ViT-B-16-SigLIP"),
        (TEXT, {"config": TOWER | {"pool_type": "last"}}, "pool_type last"),
        (TEXT, {"config": TOWER | {"proj_type": "none"}}, "proj_type none"),
        (TEXT, {"config": TOWER | {"vocab_size": 100}}, "vocab_size 100: CLIP's tokenizer has 49408"),
        (IMAGE, {"config": TRUNKS["resnet"] | {"timm_pool": "abs_attn"}}, "timm_pool abs_attn"),
        (IMAGE, {"config": TRUNKS["siglip"]}, r"width \(96\), but model.dim is 24"),
        (IMAGE, {"config": {"timm_model_name": "vgg11"}, "grad_checkpointing": True}, "remove grad_checkpointing"),
        (IMAGE, {"config": VIT, "context_length": 5}, "context_length: no option of a tower for image"),
        (TEXT, {"config": TOWER, "augment": Augment(), "image_size": 5}, "image_size, augment: no option"),
        (IMAGE, {"config": VIT, "pretrained": "nowhere.pt"}, "neither a file nor a tag"),
        (IMAGE, {"model": "ViT-B-16", "pretrained": "laion"}, "laion2b_s34b_b88k"),
        (IMAGE, {"model": "ViT-B-32", "pretrained": "openai"}, "take (?!.*(ViT-B-32,|RN50)).*ViT-B-32-quickgelu"),
    ],
)
def test_refusals(modality: Modality, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        make(modality, **settings)


def test_recipe() -> None:
    spec = validate("encoder", {"name": "open_clip", "config": VIT, "augment": "ito", "image_size": 16})
    again = validate("encoder", spec.as_dict())
    encoder = again.build(IMAGE, DIM)
    assert encoder.augment == Augment.model_validate("ito")
    assert encoder.preprocess.size == encoder.tower.image_size == (16, 16)
    with pytest.raises(ValueError, match="did you mean 'ito'"):
        validate("encoder", {"name": "open_clip", "config": VIT, "augment": "itto"})


def stripes(width: int, height: int) -> Image.Image:
    """A smooth picture: what lies between its pixels is clear."""
    along, across = np.linspace(0, 40, max(width, height)), np.linspace(0, 3, min(width, height))
    wave = 127 + 120 * np.sin(along)[None] * np.cos(across)[:, None]
    return Image.fromarray((wave if width > height else wave.T).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("shape", [(900, 20), (20, 901), (641, 40), (640, 40), (13, 413)])
def test_a_long_picture_is_preprocessed_as_by_open_clip(shape: tuple[int, int]) -> None:
    """Its ends are cut off first: what remains is the same centre, resized at the same scale."""
    encoder, picture = OpenCLIP(IMAGE, DIM, config=VIT), stripes(*shape)
    x, expected = encoder.transform(train=False)(picture), open_clip.image_transform(32, is_train=False)(picture)
    levels = 1 / (255 * np.min(open_clip.OPENAI_DATASET_STD))
    assert (x - expected).abs().max() < 4 * levels


@pytest.mark.parametrize("shape", [(60_000, 1), (1, 60_000), (30_000, 3)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_a_line_needs_no_more_memory_than_a_picture(shape: tuple[int, int], mode: str) -> None:
    """Of a line of 60,000 x 1, resizing the shorter side to 224 makes 13,440,000 x 224 pixels: nine gigabytes."""
    preprocess = Preprocess(PreprocessCfg(size=(224, 224), resize_mode=mode))
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: object, **kwargs: object) -> Image.Image:
        assert size[0] * size[1] < 224 * 224 * 20, size
        return resize(self, size, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        assert preprocess(Image.new("RGB", shape, "red")).shape == (3, 224, 224)


def test_a_tokenizer_says_what_it_cuts() -> None:
    tower = OpenCLIP(TEXT, DIM, config=TOWER, context_length=6)
    tokenize = tower.transform(train=True)
    assert isinstance(tokenize, Tokenize)
    assert (tower.context_length, OpenCLIP(IMAGE, DIM, config=VIT).context_length) == (6, None)
    for words in range(8):  # each of these words is one token; a start and an end are added
        text = " ".join(["cat"] * words)
        assert tokenize.cuts(text) == (words > 4)
        assert (tokenize(text) != 0).sum() == min(words + 2, 6)
