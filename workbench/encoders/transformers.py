"""A model of Hugging Face's transformers as a tower, for text, images or audio: any that AutoModel can build.

The trap: a locked tower in training mode still drops units out. What is frozen here computes as in evaluation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float
from PIL import Image
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from workbench.attention import mean_of_real
from workbench.encoders._frozen import rest_frozen_parts
from workbench.encoders._kinds import require_kind
from workbench.encoders._optional import require
from workbench.encoders._padding import cut_padding
from workbench.encoders._positions import grid_positions, line_positions
from workbench.encoders._transformers_inputs import ABSENT, LEAST, Heard, Pixels, TokenIds, padding_id
from workbench.encoders._transformers_tower import (
    build_tower,
    freeze_unused,
    layers_of,
    load_published,
    read_config,
    tell_missing,
    tower_depths,
)
from workbench.loading.augment import Augment, Normalise
from workbench.loading.augment_audio import AudioAugment, Listen
from workbench.types import Encoder, Features, Kind, Modality, Transform

__all__ = ["Transformers"]

TOKENS = 128
"""ids of a text that are read, where the recipe does not say: all texts of a batch are padded to it"""


class Transformers(Encoder):
    """Maps token ids [n, l], pictures [n, 3, h, w] or sounds to Features, through a model and a projection on top.

    Of a model of several towers, as CLIP, it is the one that reads the modality; of encoder and decoder the encoder.
    `pooled` is what `pool` says, z its projection; the tokens are the last hidden states through the same projection,
    with fixed sine positions and a mask. Items are prepared by the model's own tokenizer, image processor or feature
    extractor. It needs transformers, and for audio torchaudio: pip install 'multimodal-workbench[transformers,audio]'.

    Args:
        model: a folder with config.json, weights and a tokenizer or preprocessor, or an id of the hub
        pretrained: begin from the model's published weights; false draws them anew
        pool: mean of the real tokens, the first token, the last real one, or the model's own pooler; null takes the
            pooler of images and of towers of several, else the mean
        context_length: token ids a text, 128 at most by default
        augment: of training images: none, clip (the default) or ito, a block of keys, or {name: ito, blur: 0.1}
        gain: of training sounds, the largest change of the loudness in decibels, up or down (6 by default)
        grad_checkpointing: recompute the layers in the backward pass: less memory, more time
        lock: freeze the model but for this many last layers (0: all; LiT, arXiv 2111.07991)

    Raises ValueError without transformers, for a model that cannot be found or built, and for options of another kind.
    """

    has_tokens = True

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        model: str,
        pretrained: bool = True,
        pool: Literal["mean", "first", "last", "pooler"] | None = None,
        context_length: PositiveInt | None = None,
        augment: Augment | None = None,
        gain: NonNegativeFloat | None = None,
        grad_checkpointing: bool = False,
        lock: NonNegativeInt | None = None,
    ):
        super().__init__()
        require_kind(modality, ["text", "image", "audio"])
        options = {"text": {"context_length": context_length}, "image": {"augment": augment}, "audio": {"gain": gain}}
        own = options.pop(modality.kind)
        assert own
        if wrong := [name for foreign in options.values() for name, value in foreign.items() if value is not None]:
            raise ValueError(f"{', '.join(wrong)}: no option of a model for {modality.kind}, remove it")
        library = import_transformers()
        if modality.kind == "audio":
            require("torchaudio.compliance.kaldi", "audio")  # transformers would import it in the middle of a build
        self.kind: Kind = modality.kind
        self.model, self.pretrained, self.dim = model, pretrained, dim
        self.config = read_config(library, model)
        self.tower: Any = build_tower(library, self.config, self.kind)
        self.augment, self.gain = augment or Augment(), 6.0 if gain is None else gain
        self.normalise: nn.Module = nn.Identity()
        self.prepare = self._preparation(library, modality, context_length)
        blank = self._try()
        has_pooler = getattr(blank, "pooler_output", None) is not None
        is_one_of_several = type(self.tower.config) is not type(self.config)
        self.pool = pool or ("pooler" if has_pooler and (self.kind == "image" or is_one_of_several) else "mean")
        if self.pool == "pooler" and not has_pooler:
            raise ValueError(f"{type(self.tower).__name__} has no pooler: set pool to mean, first or last")
        self.width = self._pooled(blank, hidden_states(blank), None).shape[1]
        self.grid, self.prefix = self._layout(blank.last_hidden_state)
        self.has_class_token = self.prefix > 0 or (self.kind == "text" and self.pool == "first")
        self.project = nn.Linear(self.width, dim)
        freeze_unused(self.tower, self.pool == "pooler")
        if grad_checkpointing:
            self._checkpoint_gradients()
        if lock is not None:
            self._lock(lock)

    def _preparation(self, library: Any, modality: Modality, context_length: int | None) -> TokenIds | Pixels | Heard:
        """Make the map of raw items to model inputs of an evaluation. Raises ValueError for a model that lacks it."""
        if self.kind == "text":
            tokenizer = tell_missing(self.model, "tokenizer", library.AutoTokenizer.from_pretrained)
            if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up where there is no file
                raise ValueError(f"no tokenizer of the model '{self.model}': it has no words")
            limit = min(tokenizer.model_max_length, getattr(self.tower.config, "max_position_embeddings", math.inf))
            self.context_length = context_length or min(TOKENS, limit)
            if self.context_length > limit:
                raise ValueError(f"context_length ({context_length}) is above this model's limit: set {limit} or less")
            self.padding = padding_id(tokenizer)
            return TokenIds(tokenizer, self.context_length)
        if self.kind == "image":
            processor = tell_missing(self.model, "image processor", library.AutoImageProcessor.from_pretrained)
            self.normalise = Normalise(processor.image_mean, processor.image_std)
            return Pixels(processor)
        if len(modality.shape) != 1 or modality.rate < 1:
            raise ValueError("the data has to declare how long its sounds are: a shape (samples,) and a rate")
        extractor = tell_missing(self.model, "feature extractor", library.AutoFeatureExtractor.from_pretrained)
        samples = round(modality.shape[0] * extractor.sampling_rate / modality.rate)
        # what is longer CLAP's extractor would crop by itself, from a generator that no seed of ours reaches
        samples = min(samples, getattr(extractor, "nb_max_samples", samples))
        return Heard(extractor, Listen(samples, extractor.sampling_rate), self.tower.main_input_name)

    def _blank(self) -> Tensor:
        """Make a model input of the plainest item."""
        if isinstance(self.prepare, TokenIds):
            x = torch.zeros(1, self.prepare.length, dtype=torch.int64, device="cpu")
        else:
            with torch.device("cpu"):
                plainest: Any = Image.new("RGB", (64, 64)) if self.kind == "image" else (torch.zeros(1), 16_000)
                x = self.prepare(plainest)[None]
        return x.to(next(self.tower.parameters()).device)

    @torch.no_grad()
    def _try(self) -> Any:
        """Run a plain item through the tower, for the shapes of what it gives. Raises ValueError where it cannot."""
        self.tower.eval()
        try:
            return self._run(self._blank())
        except Exception as error:
            raise ValueError(
                f"{type(self.tower).__name__} cannot be run on {self.kind} ({type(error).__name__}: {error})"
            ) from None
        finally:
            self.tower.train()

    def _layout(self, hidden: Tensor) -> tuple[tuple[int, int] | None, int]:
        """Find the grid of an image's tokens, None where there is none, and how many tokens stand before it."""
        if self.kind != "image":
            return None, 0
        if hidden.ndim == 4:
            return (hidden.shape[2], hidden.shape[3]), 0
        patch, (height, width) = getattr(self.tower.config, "patch_size", 0), self.image_size
        if isinstance(patch, int) and patch and hidden.shape[1] >= (height // patch) * (width // patch):
            rows, columns = height // patch, width // patch
            return (rows, columns), hidden.shape[1] - rows * columns
        side = math.isqrt(hidden.shape[1])  # a model that joins patches, as Swin does
        return ((side, side), 0) if side**2 == hidden.shape[1] else (None, 0)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the model's processor makes."""
        height, width = self._blank().shape[-2:]
        return height, width

    def _checkpoint_gradients(self) -> None:
        try:
            self.tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError:
            raise ValueError("this model cannot recompute its layers: remove grad_checkpointing") from None

    def _lock(self, unlocked: int) -> None:
        """Freeze all but the last `unlocked` layers and what stands behind them; everything where that is 0."""
        depths, layers = tower_depths(self.tower), len(layers_of(self.tower)[1])
        for name, parameter in self.tower.named_parameters():
            if not unlocked or depths[name] <= layers - unlocked:
                parameter.requires_grad_(False)

    def load_pretrained(self) -> None:
        """Load the model's published weights. Raises ValueError where there are none, or they lack what is pooled.

        On the meta device, as in `wb check`, nothing is read or downloaded.
        """
        if not self.pretrained or next(self.tower.parameters()).is_meta:
            return
        missing = load_published(import_transformers(), self.model, self.config, self.kind, self.tower)
        if self.pool == "pooler" and (lost := [name for name in missing if "pooler" in name.split(".")]):
            raise ValueError(f"the weights of '{self.model}' have no {lost[0]}: set pool to mean, first or last")

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what learns; frozen parts stay in that of evaluation."""
        super().train(mode)
        rest_frozen_parts(self.tower)
        return self

    def repeated(self) -> Sequence[nn.Module]:
        """List the model's layers."""
        return list(layers_of(self.tower)[1])

    def depths(self) -> dict[str, int]:
        """Give the layer of each parameter, from the embeddings (0) up to the projection."""
        tower = {f"tower.{name}": layer for name, layer in tower_depths(self.tower).items()}
        top = len(layers_of(self.tower)[1]) + 1
        return tower | {f"project.{name}": top for name, _ in self.project.named_parameters()}

    def transform(self, train: bool) -> Transform:
        """Give the map of a raw item to a model input; training pictures are uint8, and normalised in the forward."""
        if train and self.kind == "image":
            return self.augment.compose(self.image_size)
        if train and isinstance(self.prepare, Heard):
            listen = self.prepare.listen
            augment = AudioAugment(gain=self.gain, time_masks=0, mel_masks=0)
            return replace(self.prepare, listen=replace(listen, augment=augment))
        return self.prepare

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        """Encode model inputs. Training leaves out what is padding in every text, unless a fusion may read it."""
        learns = self.training and any(p.requires_grad for p in self.tower.parameters())
        if self.kind == "text" and learns and not (tokens and self.padding_is_read):
            x = cut_padding(x, (x != ABSENT).sum(1).clamp(min=1) - 1, self.repeated())
        out = self._run(x)
        h, real = hidden_states(out), self._real(x, out)
        pooled = self._pooled(out, h, real)
        z = self.project(pooled)
        if not tokens:
            return Features(z, pooled)
        cls = 0 if self.has_class_token else None
        return Features(z, pooled, self.project(h), self._positions(h), real, cls)

    def _run(self, x: Tensor) -> Any:
        if self.kind == "image":
            return self.tower(pixel_values=self.normalise(x))
        if self.kind == "text":
            real = x != ABSENT
            mask = None if x.is_meta else real.long()  # models look into it, and on that device is nothing to see
            return self.tower(input_ids=x.where(real, self.padding), attention_mask=mask)
        assert isinstance(self.prepare, Heard)
        heard = {"attention_mask": self._heard(x).long()} if self.prepare.masks and not x.is_meta else {}
        if getattr(self.tower.config, "enable_fusion", False):  # CLAP's: no sound is longer than it reads at once
            heard["is_longer"] = torch.zeros(x.shape[0], 1, dtype=torch.bool, device=x.device)
        return self.tower(**{self.prepare.name: x}, **heard)

    def _heard(self, x: Float[Tensor, "n s"]) -> Bool[Tensor, "n s"]:
        """Say which samples of a waveform are no padding: those up to the last that is not 0, and some at least."""
        assert isinstance(self.prepare, Heard)
        places = torch.arange(1, x.shape[1] + 1, device=x.device)
        return places <= (places * (x != 0)).amax(1, keepdim=True).clamp(min=self.prepare.listen.rate // LEAST)

    def _real(self, x: Tensor, out: Any) -> Bool[Tensor, "n l"] | None:
        """Say which tokens are no padding; None where all of them count."""
        if self.kind == "text":
            return x != ABSENT
        if isinstance(self.prepare, Heard) and self.prepare.reads_samples and not x.is_meta:
            return self.tower._get_feature_vector_attention_mask(out.last_hidden_state.shape[1], self._heard(x).long())
        return None

    def _pooled(self, out: Any, h: Float[Tensor, "n l c"], real: Bool[Tensor, "n l"] | None) -> Float[Tensor, "n c"]:
        if self.pool == "pooler":
            return out.pooler_output.flatten(1)
        if self.pool == "first":
            return h[:, 0]
        if self.pool == "mean":
            return h.mean(1) if real is None else mean_of_real(h, real)
        last = h.shape[1] - 1 if real is None else real.sum(1) - 1
        return h[torch.arange(h.shape[0], device=h.device), last]

    def _positions(self, h: Float[Tensor, "n l c"]) -> Float[Tensor, "l d"]:
        if self.grid is None:
            return line_positions(h.shape[1], self.dim, h.device)
        return grid_positions(self.grid, self.dim, self.prefix, h.device)


def hidden_states(out: Any) -> Float[Tensor, "n l c"]:
    """Return the last hidden states as tokens: a map of features becomes its cells, row by row."""
    h: Tensor = out.last_hidden_state
    return h.flatten(2).mT if h.ndim == 4 else h


def import_transformers() -> Any:
    """Import transformers, quietly. Raises ValueError where it is not installed."""
    # its tokenizers warn when a process that has used threads is forked, as data workers are
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library = require("transformers", "transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library
