"""Augmentation: its colours against torchvision's one by one, its geometry, its randomness and its speed."""

import pickle
import time
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import v2

from workbench.loading.augment import LUMA, PRESETS, Augment, ColorJitter, GaussianBlur, Normalise, color_matrix

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.fixture(autouse=True)
def seed() -> None:
    print(f"torch.manual_seed({torch.seed()})")


def photo(height: int, width: int, low: int = 0, high: int = 256) -> Image.Image:
    return Image.fromarray(torch.randint(low, high, (height, width, 3), dtype=torch.uint8).numpy())


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


def mapped(image: Image.Image, change: list[float], order: list[int]) -> np.ndarray:
    """The colours under the map, before rounding and clipping."""
    matrix = color_matrix(array(image).mean(axis=(0, 1)), change, order)
    return array(image) @ matrix[:, :3].T + matrix[:, 3]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_one_change_equals_torchvisions(kind: int) -> None:
    image = photo(41, 29, 90, 160)  # away from 0 and 255: torchvision clips and rounds after every change
    change = torch.empty(4).uniform_(-0.4, 0.4).tolist()
    adjust = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)[kind]
    expected = array(adjust(image, 1 + change[kind]))
    assert np.abs(mapped(image, change, [kind]) - expected).max() < 1.5


@pytest.mark.parametrize("order", permutations(range(3)))
def test_changes_compose_in_order(order: tuple[int, ...]) -> None:
    image = photo(41, 29, 100, 150)
    change = torch.empty(4).uniform_(-0.2, 0.2).tolist()
    step = array(image)
    for kind in order:  # by the definition of each change, on colours that are never rounded
        gray = (step @ LUMA)[..., None]
        towards = (0.0, gray.mean(), gray)[kind]
        step = towards + (1 + change[kind]) * (step - towards)
    np.testing.assert_allclose(mapped(image, change, list(order)), step, rtol=0, atol=1e-9)


def test_hue_turns_chroma_and_keeps_luma() -> None:
    image, turn = photo(13, 17), torch.empty(1).uniform_(-0.5, 0.5).item()
    turned = mapped(image, [0.0, 0.0, 0.0, turn], [3])
    np.testing.assert_allclose(turned @ LUMA, array(image) @ LUMA, atol=1e-9)
    thrice = color_matrix(np.zeros(3), [0.0, 0.0, 0.0, 1 / 3], [3, 3, 3])
    np.testing.assert_allclose(thrice, np.eye(3, 4), atol=1e-12)
    red = Image.new("RGB", (1, 1), (160, 110, 110))
    for turn in (0.1, -0.1):  # towards yellow or magenta as in HSV, which however brightens and darkens
        pair = mapped(red, [0.0, 0.0, 0.0, turn], [3])[0, 0], array(v2.functional.adjust_hue(red, turn))[0, 0]
        mine, theirs = (color - color @ LUMA for color in pair)
        assert mine @ theirs > 0.93 * np.linalg.norm(mine) * np.linalg.norm(theirs)


def test_jitter_rounds_and_clips_its_map() -> None:
    image = photo(31, 23)
    torch.manual_seed(draw := int(torch.randint(2**31, ())))
    change = (torch.tensor([0.4, 0.4, 0.4, 0.1]) * torch.empty(4).uniform_(-1, 1)).tolist()
    order = torch.randperm(4).tolist()
    torch.manual_seed(draw)
    jittered = array(ColorJitter(0.4, 0.4, 0.4, 0.1)(image))
    assert np.abs(jittered - mapped(image, change, order).clip(0, 255)).max() < 1.1  # the mean colour is rounded too


def test_nothing_to_do_changes_nothing() -> None:
    image = photo(20, 20)
    assert np.array_equal(array(ColorJitter(0.0, 0.0, 0.0, 0.0)(image)), array(image))
    out = Augment(crop=None).compose((20, 20))(image)
    assert np.array_equal(out.permute(1, 2, 0).numpy(), array(image))


def test_bytes_are_normalised_where_they_are_used_and_floats_were_before() -> None:
    image, normalise = photo(41, 29), Normalise(MEAN, STD)
    x = Augment(crop=None).compose((41, 29))(image)
    out = normalise(x[None])
    assert (x.dtype, out.dtype) == (torch.uint8, torch.float32)
    np.testing.assert_allclose(out[0].permute(1, 2, 0).numpy(), (array(image) / 255 - MEAN) / STD, atol=1e-5)
    assert normalise(out) is out
    assert torch.equal(normalise(x.expand(5, 2, 3, 41, 29).flatten(0, 1)), out.expand(10, 3, 41, 29))
    assert normalise.state_dict() == {}


