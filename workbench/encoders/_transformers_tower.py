"""Models of Hugging Face's transformers as towers: which part of one reads a modality, and what its layers are.

The trap: some of them draw by themselves while they train, from generators that no seed of ours reaches (LayerDrop, the
masking of wav2vec 2.0). A second forward of the same rows would then be another one; so all of that is switched off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.types import Kind

PARTS: dict[Kind, str] = {"text": "text_model", "image": "vision_model", "audio": "audio_model"}
"""{kind: what a model of several towers, as CLIP, calls the one that reads it}"""
OWN_DRAWS = {
    "layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
"""settings by which a model would draw for itself"""
UNUSED = ("mask_token", "masked_spec_embed")
"""parameters that only pretraining by masked prediction uses"""
OF_LONG_SOUNDS = ("fusion_model", "mel_conv2d")
"""modules by which CLAP joins parts of a sound that is longer than it reads at once, which ours never are"""


def read_config(library: Any, model: str) -> Any:
    """Read the config of a folder or a hub id. Raises ValueError, in one line, where there is none."""
    config = tell_missing(model, "config", library.AutoConfig.from_pretrained)
    for part in (config, *(getattr(config, f"{name.removesuffix('_model')}_config", None) for name in PARTS.values())):
        for name, value in OWN_DRAWS.items():
            if hasattr(part, name):
                setattr(part, name, value)
    return config


def tell_missing(model: str, what: str, read: Any, **settings: Any) -> Any:
    """Read something of a model. Raises ValueError, in one line, where it cannot be had."""
    try:
        with torch.device("cpu"):  # it imports more of the library: see `require`
            return read(model, **settings)
    except Exception as error:  # a hub, a parser, a wrong class: transformers raises anything
        here = "the folder has no such file, or one that cannot be read" if Path(model).is_dir() else "it is no folder"
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"no {what} of the model '{model}': {here} ({type(error).__name__}: {reason})") from None


def build_tower(library: Any, config: Any, kind: Kind) -> Any:
    """Build the part of a model that reads this kind, with drawn weights in fp32.

    Of an encoder and a decoder it is the encoder. Raises ValueError where there is none.
    """
    try:
        whole = library.AutoModel.from_config(config, dtype=torch.float32)
    except Exception as error:
        raise ValueError(f"transformers cannot build this model ({type(error).__name__}: {error})") from None
    return part_for(whole, kind)


def part_for(whole: Any, kind: Kind) -> Any:
    """Find the part of a model that reads this kind. Raises ValueError where a model of several towers has none."""
    towers = {other: name for other, name in PARTS.items() if isinstance(getattr(whole, name, None), nn.Module)}
    if towers:
        if kind not in towers:
            raise ValueError(f"{type(whole).__name__} has towers for {' and '.join(towers)}, none for {kind}")
        return getattr(whole, towers[kind])
    if getattr(whole.config, "is_encoder_decoder", False):
        return whole.get_encoder()
    return whole


def layers_of(tower: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the list of layers that are alike, which is the one with most parameters, and its name."""
    lists = {
        name: module for name, module in tower.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    if not lists:
        return "", nn.ModuleList()
    size = {name: sum(p.numel() for p in module.parameters()) for name, module in lists.items()}
    name = max(lists, key=lambda name: size[name])  # an outer list comes before those inside of it
    return name, lists[name]


def tower_depths(tower: nn.Module) -> dict[str, int]:
    """Give the layer of each parameter: 0 what stands before the layers, the largest what stands behind them."""
    name, layers = layers_of(tower)
    depths: dict[str, int] = {}
    inside = f"{name}."
    passed = False
    for parameter, _ in tower.named_parameters():
        if name and parameter.startswith(inside):
            passed = True
            depths[parameter] = 1 + int(parameter.removeprefix(inside).split(".")[0])
        else:
            depths[parameter] = len(layers) + 1 if passed else 0
    return depths


def freeze_unused(tower: nn.Module, pools: bool) -> None:
    """Freeze what no forward of ours reaches: the parameters of masked prediction, the fusion of long sounds, and a
    pooler that is not asked."""
    for name, parameter in tower.named_parameters():
        parts = name.split(".")
        if parts[-1] in UNUSED or {*parts} & {*OF_LONG_SOUNDS} or (not pools and "pooler" in parts):
            parameter.requires_grad_(False)


def load_published(library: Any, model: str, config: Any, kind: Kind, tower: nn.Module) -> list[str]:
    """Load a model's published weights into its tower; returns the names of those that are not among them.

    Raises ValueError where there are none, or where they do not fit.
    """
    whole, info = tell_missing(
        model,
        "weights",
        library.AutoModel.from_pretrained,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
    )
    published = part_for(whole, kind)
    weights: Mapping[str, Tensor] = published.state_dict()
    tower.load_state_dict(dict(weights))
    prefix = next((f"{name}." for name, module in whole.named_modules() if module is published and name), "")
    return sorted(name.removeprefix(prefix) for name in info["missing_keys"] if name.startswith(prefix))
