"""Weights of open_clip's towers: found by tag or file, read tower by tower, position embeddings resized; their layers.

Everything is loaded weights_only. A file holds both towers: `visual.*`, and the text tower under `text.*` or, in the
oldest layout, at the top.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.factory import convert_state_dict, convert_to_custom_text_state_dict, load_state_dict
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from timm.models import group_parameters
from torch import Tensor, nn

Part = Literal["visual", "text"]
"""what open_clip calls the towers"""


def find_weights(model: str | None, pretrained: str, quick_gelu: bool) -> tuple[str, dict[str, Any]]:
    """(checkpoint file, how its images were preprocessed), downloaded if need be. Raises ValueError when not found."""
    if tag := open_clip.get_pretrained_cfg(model, pretrained) if model else {}:
        if tag.get("quick_gelu", False) != quick_gelu:
            others = open_clip.list_pretrained_models_by_tag(pretrained)
            raise ValueError(f"'{pretrained}' was not trained with the GELU of {model}: take one of {others}")
        keys = {"mean", "std", "interpolation", "resize_mode"} & tag.keys()
        return open_clip.download_pretrained(tag), {key: tag[key] for key in keys}
    if not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(model) if model else "none, without a model"
        raise ValueError(f"pretrained '{pretrained}' is neither a file nor a tag of open_clip (tags: {tags})")
    return pretrained, {}


def read_tower(tower: nn.Module, part: Part, path: str) -> dict[str, Tensor]:
    """One tower of a checkpoint, under the tower's own names, position embeddings resized. Raises ValueError."""
    try:
        weights: Any = load_state_dict(path)
        weights = convert_to_custom_text_state_dict(convert_state_dict(_whole(tower, part), weights))
    except (
        RuntimeError,
        AttributeError,
        KeyError,
        EOFError,
        StopIteration,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"'{path}' is no checkpoint in open_clip's format: {reason}") from None
    own = {name.removeprefix(f"{part}."): x for name, x in weights.items() if name.startswith(f"{part}.")}
    return resize_positions(tower, part, own)


def load_tower(tower: nn.Module, part: Part, path: str) -> None:
    """Load one tower of a checkpoint; position embeddings are resized. Raises ValueError if it does not fit."""
    weights = {f"{part}.{name}": x for name, x in read_tower(tower, part, path).items()}
    try:
        _whole(tower, part).load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the {part} tower in '{path}' does not fit this one: {error}") from None


def resize_positions(tower: Any, part: Part, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with learned position embeddings interpolated to the tower's own image size or context length.

    An embedding of another width is left as it is: its shape will be refused by name.
    """
    old, own = weights.get("positional_embedding"), getattr(tower, "positional_embedding", None)
    if old is None or own is None or old.shape[-1] != own.shape[-1]:
        return weights
    prefixed = {f"{part}.positional_embedding": old}
    (resize_text_pos_embed if part == "text" else resize_pos_embed)(prefixed, _whole(tower, part))
    return weights | {"positional_embedding": prefixed[f"{part}.positional_embedding"]}


def tower_depths(tower: Any, kind: str) -> dict[str, int]:
    """{parameter of a tower: its layer}, 0 the embeddings, the largest the projection; of a trunk by timm's own groups.

    The final norm counts with the projection, as in BEiT (arXiv 2106.08254); in a timm trunk with the last block.
    """
    if kind == "timm":
        trunk: Any = group_parameters(tower.trunk, tower.trunk.group_matcher(coarse=False), reverse=True)
        above = max(trunk.values()) + 1
        head = {f"head.{name}": above for name, _ in tower.head.named_parameters()}
        return {f"trunk.{name}": layer for name, layer in trunk.items()} | head
    top = len(tower.transformer.resblocks) + 1
    return {name: _layer(name, top) for name, _ in tower.named_parameters()}


def _layer(name: str, top: int) -> int:
    if block := re.match(r"transformer\.resblocks\.(\d+)\.", name):
        return int(block[1]) + 1
    return top if name.split(".")[0] in ("ln_post", "ln_final", "proj", "text_projection") else 0


def _whole(tower: nn.Module, part: Part) -> Any:
    """open_clip's conversions look for the tower where its CustomTextCLIP has it."""
    whole = nn.Module()
    whole.add_module(part, tower)
    return whole