def test_blur_keeps_the_mean_and_smooths() -> None:
    image = photo(64, 64)
    blurred = [array(GaussianBlur(2.0)(image)) for _ in range(20)]
    assert min(x.std() for x in blurred) < 0.5 * array(image).std()
    assert all(abs(x.mean() - array(image).mean()) < 2 for x in blurred)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_seeded_shapes(preset: str, size: tuple[int, int]) -> None:
    transform = Augment.model_validate(preset).compose(size)
    image, outs = photo(97, 89), []
    for draw in (1, 1, 2, 3, 4):
        torch.manual_seed(draw)
        outs.append(pickle.loads(pickle.dumps(transform))(image))
    assert outs[0].shape == (3, *size)
    assert outs[0].dtype == torch.uint8
    assert torch.equal(outs[0], outs[1])
    assert all(torch.equal(outs[0], out) for out in outs) == (preset == "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"flip": 0.25}, {"grayscale": 0.25}, {"blur": 0.25}, {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.25}],
)
def test_each_change_happens_as_often_as_it_says(settings: dict) -> None:
    image, n = photo(96, 96), 400
    transform, plain = (Augment(crop=None, **kw).compose((96, 96)) for kw in (settings, {}))
    changed = sum(not torch.equal(transform(image), plain(image)) for _ in range(n))
    assert abs(changed / n - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5


def test_crop_keeps_the_share_it_says() -> None:
    ramp = np.zeros((100, 100, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100)[None], np.arange(100)[:, None]
    transform = Augment(crop=(0.5, 0.6)).compose((50, 50))
    for _ in range(50):
        x = transform(Image.fromarray(ramp))
        sides = [x[c].max().item() - x[c].min().item() + 1 for c in (0, 1)]
        assert 0.45 < sides[0] * sides[1] / 100**2 < 0.65


def test_recipe_forms() -> None:
    assert Augment() == Augment.model_validate("clip") == Augment(crop=(0.9, 1.0))
    ito = Augment.model_validate("ito")
    assert ito.jitter == (0.4, 0.4, 0.4, 0.1)
    assert (ito.crop, ito.jitter_p, ito.grayscale, ito.blur, ito.flip) == ((0.5, 1.0), 0.8, 0.2, 0.5, 0.5)
    assert Augment.model_validate(ito.model_dump(mode="json")) == Augment.model_validate({"name": "ito"}) == ito
    assert Augment.model_validate({"name": "ito", "blur": 0.1}) == ito.model_copy(update={"blur": 0.1})
    for wrong, why in (
        ("itto", "did you mean 'ito'"),
        ({"name": "itto", "blur": 0.1}, "did you mean 'ito'"),
        ({"name": ["ito"]}, "known: none, clip, ito"),
        ({"crop": (0.9, 0.5)}, "smallest"),
        ({"jiter": None}, "'jitter'"),
    ):
        with pytest.raises(ValidationError, match=why):
            Augment.model_validate(wrong)


@pytest.mark.slow
def test_is_fast() -> None:
    """'ito' at 64 pixels beside the same steps by torchvision alone, in turns on the same processor."""
    image = photo(72, 72)
    mine = Augment.model_validate("ito").compose((64, 64))
    theirs = v2.Compose([
        v2.RandomResizedCrop(64, (0.5, 1)), v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(7, (0.1, 2.0))], 0.5), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ])  # fmt: skip

    def microseconds(transform: v2.Compose) -> float:
        start = time.process_time()
        for _ in range(40):
            transform(image)
        return (time.process_time() - start) / 40 * 1e6

    fast, slow = map(min, zip(*[(microseconds(mine), microseconds(theirs)) for _ in range(5)], strict=True))
    print(f"ito at 64 pixels: {fast:.0f} us an image; torchvision {slow:.0f} us")
    assert fast < 0.7 * slow


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 2)])
def test_a_line_is_not_blown_up(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shorter side becomes 32 pixels: of the longer one, 16 times as much is kept, whatever it was."""
    sizes: list[tuple[int, int]] = []
    real = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: sizes.append(size) or real(self, size, *a, **k)
    )
    assert Augment(crop=None).compose((32, 32))(photo(*shape)).shape == (3, 32, 32)
    assert max(max(size) for size in sizes) <= 17 * 32
