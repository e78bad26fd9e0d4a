"""An image or text tower of open_clip, by the name of one of its models or by a config of your own, with its tokens.

The trap: a timm trunk with BatchNorm mixes the samples of a batch in training, so micro-batches and ranks change its
result; `per_sample` is False then. Trunks with LayerNorm are safe: any ViT, convnext_atto, edgenext_xx_small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from open_clip import SimpleTokenizer
from open_clip.model import _build_text_tower, _build_vision_tower
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import text_global_pool
from pydantic import NonNegativeInt, PositiveInt
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.encoders._open_clip_config import finish_trunk, tower_config
from workbench.encoders._open_clip_weights import (
    Part,
    find_weights,
    load_tower,
    read_tower,
    resize_positions,
    tower_depths,
)
from workbench.loading.augment import Augment, Normalise
from workbench.types import Features, Modality, Transform

__all__ = ["OpenCLIP"]


class OpenCLIP(nn.Module):
    """Images [n, 3, h, w] or token ids [n, l] to Features; z equals open_clip's encode_image or encode_text.

    `pooled` is what the tower projects: the class token after the final norm, the end token of a text, or what a timm
    trunk pools. Tokens are computed when `want_tokens` is set: all of them, after the final norm, through the tower's
    own projection. Positions of an image are fixed 2-D sin-cos on its grid, zero at the class token; of a text they are
    the tower's own learned embedding, or fixed 1-D sin-cos where its width is not `dim`. A text's mask ends at its end
    token. Weights are drawn by open_clip from torch's global generator.

    Args:
        model: a model of open_clip, as ViT-B-16: its tower for this modality, projecting to the shared width
        config: instead of a model, the tower's own block of an open_clip config (vision_cfg or text_cfg)
        pretrained: a tag of open_clip for this model, or a checkpoint file in open_clip's format
        image_size: pixels a side, instead of the config's
        context_length: token ids a text, instead of the config's
        augment: of training images: none, clip (the default) or ito, a block of keys, or {name: ito, blur: 0.1}
        grad_checkpointing: recompute the blocks in the backward pass: less memory, more time
        lock: freeze the tower but for this many last groups of layers (0: all; LiT, arXiv 2111.07991)

    Raises ValueError for a tower that this encoder does not do, by name, and for options of the other modality.
    """

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        pretrained: str | None = None,
        image_size: PositiveInt | None = None,
        context_length: PositiveInt | None = None,
        augment: Augment | None = None,
        grad_checkpointing: bool = False,
        lock: NonNegativeInt | None = None,
    ):
        super().__init__()
        if modality.kind == "vector":
            raise ValueError("encoder 'open_clip' reads images and text, not vectors: use 'mlp'")
        image = modality.kind == "image"
        foreign = {"context_length": context_length} if image else {"image_size": image_size, "augment": augment}
        if wrong := [name for name, value in foreign.items() if value is not None]:
            raise ValueError(f"{', '.join(wrong)}: no option of a tower for {modality.kind}, remove it")
        self.config, self.quick_gelu = tower_config(modality.kind, model, config)
        self.config |= {"image_size": image_size} if image_size else {}
        self.config |= {"context_length": context_length} if context_length else {}
        path, preprocess = find_weights(model, pretrained, self.quick_gelu) if pretrained else (None, {})

        self.dim = dim
        self.has_tokens = not self.config.get("patch_dropout")
        self._want_tokens = False
        self.kind = "timm" if self.config.get("timm_model_name") else "vit" if image else "text"
        build: Any = _build_vision_tower if image else _build_text_tower
        self.tower: Any = build(dim, self.config, self.quick_gelu)
        if path:
            load_tower(self.tower, self.part, path)
        if self.kind == "timm":
            finish_trunk(self.tower, dim)
        self.augment = augment or Augment()
        self.preprocess = PreprocessCfg(size=tuple(self.tower.image_size), **preprocess) if image else None
        self.normalise = Normalise(self.preprocess.mean, self.preprocess.std) if self.preprocess else nn.Identity()
        self.tokenizer = None if image else SimpleTokenizer(context_length=self.tower.context_length)
        if grad_checkpointing:
            checkpoint_gradients(self.tower.trunk if self.kind == "timm" else self.tower)
        if lock is not None:
            self.lock(lock)

    @property
    def width(self) -> int:
        """of `pooled`"""
        if self.kind == "timm":
            return self.tower.trunk.head_hidden_size
        return len(self.tower.proj if self.kind == "vit" else self.tower.ln_final.weight)

    @property
    def part(self) -> Part:
        """what open_clip calls this tower"""
        return "text" if self.kind == "text" else "visual"

    @property
    def per_sample(self) -> bool:
        """False where BatchNorm lets the samples of a batch see each other in training."""
        return not any(isinstance(m, _BatchNorm) for m in self.modules())

    @property
    def want_tokens(self) -> bool:
        """Whether the forward computes tokens. Setting it raises ValueError on a tower with patch dropout."""
        return self._want_tokens

    @want_tokens.setter
    def want_tokens(self, want: bool) -> None:
        if want and not self.has_tokens:
            dropped = self.config["patch_dropout"]
            raise ValueError(f"patch_dropout ({dropped}) leaves tokens without a known position: set it to 0")
        self._want_tokens = want

    def repeated(self) -> list[nn.Module]:
        """The repeated layers: what is compiled, or divided over processes, piece by piece."""
        inside = self.tower.trunk if self.kind == "timm" else self.tower.transformer
        names = ("resblocks", "blocks", "stages", "layers")
        return list(next((getattr(inside, name) for name in names if hasattr(inside, name)), []))

    def lock(self, unlocked_groups: int = 0) -> None:
        """Freeze all but the last groups of layers; of a timm trunk never the projection, and always the BatchNorms."""
        self.tower.lock(unlocked_groups)
        if self.kind == "timm":
            self.tower.trunk = freeze_batch_norm_2d(self.tower.trunk)

    def depths(self) -> dict[str, int]:
        """{parameter: its layer}, from the embeddings (0) up to the projection."""
        return {f"tower.{name}": layer for name, layer in tower_depths(self.tower, self.kind).items()}

    def fitted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of such an encoder at another image size or context length, for this one."""
        own = {name.removeprefix("tower."): x for name, x in weights.items()}
        return {f"tower.{name}": x for name, x in resize_positions(self.tower, self.part, own).items()}

    def read_open_clip(self, path: str) -> dict[str, Tensor]:
        """This encoder's weights in a checkpoint of open_clip. Raises ValueError when it is none."""
        return {f"tower.{name}": x for name, x in read_tower(self.tower, self.part, path).items()}

    def transform(self, train: bool) -> Transform:
        """PIL RGB -> [3, h, w], or str -> [l] int64. Training images are uint8, and normalised in the forward; those
        of an evaluation are float32 by open_clip's own preprocessing."""
        if self.preprocess is None:
            return Tokenize(self.tokenizer)
        if train:
            return self.augment.compose(self.tower.image_size)
        evaluation: Any = image_transform_v2(self.preprocess, is_train=False)
        return evaluation

    def forward(self, x: UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"] | Int64[Tensor, "n l"]) -> Features:
        return {"vit": self._vit, "timm": self._timm, "text": self._text}[self.kind](self.normalise(x))

    # What follows are the bodies of open_clip's forwards: those do not return the vector before the projection.

    def _vit(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        tower = self.tower
        h = tower.transformer(tower._embeds(images))
        pooled, _ = tower._pool(h)
        z = pooled @ tower.proj
        if not self.want_tokens:
            return Features(z, pooled)
        positions = grid_positions(tower.grid_size, self.dim, 1, z.device)
        cls = 0 if tower.pool_type == "tok" else None
        return Features(z, pooled, tower.ln_post(h) @ tower.proj, positions, cls=cls)

    def _text(self, ids: Int64[Tensor, "n l"]) -> Features:
        def project(h: Tensor) -> Tensor:
            return projection(h) if isinstance(projection, nn.Linear) else h @ projection

        tower, projection = self.tower, self.tower.text_projection
        h, causal = tower._embeds(ids)
        h = tower.ln_final(tower.transformer(h, attn_mask=causal))
        pooled = text_global_pool(h, ids, tower.pool_type)
        if not self.want_tokens:
            return Features(project(pooled), pooled)
        places = torch.arange(ids.shape[1], device=ids.device)
        if tower.width == self.dim:
            positions = tower.positional_embedding.clone()  # fully sharded training cannot return a parameter
        else:
            positions = F.pad(sincos(places, self.dim // 2), (0, self.dim % 2))
        return Features(project(pooled), pooled, project(h), positions, places <= ids.argmax(dim=1, keepdim=True))

    def _timm(self, images: Float[Tensor, "n 3 h w"]) -> Features:
        def project(pooled: Tensor) -> Tensor:
            return self.tower.head(trunk.get_classifier()(pooled))

        trunk = self.tower.trunk
        h = trunk.forward_features(images)
        pooled = trunk.forward_head(h, pre_logits=True)
        z = project(pooled)
        if not self.want_tokens:
            return Features(z, pooled)
        if h.ndim == 3:  # n l c: a transformer
            positions = grid_positions(trunk.patch_embed.grid_size, self.dim, trunk.num_prefix_tokens, z.device)
            cls = 0 if trunk.global_pool == "token" else None
            return Features(z, pooled, project(trunk.fc_norm(h)), positions, cls=cls)
        # A convolutional trunk pools, normalises and projects a map of features: each token is a map of one cell.
        channels_last = getattr(trunk, "output_fmt", None) == "NHWC"
        h = h if channels_last else h.permute(0, 2, 3, 1)
        cells = h.flatten(0, 2)[:, None, None] if channels_last else h.flatten(0, 2)[..., None, None]
        tokens = project(trunk.forward_head(cells, pre_logits=True)).unflatten(0, (len(h), -1))
        return Features(z, pooled, tokens, grid_positions(h.shape[1:3], self.dim, 0, z.device))


@dataclass(frozen=True)
class Tokenize:
    """One text -> its token ids, cut or padded with zeros to the tokenizer's context length."""

    tokenizer: Any

    def __call__(self, text: str) -> Int64[Tensor, " l"]:
        return self.tokenizer(text)[0]


def checkpoint_gradients(tower: Any) -> None:
    """Raises ValueError where a timm trunk cannot: open_clip itself only logs it."""
    try:
        tower.set_grad_checkpointing(True)
    except AssertionError:
        raise ValueError("this timm trunk cannot recompute its blocks: remove grad_checkpointing") from None


def sincos(places: Int64[Tensor, " l"], frequencies: int) -> Float[Tensor, "l c"]:
    """Sine and cosine of each place at geometric frequencies 1 ... 1/10000 (Vaswani et al. 2017, section 3.5)."""
    angles = places[:, None] * 10_000 ** -(torch.arange(frequencies, device=places.device) / frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_positions(grid: Sequence[int], dim: int, prefix: int, device: torch.device) -> Float[Tensor, "l d"]:
    """Half of the channels tell the column of a patch, half its row. Zero for `prefix` tokens before the patches, and
    in the channels left over when 4 does not divide `dim`."""
    rows, columns = (torch.arange(size, device=device) for size in grid)
    column, row = columns.repeat(len(rows)), rows.repeat_interleave(len(columns))
    positions = torch.cat([sincos(column, dim // 4), sincos(row, dim // 4)], dim=1)
    return F.pad(positions, (0, dim % 4, prefix, 0))
