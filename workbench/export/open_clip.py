"""open_clip's own folder: a config and a state dict, which `create_model_and_transforms("local-dir:DIR")` reads.

The trap: what open_clip builds of a config is not always what a run trained. A trunk of timm is built at its own image
size, and a tokenizer that the config names is none that a run used.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.encoders.open_clip import OpenCLIP
from workbench.export.samples import Embedded, Samples
from workbench.export.source import Refusal, Source
from workbench.export.two_towers import ANY, TwoTowers, plain_sides, second_heads, two_towers
from workbench.export.two_towers import refusals as of_two_towers
from workbench.postponed import OF_OPEN_CLIP, postponed
from workbench.runs.exported import WEIGHTS
from workbench.types import Side

with postponed(*OF_OPEN_CLIP):
    import open_clip

PACKAGE = "open_clip_torch"
CONFIG = "open_clip_config.json"
NOT_OF_TOWERS = ("tokenizer_mode", "tokenizer_kwargs", "hf_tokenizer_name")
"""keys of a text tower that tell open_clip to prepare texts otherwise than a run does"""
sides, dropped = plain_sides, second_heads


def refusals(source: Source) -> Iterator[Refusal]:
    """List what open_clip has no place for."""
    others = list(of_two_towers(source))
    yield from others
    if others:
        return
    towers = two_towers(source)
    if towers.image.kind != "timm" and towers.image.quick_gelu != towers.text.quick_gelu:
        quick = towers.image_name if towers.image.quick_gelu else towers.text_name
        yield Refusal(f"towers with two kinds of GELU ({quick} has OpenAI's approximation)", ("transformers", *ANY))
    if name := _resized_trunk(towers.image):
        size = towers.image.config["image_size"]
        yield Refusal(f"{name} of timm at {size} pixels, whose weights open_clip reads only at timm's own size", ANY)


def _resized_trunk(image: OpenCLIP) -> str | None:
    """Name the trunk of timm whose weights have other shapes at this image size than at its own."""
    if image.kind != "timm":
        return None
    with torch.device("meta"):
        built = image._build_tower().state_dict()
    own = image.tower.state_dict()
    same = all(x.shape == built[name].shape for name, x in own.items() if name in built)
    return None if same else str(image.config["timm_model_name"])


def write(source: Source, folder: Path) -> None:
    """Write config and weights."""
    towers = two_towers(source)
    (folder / CONFIG).write_text(json.dumps(model_config(source, towers), indent=2) + "\n", encoding="utf-8")
    save_file(state_dict(towers), folder / WEIGHTS["open_clip"], {"format": "pt"})


def model_config(source: Source, towers: TwoTowers) -> dict[str, object]:
    """Write the config as open_clip reads it: of the model, and how pictures are prepared."""
    text = {key: value for key, value in towers.text.config.items() if key not in NOT_OF_TOWERS}
    vision = towers.image.config | ({"timm_model_pretrained": False} if towers.image.kind == "timm" else {})
    model: dict[str, object] = {"embed_dim": source.parts.recipe.model.dim, "vision_cfg": vision, "text_cfg": text}
    if towers.text.quick_gelu:
        model["quick_gelu"] = True
    if towers.bias is not None:
        model["init_logit_bias"] = towers.bias
    settings = towers.image.preprocess
    assert settings
    prepare = {key: getattr(settings, key) for key in ("mean", "std", "interpolation", "resize_mode", "fill_color")}
    return {"model_cfg": model, "preprocess_cfg": prepare}


def state_dict(towers: TwoTowers) -> dict[str, Tensor]:
    """Give every tensor under the name of open_clip's CLIP, which has the text tower at its top."""
    found = {f"visual.{name}": x for name, x in towers.image.tower.state_dict().items()} | dict(
        towers.text.tower.state_dict()
    )
    for name in [name for name in found if name.endswith("running_mean")]:  # a frozen BatchNorm does not count
        found.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    found["logit_scale"] = torch.tensor(math.log(towers.scale))
    if towers.bias is not None:
        found["logit_bias"] = torch.tensor(towers.bias)
    return {name: x.detach().contiguous().clone() for name, x in found.items()}


def embed(source: Source, folder: Path, samples: Samples) -> Embedded:
    """Embed the samples by open_clip alone: its model, its preprocessing, its tokenizer."""
    image, _, text, *_ = two_towers(source)
    model, preprocess, tokenizer = _load(folder)
    ours = samples.inputs[image], samples.inputs[text]
    theirs = torch.stack([preprocess(picture) for picture in samples.raw[image]]), tokenizer(list(samples.raw[text]))
    with torch.inference_mode():
        found = [
            {
                Side((image,)): model.encode_image(pixels, normalize=True),
                Side((text,)): model.encode_text(ids, normalize=True),
            }
            for pixels, ids in (ours, theirs)
        ]
    return Embedded(*found)


def _load(folder: Path) -> tuple[Any, Any, Any]:
    logger, name = logging.getLogger(), f"local-dir:{folder}"
    before = logger.level
    logger.setLevel(logging.ERROR)  # it logs to the root what it loads
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        return model.eval(), preprocess, open_clip.get_tokenizer(name)
    finally:
        logger.setLevel(before)


def uses(source: Source) -> list[str]:
    """Show how open_clip answers a zero-shot question."""
    logits = "model.logit_scale.exp() * image @ text.T"
    answer = f"({logits}).softmax(1)" if source.contrast[1] is None else f"({logits} + model.logit_bias).sigmoid()"
    return [
        f"""\
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
model.eval()
picture = Image.new("RGB", (256, 256), "red")  # or Image.open("picture.jpg")
texts = ["red", "a cat", "a house"]
with torch.no_grad():
    image = model.encode_image(preprocess(picture)[None], normalize=True)
    text = model.encode_text(tokenizer(texts), normalize=True)
    answer = {answer}
print(dict(zip(texts, answer[0].tolist())))
"""
    ]
