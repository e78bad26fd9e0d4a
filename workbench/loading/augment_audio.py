"""A sound as a model reads it: one rate, one length, and what training may change about it.

Every choice is drawn here, from torch's global generator, which the feed seeds for each sample. Masks are applied where
the spectrogram is, on the device, so they travel behind the waveform, as two numbers each.

The trap is the rate: a kernel that resamples between two rates without a common divisor has as many numbers as their
product. So their quotient is rounded to a fraction of small numbers, which changes the pitch by a thousandth at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator
from torch import Tensor, nn

from workbench.recipe.section import Section, from_preset

PRESETS: dict[str, dict[str, Any]] = {
    "none": {"gain": 0.0, "time_masks": 0, "mel_masks": 0},
    "spec": {},
}
"""`none` crops at random and changes nothing else · `spec` gain and SpecAugment (Park et al. 2019, arXiv 1904.08779)"""
LARGEST = 1000
"""numerator of a quotient of rates, about, where it is not a whole number"""

Share = Annotated[float, Field(ge=0, le=1)]


class AudioAugment(Section):
    """The augmentation of training sounds: keys, or a preset by its name (`none`, `spec`), or keys upon one.

    A longer sound is cropped at random in any case. A mask takes the mean of the spectrogram; its width is drawn from 0
    to the largest share, its place from everywhere.

    Args:
        gain: largest change of the loudness in decibels, up or down
        time_masks: stretches of time that are masked
        time_share: the largest share of the time that one of them takes
        mel_masks: bands of pitch that are masked
        mel_share: the largest share of the bands that one of them takes
    """

    gain: NonNegativeFloat = 6.0
    time_masks: NonNegativeInt = 2
    time_share: Share = 0.1
    mel_masks: NonNegativeInt = 2
    mel_share: Share = 0.15

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        return from_preset(value, PRESETS, "augmentation")


@dataclass(frozen=True)
class Listen:
    """Maps (waveform, rate) to `samples` of a waveform at `rate`, and in training to those and the bounds of masks.

    Args:
        samples: length of the result; a longer sound is cropped, a shorter one followed by zeros.
        rate: samples a second of the result.
        augment: what training changes; None for an evaluation, which takes the middle.
    """

    samples: int
    rate: int
    augment: AudioAugment | None = None

    def __call__(self, raw: tuple[Tensor, int]) -> Float[Tensor, " s"]:
        waveform, rate = raw
        # cropped before it is resampled: of an hour of sound only some seconds are worth the work
        needed = max(1, math.ceil(self.samples * rate / self.rate))
        spare = max(0, len(waveform) - needed)
        begin = int(torch.randint(spare + 1, ())) if self.augment else spare // 2
        x = resample(waveform[begin : begin + needed].float(), rate, self.rate)[: self.samples]
        x = nn.functional.pad(x, (0, self.samples - len(x)))
        if not self.augment:
            return x
        decibels = self.augment.gain * (2 * torch.rand(()) - 1)
        return torch.cat([x * 10 ** (decibels / 20), draw_masks(self.augment)])


def draw_masks(augment: AudioAugment) -> Float[Tensor, " m"]:
    """Draw begin and end of every mask, as shares of the whole: those of time, then those of pitch."""
    shares = [augment.time_share] * augment.time_masks + [augment.mel_share] * augment.mel_masks
    width = torch.tensor(shares) * torch.rand(len(shares))
    begin = (1 - width) * torch.rand(len(shares))
    return torch.stack([begin, begin + width], dim=1).flatten()


def resample(waveform: Float[Tensor, " n"], rate: int, wanted: int) -> Float[Tensor, " m"]:
    """Resample by torchaudio's windowed sinc; the quotient of the rates is rounded as the trap above says."""
    small, large = sorted((rate, wanted))
    ratio = Fraction(large, small).limit_denominator(max(1, LARGEST * small // large))
    if ratio == 1:
        return waveform
    few, many = ratio.denominator, ratio.numerator
    return (_resampler(few, many) if rate < wanted else _resampler(many, few))(waveform)


@cache
def _resampler(rate: int, wanted: int) -> nn.Module:
    from torchaudio.transforms import Resample  # seconds to import, and not installed everywhere

    return Resample(rate, wanted)
