"""Weights of open_clip's towers: found by tag or file, fitted to a tower, and which layer each belongs to."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from workbench.encoders._open_clip_config import refusals
from workbench.encoders._open_clip_files import read_checkpoint
from workbench.errors import shorten
from workbench.postponed import OF_OPEN_CLIP, postponed

with postponed(*OF_OPEN_CLIP):
    import open_clip
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

Part = Literal["visual", "text"]
"""what open_clip calls the towers"""


class Pretrained:
    """Published weights: a tag of open_clip for a model, or a checkpoint file. Nothing is looked for until `read`.

    Args:
        name: the tag, or the path of the file.
        model: a model of open_clip, which has the tag; None for a config of one's own.
        quick_gelu: whether the tower computes GELU by OpenAI's approximation.

    Raises ValueError for a tag whose weights were trained with the other GELU.
    """

    def __init__(self, name: str, model: str | None, quick_gelu: bool) -> None:
        self.name, self.model, self.quick_gelu = name, model, quick_gelu
        self.tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, name) if model else {}
        if self.tag and self.tag.get("quick_gelu", False) != quick_gelu:
            raise ValueError(
                f"'{name}' was not trained with the GELU of {model}: take {_models_with_gelu(name, not quick_gelu)}"
            )

    @property
    def preprocess(self) -> dict[str, Any]:
        """The settings of `PreprocessCfg` by which the images of a tag were prepared; none for a file."""
        keys = {"mean", "std", "interpolation", "resize_mode"} & self.tag.keys()
        return {key: self.tag[key] for key in keys}

    def path(self) -> str:
        """Find the checkpoint file; that of a tag is downloaded first. Raises ValueError where there is none."""
        if self.tag:
            return download(self.name, self.tag)
        if not Path(self.name).is_file():
            tags = open_clip.list_pretrained_tags_by_model(self.model) if self.model else "none, without a model"
            raise ValueError(f"pretrained '{self.name}' is neither a file nor a tag of open_clip (tags: {tags})")
        return self.name

    def read(self, part: Part) -> dict[str, Tensor]:
        """Read one tower, under the tower's own names; a tag is downloaded first.

        Raises ValueError when there is no such file, when it has no such tower, or when it says that it was trained
        with the other GELU.
        """
        path = self.path()
        found = read_checkpoint(path)
        refuse_other_gelu(path, found.quick_gelu, self.quick_gelu)
        own = {name.removeprefix(f"{part}."): x for name, x in found.weights.items() if name.startswith(f"{part}.")}
        if not own:
            some = ", ".join(sorted(found.weights)[:3])
            raise ValueError(f"'{path}' has no {part} tower of open_clip; its tensors are named as {some}")
        return own


def download(name: str, tag: dict[str, Any]) -> str:
    """Find the file of a tag in the cache, or download it there.

    Raises ValueError where neither can be done: without a network at once, and not after a minute of retries.
    """
    import huggingface_hub.constants as hub

    offline = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = offline or not _resolves("huggingface.co")
    try:
        return open_clip.download_pretrained(tag)
    except Exception as error:  # of the network, of the disk, of the hub's own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"the weights '{name}' are not in the cache ({tag.get('hf_hub') or tag.get('url')}) and could not be "
            f"downloaded: {shorten(reason, 200)}: fetch them where there is a network, or name a file"
        ) from None
    finally:
        hub.HF_HUB_OFFLINE = offline


def _resolves(host: str) -> bool:
    """Say whether a name of the network is known here; behind a proxy that is the proxy's business."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def refuse_other_gelu(path: str, trained: bool | None, built: bool) -> None:
    """Raise ValueError when a file says that it was `trained` with another GELU than the tower is `built` with."""
    if trained is not None and trained != built:
        names = ("the exact GELU", "OpenAI's approximate GELU")
        remedy = "whose name ends in -quickgelu, as ViT-B-32-quickgelu" if trained else "without -quickgelu in its name"
        raise ValueError(
            f"'{path}' was trained with {names[trained]}, but this tower computes {names[built]}: take a model {remedy}"
        )


def _models_with_gelu(tag: str, quick_gelu: bool) -> str:
    """Models that have weights of a tag, compute this GELU, and can be built here."""
    found = []
    for name in open_clip.list_pretrained_models_by_tag(tag):
        config: dict[str, Any] = open_clip.get_model_config(name) or {}
        if config.get("quick_gelu", False) == quick_gelu and not list(refusals("image", config["vision_cfg"])):
            found.append(name)
    return ", ".join(found) or f"another tag: no model here has '{tag}' with its GELU"


def load_tower(tower: nn.Module, part: Part, source: str, weights: Mapping[str, Tensor]) -> None:
    """Load a tower's weights, position embeddings resized. Raises ValueError that lists what does not fit.

    `source` is what the message calls the file they come from.
    """
    own = tower.state_dict()
    # BatchNorm's counter of batches is of no use, and a frozen one has none
    fitted = {n: x for n, x in resize_positions(tower, part, weights).items() if not n.endswith("num_batches_tracked")}
    wanted = [n for n in own if not n.endswith("num_batches_tracked")]
    wrong = [
        f"{part}.{n} is {list(fitted[n].shape)} there and {list(own[n].shape)} here"
        for n in wanted
        if n in fitted and fitted[n].shape != own[n].shape
    ]
    wrong += [f"{part}.{n} is missing there" for n in wanted if n not in fitted]
    wrong += [f"{part}.{n} is not known here" for n in fitted if n not in own]
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the {part} tower in '{source}' does not fit this one: {'; '.join(wrong[:4])}{more}. "
            "Give the encoder the config, and model.dim the width, that these weights were trained with"
        )
    if not any(x.is_meta for x in own.values()):  # `wb check` holds no weights: there, to compare is all
        tower.load_state_dict(fitted, strict=False)


def resize_positions(tower: Any, part: Part, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Interpolate learned position embeddings among the weights to the tower's own image size or context length.

    An embedding of another width is left as it is: its shape will be refused by name.
    """
    old, own = weights.get("positional_embedding"), getattr(tower, "positional_embedding", None)
    if old is None or own is None or old.shape[-1] != own.shape[-1]:
        return weights
    # open_clip's functions look for the tower where its CustomTextCLIP has it
    whole: Any = nn.Module()
    whole.add_module(part, tower)
    prefixed = {f"{part}.positional_embedding": old}
    (resize_text_pos_embed if part == "text" else resize_pos_embed)(prefixed, whole)
    return {**weights, "positional_embedding": prefixed[f"{part}.positional_embedding"]}


def tower_depths(tower: Any, kind: str) -> dict[str, int]:
    """Give the layer of each parameter of a tower: 0 the embeddings, the largest the projection.

    The layers of a timm trunk are timm's own groups. The final norm counts with the projection, as in BEiT (arXiv
    2106.08254); in a timm trunk with the last block.
    """
    if kind == "timm":
        from timm.models import group_parameters

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
