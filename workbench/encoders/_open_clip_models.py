"""Whole models of open_clip as people name them: what their two towers are built from, and where the weights are.

ViT-B-32/laion2b_s34b_b79k    a model and a tag of it
ViT-B-32/weights.pt           a model and a checkpoint file, of any layout that `_open_clip_files` reads
FOLDER                        open_clip_config.json and weights beside it: open_clip's local-dir, and what it publishes
FOLDER/weights.safetensors    those weights of such a folder
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.encoders._open_clip_config import no_model
from workbench.postponed import OF_OPEN_CLIP, postponed

with postponed(*OF_OPEN_CLIP):
    import open_clip

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""names of weights in a folder, the one that open_clip prefers first"""
PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


@dataclass(frozen=True)
class Published:
    """A model of open_clip, before it is built."""

    dim: int
    """width of the shared space"""
    image: dict[str, Any]
    """settings of the encoder `open_clip` for its images"""
    text: dict[str, Any]


def find_published(said: str) -> Published:
    """Find the model that a person names. Raises ValueError, with what there is, for anything else."""
    path = Path(said).expanduser()
    if path.is_dir():
        return _in_folder(path, None)
    if path.is_file():
        if path.with_name(CONFIG).is_file():
            return _in_folder(path.parent, path)
        raise ValueError(
            f"'{said}' holds weights, and nothing beside it says of which model: write open_clip:MODEL/{said}, as "
            f"open_clip:ViT-B-32/{said}, or put its {CONFIG} there"
        )
    model, _, weights = said.partition("/")
    names = open_clip.list_models()
    if model not in names:
        raise ValueError(f"'{said}' is no file and no folder, and {no_model('open_clip', model, names)}")
    if not open_clip.get_pretrained_cfg(model, weights) and not Path(weights).is_file():
        said = f"'{weights}' is neither a file nor a tag of {model}" if weights else f"which weights of {model}?"
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"{said}: write open_clip:{model}/TAG or open_clip:{model}/FILE (tags: {tags})")
    config: dict[str, Any] = open_clip.get_model_config(model) or {}
    settings = {"model": model, "pretrained": weights}
    return Published(config["embed_dim"], settings, settings)


def _in_folder(folder: Path, weights: Path | None) -> Published:
    """Read a folder as open_clip's `local-dir:` does."""
    file = folder / CONFIG
    if not file.is_file():
        raise ValueError(
            f"'{folder}' has no {CONFIG}, so it is no model of open_clip: name such a folder, or open_clip:MODEL/FILE"
        )
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        config = whole.get("model_cfg", whole)
        dim, vision, text = int(config["embed_dim"]), dict(config["vision_cfg"]), dict(config["text_cfg"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{file} is no config of an open_clip model ({type(error).__name__}: {error})") from None
    weights = weights or next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise ValueError(f"'{folder}' has no weights: put {WEIGHTS[0]} beside its {CONFIG}")
    both = {"quick_gelu": bool(config.get("quick_gelu", False)), "pretrained": str(weights)}
    prepared = {key: value for key, value in (whole.get("preprocess_cfg") or {}).items() if key in PREPROCESS}
    return Published(dim, {**both, "config": vision, "preprocess": prepared or None}, {**both, "config": text})
