"""Reads a tower's config of open_clip, and says of one that cannot be built here why that is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, Literal

from torch import nn

from workbench.errors import did_you_mean
from workbench.postponed import OF_OPEN_CLIP, OF_TORCHVISION, postponed

with postponed(*OF_OPEN_CLIP):
    import open_clip
    from open_clip import CLIPTextCfg, CLIPVisionCfg

Config = dict[str, Any]
"""a tower's block of an open_clip config; what its values may be is open_clip's business"""
INSTEAD = "take a ViT, or a config with timm_model_name convnext_atto or edgenext_xx_small"
VOCABULARY = 49408
"""number of ids of CLIP's byte-pair encoding, whose end token is the largest"""


def tower_config(kind: Literal["image", "text"], model: str | None, config: Config | None) -> tuple[Config, bool]:
    """Find a tower's config; returns it, and whether its GELU is OpenAI's approximation.

    Raises ValueError for a name that is not known, for a key that is not, and for what cannot be built here.
    """
    if (model is None) == (config is None):
        if model is None:
            raise ValueError("it takes a model, as ViT-B-16, or a config, a block; it got neither")
        raise ValueError(
            f"it takes a model or a config; it got both, model: {model} and a config. "
            "Write config: null beside the model, where the config is that of a parent recipe, or model: null"
        )
    quick_gelu = False
    if config is None:
        names = open_clip.list_models()
        if model not in names:
            raise ValueError(no_model("open_clip", str(model), names))
        whole: dict[str, Any] = open_clip.get_model_config(model) or {}
        config, quick_gelu = whole["vision_cfg" if kind == "image" else "text_cfg"], whole.get("quick_gelu", False)
    assert config is not None
    known = [f.name for f in fields(CLIPVisionCfg if kind == "image" else CLIPTextCfg)]
    for key in config:
        if key not in known:
            raise ValueError(f"the config of a tower for {kind} has no key '{key}'{did_you_mean(key, known)}")
    trunk = config.get("timm_model_name")
    if trunk:
        with postponed(*OF_TORCHVISION):  # imported here: a quarter of a second, which ViTs and texts do not pay
            import timm

        if not timm.is_model(str(trunk)):
            raise ValueError(no_model("timm", str(trunk), timm.list_models()))
    if reasons := list(refusals(kind, config)):
        raise ValueError(f"it does not do {'; nor '.join(reasons)}")
    return dict(config), quick_gelu


def no_model(library: str, name: str, there: Sequence[str]) -> str:
    """Say that a library has no model of this name, and which names are close."""
    close = ", ".join(difflib.get_close_matches(name, there, n=3))
    return f"{library} has no model '{name}'; close: {close or 'none'} (of {len(there)})"


def refusals(kind: Literal["image", "text"], config: Config) -> Iterator[str]:
    """List what a config asks for that has no tokens, no projection or no tokenizer here."""
    if kind == "text":
        if config.get("hf_model_name"):
            yield f"text towers of Hugging Face (hf_model_name {config['hf_model_name']})"
        if config.get("hf_tokenizer_name"):
            yield f"tokenizers of Hugging Face (hf_tokenizer_name {config['hf_tokenizer_name']}), only CLIP's own"
        if config.get("pool_type", "argmax") != "argmax":
            yield f"pool_type {config['pool_type']}: texts are pooled at their end token (argmax)"
        if config.get("proj_type", "linear") == "none":
            yield "proj_type none: texts are projected to model.dim"
        if config.get("vocab_size", VOCABULARY) != VOCABULARY:
            yield f"vocab_size {config['vocab_size']}: CLIP's tokenizer has {VOCABULARY} ids"
    if config.get("embed_cls") or config.get("attentional_pool"):
        yield "the towers of CoCa (embed_cls, attentional_pool)"
    if isinstance(config.get("layers"), list | tuple):
        yield f"ModifiedResNet (a list of layers), whose BatchNorm mixes the samples of a batch: {INSTEAD}"
    if config.get("timm_pool") in ("abs_attn", "rot_attn"):
        yield f"timm_pool {config['timm_pool']}: it pools and projects at once"


def finish_trunk(tower: Any, dim: int) -> None:
    """Set a trunk to the config's image size: timm builds it at its own. Raises ValueError for a wrong output width."""
    tower.set_input_size(tower.image_size)
    width = tower.trunk.head_hidden_size
    projects = len(tower.head) or not isinstance(tower.trunk.get_classifier(), nn.Identity)
    if width != dim and not projects:
        raise ValueError(f"timm_proj none keeps the trunk's width ({width}), but model.dim is {dim}: set it to {width}")
