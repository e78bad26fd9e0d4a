"""An image or text tower of open_clip, by the name of one of its models or by a config of your own, with its tokens.

The trap: a timm trunk with BatchNorm mixes the samples of a batch in training. The build refuses it unless it is
locked; trunks with LayerNorm are safe: any ViT, convnext_atto, edgenext_xx_small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from workbench.encoders._kinds import require_kind
from workbench.encoders._open_clip_config import finish_trunk, tower_config
from workbench.encoders._open_clip_training import (
    checkpoint_gradients,
    embed_cut,
    encode_class_token,
    encode_end_token,
    prepare_last_block,
)
from workbench.encoders._open_clip_weights import Part, Pretrained, load_tower, resize_positions, tower_depths
from workbench.encoders._positions import grid_positions, line_positions
from workbench.encoders._trunk import pools_class_token, trunk_tokens
from workbench.loading.augment import Augment, Normalise
from workbench.loading.decode import to_rgb
from workbench.loading.ends import crop_ends
from workbench.postponed import OF_OPEN_CLIP, postponed
from workbench.recipe.section import Section
from workbench.types import Encoder, Features, Modality, Transform

with postponed(*OF_OPEN_CLIP):
    from open_clip import SimpleTokenizer
    from open_clip.model import _build_text_tower, _build_vision_tower
    from open_clip.tokenizer import _tokenizer as made_at_import
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from open_clip.transformer import text_global_pool

__all__ = ["OpenCLIP"]

SHORTEST = 3
"""tokens of a text, at least: its begin, a word, its end"""


class Preprocessing(Section):
    """How open_clip prepares pictures for a tower; what is not said is open_clip's own."""

    mean: tuple[float, float, float] | None = Field(default=None, description="of red, green and blue in 0 ... 1")
    std: tuple[float, float, float] | None = Field(default=None, description="likewise")
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = Field(
        default=None, description="which side gets the image size before the crop, or both"
    )
    fill_color: int | None = Field(default=None, description="of what longest leaves empty, 0 ... 255")


