"""Checkpoint files of CLIP as people have them, read under the names of open_clip's CustomTextCLIP.

Three layouts are read: state dicts and checkpoints of open_clip's trainer (.pt, .bin, .safetensors), OpenAI's
TorchScript archives, and transformers' CLIPModel. No Python object is unpickled: a file may come from anyone.

The trap: OpenAI's towers compute GELU by x sigmoid(1.702 x). With the exact GELU the same weights give embeddings that
look plausible and are wrong. Where a file says which one it was trained with, it is returned and has to be compared.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from workbench.postponed import OF_OPEN_CLIP, postponed

with postponed(*OF_OPEN_CLIP):
    from open_clip.model import convert_to_custom_text_state_dict

TRANSFORMERS = (  # applied in order to every name of a CLIPModel
    (r"^vision_model\.embeddings\.patch_embedding\.weight$", "visual.conv1.weight"),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # transformers' own spelling
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "text.token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "text.ln_final."),
    (r"^text_projection\.weight$", "text.text_projection"),
    (r"^text_model\.encoder\.layers\.", "text.transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)
"""(a pattern in transformers' names, what open_clip writes there)"""


class Checkpoint(NamedTuple):
    """The content of a checkpoint file."""

    weights: dict[str, Tensor]
    """`visual.*`, `text.*`, `logit_scale`, `logit_bias`, and whatever else there is under its own name"""
    quick_gelu: bool | None
    """whether its GELU is OpenAI's approximation; None where the file does not say"""


def read_checkpoint(path: str) -> Checkpoint:
    """Read every tensor of a checkpoint file. Raises ValueError with the reason and the remedy when it is none."""
    try:
        weights, quick_gelu = _read(path)
    except Exception as error:  # a file that is no checkpoint can raise anything
        raise ValueError(f"'{path}' is no checkpoint that can be read here: {_reason(error)}") from None
    if not weights:
        raise ValueError(f"'{path}' holds no tensor: give a state dict of open_clip or of transformers' CLIPModel")
    if any(name.startswith("model.encoders.") for name in weights):
        raise ValueError(f"'{path}' is a checkpoint of a run of the workbench: name the run folder in model.init")
    return Checkpoint(weights, quick_gelu)


def _read(path: str) -> tuple[dict[str, Tensor], bool | None]:
    if path.endswith(".safetensors"):
        return _under_open_clips_names(load_file(path), path)
    if code := _torchscript_code(path):
        with warnings.catch_warnings():  # torch wants other formats, but OpenAI's files are what they are
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(path, map_location="cpu")
        weights = {name: x for name, x in module.state_dict().items() if x.ndim or name.startswith("logit")}
        return _under_open_clips_names(weights, path)[0], "1.702" in code
    # mapped into memory: a tower of a gigabyte costs nothing where only its shapes are looked at
    found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    for key in ("state_dict", "model_state_dict", "model"):  # of trainers, beside the optimizer's state
        found = found[key] if isinstance(found.get(key), Mapping) else found
    return _under_open_clips_names({name: x for name, x in found.items() if isinstance(x, Tensor)}, path)


def _torchscript_code(path: str) -> str:
    """The source of a TorchScript archive, which names the activation; empty for any other file."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        return "\n".join(archive.read(name).decode() for name in names)


def _under_open_clips_names(weights: dict[str, Tensor], path: str) -> tuple[dict[str, Tensor], bool | None]:
    for prefix in ("module.", "_orig_mod."):  # of DistributedDataParallel, of torch.compile
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): x for name, x in weights.items()}
    if any(name.startswith(("vision_model.", "text_model.")) for name in weights):
        return _from_transformers(weights), _hidden_act(path)
    # the oldest layout has the text tower at its top
    return convert_to_custom_text_state_dict(weights), None


def _from_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a CLIPModel under open_clip's names: query, key and value in one matrix, projections transposed."""
    found = {}
    for name, x in weights.items():
        if name.endswith("position_ids"):  # a buffer of older versions: 0, 1, 2 ...
            continue
        for pattern, ours in TRANSFORMERS:
            name = re.sub(pattern, ours, name)
        found[name] = x.T if name in ("visual.proj", "text.text_projection") else x
    for name in [name for name in found if ".attn.q_proj." in name]:
        parts = [found.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        found[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return found


def _hidden_act(path: str) -> bool | None:
    """Whether the config.json beside a file of transformers names the approximate GELU, for either tower."""
    config = Path(path).with_name("config.json")
    if not config.is_file():
        return None
    tree = json.loads(config.read_text(encoding="utf-8"))
    towers = [tree.get(key) or {} for key in ("vision_config", "text_config")]
    return any(tower.get("hidden_act", "quick_gelu") == "quick_gelu" for tower in towers)


def _reason(error: Exception) -> str:
    text = str(error).split("\n")[0]
    if "weights_only" in str(error) or "Unsupported global" in str(error):
        return "it holds Python objects besides tensors, which could run code; save only its state_dict()"
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"
