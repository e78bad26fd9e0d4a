"""The crop of training images against torchvision's: the same draws, the same pixels but for a rounding."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from workbench.loading.random_crop import RandomCrop


@pytest.mark.parametrize("as_image", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (224, 160)])
@pytest.mark.parametrize("shape", [(375, 500), (41, 509), (30, 30)])
def test_equals_torchvisions(shape: tuple[int, int], size: tuple[int, int], as_image: bool) -> None:
    rng = np.random.default_rng(seed := torch.seed() % 2**32)
    print(f"seed {seed}")
    noise = rng.integers(256, size=(*shape, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((9, 9)).resize(shape[::-1], Image.Resampling.BICUBIC)
    ours = RandomCrop(size, (0.3, 1.0), as_image)
    theirs = v2.RandomResizedCrop(size, (0.3, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    for image in (Image.fromarray(noise), smooth):
        before = torch.get_rng_state()
        mine = ours(image)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        expected = v2.functional.pil_to_tensor(theirs(image))
        assert torch.equal(torch.get_rng_state(), after)
        assert isinstance(mine, Image.Image) == as_image
        got = v2.functional.pil_to_tensor(mine) if as_image else mine
        assert (got.dtype, got.shape) == (torch.uint8, (3, *size))
        difference = (got.int() - expected.int()).abs()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.04


@pytest.mark.parametrize("shape", [(500, 333), (640, 427), (509, 41)])
def test_tall_pictures_may_be_resized_in_another_order(shape: tuple[int, int]) -> None:
    """Pillow 13 resizes some of them height first: noise then shows the rounding in between."""
    pixels = np.random.default_rng().integers(256, size=(*shape, 3), dtype=np.uint8)
    box = {"top": 0, "left": 0, "height": shape[0], "width": shape[1]}
    ours = RandomCrop((224, 224), (0.3, 1.0), as_image=False)
    ours.make_params = lambda _: box  # type: ignore[method-assign]
    theirs = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)
    difference = np.abs(ours(Image.fromarray(pixels)).permute(1, 2, 0).numpy().astype(int) - np.asarray(theirs))
    assert difference.max() <= 20
    assert (difference > 0).mean() < 0.35


def test_both_results_are_the_same_pixels() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(256, size=(60, 80, 3), dtype=np.uint8))
    results = []
    for as_image in (False, True):
        torch.manual_seed(3)
        results.append(RandomCrop((24, 24), (0.5, 1.0), as_image)(image))
    assert torch.equal(results[0], v2.functional.pil_to_tensor(results[1]))
