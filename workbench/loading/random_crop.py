"""A random crop and its resizing in one pass over bytes: most of what a photograph costs after its decoding.

PIL resizes without the vector instructions of the processor; torch's kernel for bytes has the same filter (bicubic,
widened where it shrinks) in a quarter of the time. torch resizes the width first, then the height, and rounds in
between. Where PIL does so too, they differ in one value of a hundred, by one or two levels of 255. Since its version 13
PIL resizes some tall pictures the other way round: in a photograph of 500 x 333 one value of seven then differs, by up
to five levels, in pure noise more.

The trap: torch picks its kernel by the order in memory. What is read as a view of the whole picture comes out channel
by channel, as a batch wants it; what is first copied pixel by pixel comes out so, as PIL wants it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2


class RandomCrop(v2.RandomResizedCrop):
    """torchvision's RandomResizedCrop of a PIL image, with the same draws.

    Args:
        size: height and width of the result.
        share: smallest and largest share of the area that is kept.
        as_image: give a PIL image instead of a tensor.
    """

    def __init__(self, size: Sequence[int], share: tuple[float, float], as_image: bool) -> None:
        super().__init__(size, share)
        self.height_width, self.as_image = tuple(size), as_image

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] torchvision's takes anything
        self, image: Image.Image
    ) -> UInt8[Tensor, "3 h w"] | Image.Image:
        box = self.make_params([image])
        top, left = box["top"], box["left"]
        pixels = torch.from_numpy(np.array(image))[top : top + box["height"], left : left + box["width"]]
        x = pixels.permute(2, 0, 1)[None]
        if self.as_image:
            x = x.contiguous(memory_format=torch.channels_last)
        x = interpolate(x, self.height_width, mode="bicubic", antialias=True)[0]
        return Image.fromarray(x.permute(1, 2, 0).numpy()) if self.as_image else x
