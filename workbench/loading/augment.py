"""Image augmentation: a PIL image in, a tensor of bytes out, every choice drawn from torch's global generator.

Images stay bytes until the model has them (`Normalise`): a quarter of float32 in every worker, queue and batch, and on
the way to the device.

The trap is speed: torchvision's colour jitter passes over the image four times and through HSV, which costs more than
everything else together. Here the four changes of colour are one 3 x 4 matrix, applied in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageFilter
from pydantic import Field, model_validator
from torch import Tensor, nn

from workbench.loading.ends import crop_ends
from workbench.postponed import OF_TORCHVISION, postponed
from workbench.recipe.section import Section, from_preset
from workbench.types import Transform

__all__ = ["Augment", "Normalise"]

PRESETS: dict[str, dict[str, Any]] = {
    "none": {"crop": None},
    "clip": {"crop": (0.9, 1.0)},
    "ito": {"crop": (0.5, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "grayscale": 0.2, "blur": 0.5, "flip": 0.5},
}
"""`none` as in evaluation · `clip` OpenCLIP's · `ito` ITO's (arXiv 2603.02767), after SimCLR"""

LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.stack([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""RGB to luma and two axes of chroma: a change of hue is a rotation of these two"""

Fraction = Annotated[float, Field(ge=0, le=1)]


class Augment(Section):
    """The augmentation of training images: keys, or a preset by its name (`none`, `clip`, `ito`), or keys upon one.

    `ito` is short for `{name: ito}`, and `{name: ito, blur: 0.1}` is that preset with less blur. Without a name a block
    starts from `clip`. A resolved recipe has the keys that come of it, and no name.

    Args:
        crop: smallest and largest share of the area that a random crop keeps (sides 3:4 to 4:3); null crops the centre
        jitter: largest relative change of brightness, contrast and saturation, and of hue in turns
        jitter_p: probability of the jitter
        grayscale: probability of losing all colour
        blur: probability of a Gaussian blur, sigma up to 2 pixels at a size of 224, in proportion at others
        flip: probability of a mirror image
    """

    crop: tuple[Fraction, Fraction] | None = PRESETS["clip"]["crop"]
    jitter: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    jitter_p: Fraction = 0.8
    grayscale: Fraction = 0.0
    blur: Fraction = 0.0
    flip: Fraction = 0.0

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return from_preset(value, PRESETS, "augmentation")

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        if self.crop and not 0 < self.crop[0] <= self.crop[1]:
            raise ValueError(f"crop {self.crop} must be a smallest share above 0, then a largest one")
        return self

    def compose(self, size: Sequence[int]) -> Transform:
        """Build the map of an RGB image of any size to bytes [3, *size]."""
        # a second, which `wb check` does not pay
        with postponed(*OF_TORCHVISION):
            from torchvision.transforms import v2

            from workbench.loading.random_crop import RandomCrop

        colours: list[nn.Module] = []
        if self.jitter:
            colours.append(v2.RandomApply([ColorJitter(*self.jitter)], self.jitter_p))
        if self.grayscale:
            colours.append(v2.RandomGrayscale(self.grayscale))
        if self.blur:
            colours.append(v2.RandomApply([GaussianBlur(2 * min(size) / 224)], self.blur))
        steps: list[nn.Module] = (  # the crop first: the rest then works on few pixels
            [RandomCrop(size, self.crop, as_image=bool(colours))]
            if self.crop
            else [CropEnds(size), v2.Resize(min(size), v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)]
        )
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        return v2.Compose([*steps, *colours, v2.PILToTensor()])  # which leaves a tensor alone


class CropEnds(nn.Module):
    """Cuts off the ends of a very long picture, of which the resizing would make gigabytes."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def forward(self, image: Image.Image) -> Image.Image:
        return crop_ends(image, self.size)


class ColorJitter(nn.Module):
    """Brightness, contrast, saturation and hue in random order, as one affine map of the colours.

    torchvision's factors and order; unlike there, colours are clipped once, at the end, and hue turns in the YIQ plane,
    which keeps the luma (as DALI's ColorTwist does).
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float):
        super().__init__()
        self.largest = (brightness, contrast, saturation, hue)

    def forward(self, image: Image.Image) -> Image.Image:
        draws = torch.empty(4).uniform_(-1, 1).tolist()
        change = [largest * draw for largest, draw in zip(self.largest, draws, strict=True)]
        order = torch.randperm(4).tolist()
        mean = np.array(image.reduce(image.size).getpixel((0, 0)), dtype=float)
        return image.convert("RGB", tuple(color_matrix(mean, change, order).flat))


def color_matrix(mean: Float[ndarray, " 3"], change: list[float], order: list[int]) -> Float[ndarray, "3 4"]:
    """Compose the map [A | b], x -> A x + b on colours 0..255, of the changes in `order`: 0 brightness, 1 contrast
    (towards the luma of the `mean` colour), 2 saturation, 3 hue."""
    matrix = np.eye(3, 4)
    for kind in order:
        factor = 1 + change[kind]
        if kind == 0:
            matrix *= factor
        elif kind == 1:
            gray = LUMA @ (matrix @ np.append(mean, 1))  # of the image as changed so far
            matrix *= factor
            matrix[:, 3] += (1 - factor) * gray
        elif kind == 2:
            matrix = factor * matrix + (1 - factor) * (LUMA @ matrix)
        else:
            cos, sin = math.cos(math.tau * change[kind]), math.sin(math.tau * change[kind])
            matrix = np.linalg.solve(YIQ, np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ YIQ @ matrix)
    return matrix


class GaussianBlur(nn.Module):
    """PIL's own blur with sigma uniform in [0, largest] pixels: torchvision's is a convolution on a tensor and back."""

    def __init__(self, largest: float):
        super().__init__()
        self.largest = largest

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(torch.empty(1).uniform_(0, self.largest).item()))


class Normalise(nn.Module):
    """Bytes to normalised float32, on the device that computes. The type decides: floats are normalised already.

    `mean` and `std` in units of full brightness. No part of a checkpoint.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, 255 * torch.tensor(value)[:, None, None], persistent=False)

    def forward(self, x: UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        return x if x.is_floating_point() else (x - self.mean).div_(self.std)
