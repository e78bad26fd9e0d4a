"""Sound as a picture: a log-mel spectrogram, made on the device, that a trunk of timm looks at.

The trap: a spectrogram in bf16 is wrong by whole decibels, so it is computed in fp32 whatever the tower computes in.
And a trunk with BatchNorm mixes the samples of a batch in training: the build refuses it unless it is locked.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Self

import timm
import torch
from jaxtyping import Float, Int64
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from workbench.encoders._frozen import rest_frozen_parts
from workbench.encoders._kinds import require_kind
from workbench.encoders._optional import require
from workbench.encoders._trunk import (
    lock_trunk,
    pools_class_token,
    repeated_layers,
    trunk_depths,
    trunk_tokens,
)
from workbench.errors import did_you_mean
from workbench.loading.augment_audio import AudioAugment, Listen
from workbench.types import Encoder, Features, Modality, Transform

__all__ = ["Audio"]

STRIDE = 32
"""the number of frames is a multiple of it, as trunks halve them up to five times"""


class Audio(Encoder):
    """Maps waveforms [n, samples] to Features: log-mel spectrogram, a trunk of timm with one channel, a projection.

    The spectrogram is Whisper's (Radford et al. 2022): Hann windows, Slaney's mel bands, log10 of the power down to 8
    decades below a sound's loudest, (x + 4) / 4. `pooled` is what the trunk pools. Tokens are the trunk's, projected,
    with fixed 2-D sine positions (time along the columns); their mask ends where a sound ends that was too short. The
    data says how many seconds are read, and at which rate (`seconds` and `rate` of its field). It needs torchaudio:
    pip install 'multimodal-workbench[audio]'.

    Args:
        model: a trunk of timm, with LayerNorm: convnext_atto, edgenext_xx_small, any ViT
        pretrained: true for timm's published weights, or a file of them; those of pictures do well on spectrograms, and
            their first layer becomes the sum over its three channels
        mels: bands of the spectrogram, a multiple of 32
        window: length of a window in milliseconds
        hop: milliseconds from a frame to the next
        augment: of training sounds: none, spec (the default), a block of keys, or {name: spec, gain: 0}
        grad_checkpointing: recompute the blocks in the backward pass: less memory, more time
        lock: freeze the trunk but for this many last groups of layers (0: all)

    Raises ValueError for a modality that is no audio, without torchaudio, and for a trunk that timm cannot build so.
    """

    has_tokens = True

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        model: str = "convnext_atto",
        pretrained: bool | str = False,
        mels: PositiveInt = 64,
        window: PositiveFloat = 25.0,
        hop: PositiveFloat = 10.0,
        augment: AudioAugment | None = None,
        grad_checkpointing: bool = False,
        lock: NonNegativeInt | None = None,
    ):
        super().__init__()
        require_kind(modality, ["audio"])
        if len(modality.shape) != 1 or modality.rate < 1:
            raise ValueError("the data has to declare how long its sounds are: a shape (samples,) and a rate")
        if mels % STRIDE:
            fits = math.ceil(mels / STRIDE) * STRIDE
            raise ValueError(f"mels ({mels}) must be a multiple of {STRIDE}: set mels={fits}")
        require("torchaudio", "audio")
        self.samples, self.rate, self.dim = modality.shape[0], modality.rate, dim
        self.augment = augment or AudioAugment()
        self.spectrogram = LogMel(self.samples, self.rate, mels, window, hop)
        self.model, self.pretrained = model, pretrained
        self.trunk: Any = self._build_trunk(False)
        self.project = nn.Linear(self.trunk.head_hidden_size, dim)
        self.width, self.has_class_token = self.trunk.head_hidden_size, pools_class_token(self.trunk)
        if grad_checkpointing:
            self._checkpoint_gradients()
        if lock is not None:
            self.trunk = lock_trunk(self.trunk, lock)

    def _build_trunk(self, pretrained: bool, **more: Any) -> Any:
        """Build the trunk for spectrograms of this size. Raises ValueError, in timm's words, for what it cannot."""
        if not timm.is_model(self.model):
            raise ValueError(f"timm has no model '{self.model}'{did_you_mean(self.model, timm.list_models())[:60]}")
        settings = {"in_chans": 1, "num_classes": 0, "pretrained": pretrained, **more}
        try:
            try:
                return timm.create_model(self.model, img_size=self.spectrogram.size, **settings)
            except TypeError:  # a convolutional trunk takes any size and does not ask for it
                return timm.create_model(self.model, **settings)
        except Exception as error:  # a wrong size raises anything
            raise ValueError(f"timm cannot build {self.model} for this ({type(error).__name__}: {error})") from None

    def _checkpoint_gradients(self) -> None:
        try:
            self.trunk.set_grad_checkpointing(True)
        except AssertionError:
            raise ValueError("this timm trunk cannot recompute its blocks: remove grad_checkpointing") from None

    def load_pretrained(self) -> None:
        """Load the weights that `pretrained` asks for. Raises ValueError where they are not found or do not fit.

        On the meta device, as in `wb check`, nothing is read or downloaded.
        """
        if isinstance(self.pretrained, str) and not Path(self.pretrained).is_file():
            raise ValueError(f"pretrained: there is no file {self.pretrained}; true takes timm's published weights")
        if not self.pretrained or next(self.trunk.parameters()).is_meta:
            return
        source = {"pretrained_cfg_overlay": {"file": self.pretrained}} if isinstance(self.pretrained, str) else {}
        published = self._build_trunk(True, **source).state_dict()
        # a locked trunk has no counters of batches, which are of no use anyway
        self.trunk.load_state_dict({n: x for n, x in published.items() if not n.endswith("num_batches_tracked")}, False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; frozen parts stay in that of evaluation."""
        super().train(mode)
        rest_frozen_parts(self.trunk)
        return self

    def repeated(self) -> list[nn.Module]:
        """List the trunk's blocks or stages."""
        return repeated_layers(self.trunk)

    def depths(self) -> dict[str, int]:
        """Give the layer of each parameter, from the embeddings (0) up to the projection."""
        trunk = {f"trunk.{name}": layer for name, layer in trunk_depths(self.trunk).items()}
        top = max(trunk.values()) + 1
        return trunk | {f"project.{name}": top for name, _ in self.project.named_parameters()}

    def transform(self, train: bool) -> Transform:
        """Give the map of (waveform, rate) to [samples], in training followed by two numbers for each mask."""
        return Listen(self.samples, self.rate, self.augment if train else None)

    def forward(self, x: Float[Tensor, "n s"], tokens: bool = False) -> Features:
        """Encode waveforms; what stands behind `samples` numbers are bounds of masks."""
        waveforms, masks = x[:, : self.samples], x[:, self.samples :]
        pictures = self.spectrogram(waveforms)
        if masks.shape[1]:
            pictures = apply_masks(pictures, masks.unflatten(1, (-1, 2)), self.augment.time_masks)
        h = self.trunk.forward_features(pictures[:, None])
        pooled = self.trunk.forward_head(h, pre_logits=True)
        z = self.project(pooled)
        if not tokens:
            return Features(z, pooled)
        found = trunk_tokens(self.trunk, h, self.project, self.dim)
        rows, columns = found.grid
        begins = torch.arange(columns, device=x.device) * (self.spectrogram.size[1] / columns)
        real = heard_frames(waveforms, self.spectrogram.hop)[:, None] > begins
        mask = nn.functional.pad(real.repeat(1, rows), (found.prefix, 0), value=True)
        cls = 0 if self.has_class_token else None
        return Features(z, pooled, found.tokens, found.positions, mask, cls)


class LogMel(nn.Module):
    """Maps waveforms [n, samples] to log-mel spectrograms [n, mels, frames]; it has no part in a checkpoint.

    Args:
        samples: length of a waveform.
        rate: its samples a second.
        mels: bands.
        window: milliseconds of a window.
        hop: milliseconds from a frame to the next.
    """

    hann: Tensor
    bands: Tensor

    def __init__(self, samples: int, rate: int, mels: int, window: float, hop: float) -> None:
        super().__init__()
        self.hop, length = max(1, round(rate * hop / 1000)), max(2, round(rate * window / 1000))
        self.size = (mels, STRIDE * math.ceil(samples / self.hop / STRIDE))
        self.transformed, bands = mel_bands(length, rate, mels)
        self.register_buffer("hann", torch.hann_window(length), persistent=False)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, waveforms: Float[Tensor, "n s"]) -> Float[Tensor, "n m t"]:
        # as many samples as the last frame begins at: every frame has its own, and the trunk its multiple
        frames = self.size[1]
        padded = nn.functional.pad(waveforms, (0, max(0, (frames - 1) * self.hop - waveforms.shape[1])))
        with torch.autocast(waveforms.device.type, enabled=False):
            spectrum = torch.stft(
                padded,
                self.transformed,
                self.hop,
                len(self.hann),
                self.hann,
                center=True,
                pad_mode="constant",
                return_complex=True,
            )
            power = torch.view_as_real(spectrum)[..., :frames, :].square().sum(-1)  # ONNX has no complex numbers
            decades = (self.bands.T @ power).clamp(min=1e-10).log10()
            return (decades.maximum(decades.amax((1, 2), keepdim=True) - 8) + 4) / 4


