"""Raw items as models of transformers read them: each is one tensor of one shape, whose padding can be told.

The trap is padding: tokenizers often pad with an id that is a token, too. So an id that is not there is -1 here, and
becomes the model's own padding only right before it is embedded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from workbench.loading.augment_audio import Listen
from workbench.loading.decode import to_rgb
from workbench.loading.ends import crop_ends

ABSENT = -1
"""the id in the place of a token that is not there"""

LEAST = 20
"""a sound is at least this part of a second long: a window of a spectrogram is a fortieth"""


@dataclass(frozen=True)
class TokenIds:
    """Maps one text to `length` ids of the model's own tokenizer, -1 behind its end."""

    tokenizer: Any
    length: int

    def __call__(self, text: str) -> Int64[Tensor, " l"]:
        # an empty text has no token in some vocabularies: it becomes one token of padding, which is there
        ids = self.tokenizer(text, truncation=True, max_length=self.length)["input_ids"] or [padding_id(self.tokenizer)]
        return torch.tensor(ids + [ABSENT] * (self.length - len(ids)))

    def cuts(self, text: str) -> bool:
        """Say whether the text has more tokens than are read."""
        return len(self.tokenizer(text)["input_ids"]) > self.length


def padding_id(tokenizer: Any) -> int:
    """Find the id that a model expects where there is no token."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(id_ for id_ in ids if id_ is not None)


@dataclass(frozen=True)
class Pixels:
    """Maps one picture of any mode to [3, h, w] float32, by the model's own image processor."""

    processor: Any

    def __call__(self, picture: Image.Image) -> Float[Tensor, "3 h w"]:
        picture = crop_ends(to_rgb(picture), (1, 1))
        return self.processor(images=picture, return_tensors="pt")["pixel_values"][0].float()


@dataclass(frozen=True)
class Heard:
    """Maps one sound to what the model's own feature extractor makes of it, always as long.

    `listen` crops it and brings it to the model's rate.
    """

    extractor: Any
    listen: Listen
    name: str
    """what the model calls its input"""

    def __call__(self, raw: tuple[Tensor, int]) -> Float[Tensor, ...]:
        waveform = self.listen(raw)
        heard = int(waveform.nonzero().amax()) + 1 if waveform.any() else 0
        waveform = waveform[: max(heard, self.listen.rate // LEAST)]
        # of samples the length is ours; pictures of sound have one of their own, as Whisper's 30 seconds
        sized = {"padding": "max_length", "max_length": self.listen.samples, "truncation": True}
        return self._extract(waveform, **(sized if self.reads_samples else {}))

    def _extract(self, waveform: Tensor, **sized: Any) -> Tensor:
        rate = self.extractor.sampling_rate
        found = self.extractor(waveform.numpy(), sampling_rate=rate, return_tensors="pt", **sized)
        return torch.as_tensor(found[self.name])[0].float()

    @cached_property
    def reads_samples(self) -> bool:
        """Whether the model reads samples, and no picture of sound."""
        return self._extract(torch.zeros(self.listen.rate // LEAST)).ndim == 1

    @property
    def masks(self) -> bool:
        """Whether the model was trained with a mask of what is padding."""
        return self.reads_samples and bool(self.extractor.return_attention_mask)