class OpenCLIP(Encoder):
    """Maps images [n, 3, h, w] or token ids [n, l] to Features; z equals open_clip's encode_image or encode_text.

    It does so bit by bit, but up to rounding in training, which leaves out what nothing reads (`_open_clip_training`).

    `pooled` is what the tower projects: the class token after the final norm, the end token of a text, or what a timm
    trunk pools. Tokens are given when they are asked for: all of them, after the final norm, through the tower's own
    projection. Positions of an image are fixed 2-D sin-cos on its grid, zero at the class token; of a text they are the
    tower's own learned embedding, or fixed 1-D sin-cos where its width is not `dim`. A text's mask ends at its end
    token. Weights are drawn by open_clip from torch's global generator; `load_pretrained` replaces them.

    Args:
        model: a model of open_clip, as ViT-B-16: its tower for this modality, projecting to the shared width
        config: instead of a model, the tower's own block of an open_clip config (vision_cfg or text_cfg)
        quick_gelu: compute GELU by OpenAI's approximation; default: as the model does, and not with a config
        pretrained: a tag of open_clip for this model, or a checkpoint file of open_clip, OpenAI or transformers
        preprocess: of images: {mean, std, interpolation, resize_mode} as in preprocess_cfg of an open_clip config,
            instead of those of the tag
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
        quick_gelu: bool | None = None,
        pretrained: str | None = None,
        preprocess: Preprocessing | None = None,
        image_size: PositiveInt | None = None,
        context_length: PositiveInt | None = None,
        augment: Augment | None = None,
        grad_checkpointing: bool = False,
        lock: NonNegativeInt | None = None,
    ):
        super().__init__()
        require_kind(modality, ["image", "text"])
        image = modality.kind == "image"
        kind: Literal["image", "text"] = "image" if image else "text"
        of_images = {"image_size": image_size, "augment": augment, "preprocess": preprocess}
        foreign = {"context_length": context_length} if image else of_images
        if wrong := [name for name, value in foreign.items() if value is not None]:
            raise ValueError(f"{', '.join(wrong)}: no option of a tower for {modality.kind}, remove it")
        self.config, known = tower_config(kind, model, config)
        self.quick_gelu = known if quick_gelu is None else quick_gelu
        self.config |= {"image_size": image_size} if image_size else {}
        self.config |= {"context_length": context_length} if context_length else {}
        self.pretrained = Pretrained(pretrained, model, self.quick_gelu) if pretrained else None

        self.dim = dim
        self.kind = "timm" if self.config.get("timm_model_name") else "vit" if image else "text"
        self.tower: Any = self._build_tower()
        if self.kind == "timm":
            finish_trunk(self.tower, dim)
        self.width = self._pooled_width()
        self.has_tokens = not self.config.get("patch_dropout")
        self.has_class_token = self.has_tokens and self._pools_class_token()
        self.augment = augment or Augment()
        published = self.pretrained.preprocess if self.pretrained else {}
        published |= preprocess.model_dump(exclude_none=True) if preprocess else {}
        self.preprocess = PreprocessCfg(size=tuple(self.tower.image_size), **published) if image else None
        self.normalise = Normalise(self.preprocess.mean, self.preprocess.std) if self.preprocess else nn.Identity()
        self.context_length = None if image else self.tower.context_length
        if self.context_length is not None and self.context_length < SHORTEST:
            raise ValueError(
                f"context_length ({self.context_length}) leaves no place for a word between the tokens of begin and "
                f"end, so that all texts would be one: set it to {SHORTEST} or more"
            )
        self.reads_one = prepare_last_block(self.tower, self.kind)
        if grad_checkpointing:
            checkpoint_gradients(self.tower.trunk if self.kind == "timm" else self.tower)
        if lock is not None:
            self.lock(lock)

    @property
    def part(self) -> Part:
        """The name that open_clip's models give to this tower."""
        return "text" if self.kind == "text" else "visual"

    @property
    def tokenizer(self) -> SimpleTokenizer | None:
        """CLIP's tokenizer, where this is a tower for text."""
        return None if self.context_length is None else read_tokenizer(self.context_length)

    def _build_tower(self) -> Any:
        """Build the tower with drawn weights. Raises ValueError, in its words, for what open_clip cannot build."""
        build: Any = _build_text_tower if self.kind == "text" else _build_vision_tower
        try:
            return build(self.dim, self.config, self.quick_gelu)
        except Exception as error:  # a wrong value raises anything, from ZeroDivisionError to einops' own
            raise ValueError(f"open_clip cannot build this tower ({type(error).__name__}: {error})") from None

    def _pooled_width(self) -> int:
        if self.kind == "timm":
            return self.tower.trunk.head_hidden_size
        return len(self.tower.proj if self.kind == "vit" else self.tower.ln_final.weight)

    def _pools_class_token(self) -> bool:
        if self.kind == "timm":
            return pools_class_token(self.tower.trunk)
        return self.kind == "vit" and self.tower.pool_type == "tok"

    def load_pretrained(self) -> None:
        """Load the weights that `pretrained` names, if any. Raises ValueError where they are not found or do not fit.

        On the meta device, as in `wb check`, a file is only compared, and a tag is not downloaded.
        """
        without_memory = next(self.tower.parameters()).is_meta
        if self.pretrained is None or (self.pretrained.tag and without_memory):
            return
        weights = self.pretrained.read(self.part)
        if self.kind == "timm":
            # A trunk's positions are those of its own image size: only timm resizes them, when the size is set.
            published = self._build_tower()
            load_tower(published, self.part, self.pretrained.name, weights)
            published.set_input_size(self.tower.image_size)
            weights = published.state_dict()
        load_tower(self.tower, self.part, self.pretrained.name, weights)

    def repeated(self) -> list[nn.Module]:
        """List the tower's blocks or stages, which are alike."""
        inside = self.tower.trunk if self.kind == "timm" else self.tower.transformer
        names = ("resblocks", "blocks", "stages", "layers")
        return list(next((getattr(inside, name) for name in names if hasattr(inside, name)), []))

    def lock(self, unlocked_groups: int = 0) -> None:
        """Freeze all but the last groups of layers; of a timm trunk never the projection, and always the BatchNorms."""
        self.tower.lock(unlocked_groups)
        if self.kind == "timm":
            from timm.layers import freeze_batch_norm_2d

            self.tower.trunk = freeze_batch_norm_2d(self.tower.trunk)

    def depths(self) -> dict[str, int]:
        """Give the layer of each parameter, from the embeddings (0) up to the projection."""
        return {f"tower.{name}": layer for name, layer in tower_depths(self.tower, self.kind).items()}

    def fitted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Resize weights of such an encoder at another image size or context length for this one."""
        own = {name.removeprefix("tower."): x for name, x in weights.items()}
        return {f"tower.{name}": x for name, x in resize_positions(self.tower, self.part, own).items()}

    def transform(self, train: bool) -> Transform:
        """Give the map of one picture to [3, h, w], or of one text to [l] int64.

        Training pictures are uint8, and normalised in the forward; those of an evaluation are float32 by open_clip's
        own preprocessing.
        """
        if self.preprocess is None:
            assert self.tokenizer is not None
            return Tokenize(self.tokenizer)
        if train:
            return self.augment.compose(self.tower.image_size)
        return Preprocess(self.preprocess)

    def forward(
        self, x: UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"] | Int64[Tensor, "n l"], tokens: bool = False
    ) -> Features:
        """Encode pictures or token ids. Raises ValueError when a tower with patch dropout is asked for tokens."""
        if tokens and not self.has_tokens:
            dropped = self.config["patch_dropout"]
            raise ValueError(f"patch_dropout ({dropped}) leaves tokens without a known position: set it to 0")
        return {"vit": self._vit, "timm": self._timm, "text": self._text}[self.kind](self.normalise(x), tokens)

    def _computes_one(self, tokens: bool) -> bool:
        """Say whether the token that is read is computed alone: only where something learns from it.

        Evaluations promise open_clip's own bits, and a tower that is locked whole promises those of its features from
        a file.
        """
        return not tokens and self._leaves_out()

    def _leaves_out(self) -> bool:
        return self.training and self.reads_one and any(p.requires_grad for p in self.tower.parameters())

    # The three methods below repeat the bodies of open_clip's forwards, because those return neither the vector before
    # the projection nor the projected tokens. The tests compare them with open_clip's own results, bit by bit.

    def _vit(self, images: Float[Tensor, "n 3 h w"], tokens: bool) -> Features:
        tower = self.tower
        if self._computes_one(tokens):
            pooled = encode_class_token(tower, images)
            return Features(pooled @ tower.proj, pooled)
        h = tower.transformer(tower._embeds(images))
        pooled, _ = tower._pool(h)
        z = pooled @ tower.proj
        if not tokens:
            return Features(z, pooled)
        positions = grid_positions(tower.grid_size, self.dim, 1, z.device)
        return Features(z, pooled, tower.ln_post(h) @ tower.proj, positions, cls=0 if self.has_class_token else None)

    def _text(self, ids: Int64[Tensor, "n l"], tokens: bool) -> Features:
        def project(h: Tensor) -> Tensor:
            return projection(h) if isinstance(projection, nn.Linear) else h @ projection

        tower, projection = self.tower, self.tower.text_projection
        if self._computes_one(tokens):
            pooled = encode_end_token(tower, ids)
            return Features(project(pooled), pooled)
        whole = self.padding_is_read or not self._leaves_out()
        ids, h, mask = (ids, *tower._embeds(ids)) if whole else embed_cut(tower, ids)
        h = tower.ln_final(tower.transformer(h, attn_mask=mask))
        pooled = text_global_pool(h, ids, tower.pool_type)
        if not tokens:
            return Features(project(pooled), pooled)
        length = ids.shape[1]
        places = torch.arange(length, device=ids.device)
        if tower.width == self.dim:
            positions = tower.positional_embedding[:length].clone()  # fully sharded training cannot return a parameter
        else:
            positions = line_positions(length, self.dim, ids.device)
        return Features(project(pooled), pooled, project(h), positions, places <= ids.argmax(dim=1, keepdim=True))

    def _timm(self, images: Float[Tensor, "n 3 h w"], tokens: bool) -> Features:
        def project(pooled: Tensor) -> Tensor:
            return self.tower.head(trunk.get_classifier()(pooled))

        trunk = self.tower.trunk
        h = trunk.forward_features(images)
        pooled = trunk.forward_head(h, pre_logits=True)
        z = project(pooled)
        if not tokens:
            return Features(z, pooled)
        found = trunk_tokens(trunk, h, project, self.dim)
        return Features(z, pooled, found.tokens, found.positions, cls=0 if self.has_class_token else None)


class Preprocess:
    """Maps one picture of any mode and shape to [3, h, w] float32, by open_clip's own preprocessing.

    The picture becomes RGB as in training: what is transparent lies on white, 16 bits become 8. Of one that is very
    long the ends are cut off first, which open_clip would scale up to gigabytes and then throw away.
    """

    def __init__(self, settings: PreprocessCfg) -> None:
        assert isinstance(settings.size, tuple)
        self.size, self.resize_mode = settings.size, settings.resize_mode
        self.open_clip: Callable[[Image.Image], Tensor] = cast(Any, image_transform_v2(settings, is_train=False))

    def __call__(self, picture: Image.Image) -> Float[Tensor, "3 h w"]:
        picture = to_rgb(picture)
        if self.resize_mode == "shortest":
            picture = crop_ends(picture, self.size)
        elif self.resize_mode == "longest":  # of a longer one, the shorter side would be less than a pixel
            picture = crop_ends(picture, self.size, ratio=min(self.size))
        return self.open_clip(picture)


@cache
def read_tokenizer(context_length: int) -> SimpleTokenizer:
    """Take CLIP's tokenizer, at a length of its own; its vocabulary is read once, by open_clip's import, in .1 s."""
    tokenizer = copy(made_at_import)
    tokenizer.context_length = context_length
    return tokenizer


@dataclass(frozen=True)
class Tokenize:
    """Maps one text to its token ids, cut or padded with zeros to the tokenizer's context length."""

    tokenizer: SimpleTokenizer

    def __call__(self, text: str) -> Int64[Tensor, " l"]:
        return self.tokenizer(text)[0]

    def cuts(self, text: str) -> bool:
        """Say whether the text has more tokens than are read, start and end token included."""
        assert self.tokenizer.context_length is not None
        return len(self.tokenizer.encode(text)) + 2 > self.tokenizer.context_length