def mel_bands(window: int, rate: int, mels: int) -> tuple[int, Float[Tensor, "f m"]]:
    """Find the length of a transform and the bands of Slaney's scale on its frequencies.

    The length is that of the window, doubled while a band is so narrow that no frequency lies in it. Raises ValueError
    without torchaudio.
    """
    functional = require("torchaudio.functional", "audio")
    length = window
    with warnings.catch_warnings(), torch.device("cpu"):  # `wb check` builds on a device without numbers
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        while True:
            bands = functional.melscale_fbanks(length // 2 + 1, 0.0, rate / 2, mels, rate, "slaney", "slaney")
            if (bands.amax(0) > 0).all():
                return length, bands
            length *= 2


def apply_masks(
    pictures: Float[Tensor, "n m t"], bounds: Float[Tensor, "n k 2"], time_masks: int
) -> Float[Tensor, "n m t"]:
    """Put the mean of a spectrogram where a mask lies: the first `time_masks` of them in time, the others in pitch."""
    hidden = torch.zeros_like(pictures, dtype=torch.bool)
    for axis, own in ((2, bounds[:, :time_masks]), (1, bounds[:, time_masks:])):
        length = pictures.shape[axis]
        places = (torch.arange(length, device=pictures.device) + 0.5) / length
        inside = ((own[..., :1] <= places) & (places < own[..., 1:])).any(1)  # n x length
        hidden |= inside.unsqueeze(3 - axis)
    return torch.where(hidden, pictures.mean((1, 2), keepdim=True), pictures)


def heard_frames(waveforms: Float[Tensor, "n s"], hop: int) -> Int64[Tensor, " n"]:
    """Count the frames until the last sample that is not zero, one at least: what follows is padding, or silence."""
    sounds = nn.functional.pad(waveforms != 0, (0, -waveforms.shape[1] % hop)).unflatten(1, (-1, hop)).any(2)
    places = torch.arange(1, sounds.shape[1] + 1, device=waveforms.device)
    return (places * sounds).amax(1).clamp(min=1)
