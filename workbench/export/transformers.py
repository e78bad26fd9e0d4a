"""A folder that transformers' CLIPModel and its processor read, and sentence-transformers behind them.

The trap: a wrong end token, GELU or epsilon raises nothing; the embeddings look plausible and are wrong. And CLIPModel
has one architecture: what a config of open_clip may ask for besides is named here, key by key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from open_clip import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn.functional import normalize

from workbench.encoders._optional import require
from workbench.encoders.open_clip import OpenCLIP, read_tokenizer
from workbench.export.open_clip import NOT_OF_TOWERS
from workbench.export.samples import Embedded, Samples
from workbench.export.source import Refusal, Source
from workbench.export.two_towers import ANY, TwoTowers, plain_sides, second_heads, two_towers
from workbench.export.two_towers import refusals as of_two_towers
from workbench.runs.exported import Format
from workbench.types import Side

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PACKAGE = "transformers"
OF_OPEN_CLIP: tuple[Format, ...] = ("open_clip", *ANY)
"""formats that hold any tower of open_clip"""
sides, dropped = plain_sides, second_heads
ENDS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""{what open_clip calls a token: what everybody else does}"""
HELD = {"layers", "width", "mlp_ratio", "final_ln_after_pool", "output_tokens", "norm_kwargs"}
"""keys of a tower that a CLIPModel has, or that change nothing in it: a norm before the pooling is one behind it"""
HELD_OF_IMAGES = {"head_width", "patch_size", "image_size", "patch_dropout", "pos_embed_type"}
HELD_OF_TEXTS = {"heads", "context_length", "pad_id", "eos_id", *NOT_OF_TOWERS}
NAMES = (  # applied in order to every name of open_clip's CLIP
    (r"^visual\.conv1\.weight$", "vision_model.embeddings.patch_embedding.weight"),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),  # transformers' own spelling
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
"""(a pattern in open_clip's names, what transformers writes there)"""
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"},
    {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
]
"""what sentence-transformers builds of the folder: the model, and rows of length 1"""


def refusals(source: Source) -> Iterator[Refusal]:
    """List what a CLIPModel has no place for."""
    others = list(of_two_towers(source))
    yield from others
    if others:
        return
    towers = two_towers(source)
    if towers.bias is not None:
        yield Refusal("the bias of a sigmoid loss (logit_bias): CLIPModel has only a scale", OF_OPEN_CLIP)
    yield from _of_image(towers)
    yield from _of_text(towers)


def _of_image(towers: TwoTowers) -> Iterator[Refusal]:
    tower = towers.image
    if tower.kind == "timm":
        yield Refusal(
            f"the tower {tower.config['timm_model_name']} of timm: CLIPModel has a ViT of its own", OF_OPEN_CLIP
        )
        return
    for what in _unheld(tower, CLIPVisionCfg, HELD | HELD_OF_IMAGES):
        yield Refusal(f"{what} of the tower of {towers.image_name}", OF_OPEN_CLIP)
    patch, size = _pair(tower.tower.patch_size), _pair(tower.tower.image_size)
    if patch[0] != patch[1] or size[0] != size[1]:
        yield Refusal(f"pictures of {size[0]} x {size[1]} pixels in patches of {patch[0]} x {patch[1]}", OF_OPEN_CLIP)
    assert tower.preprocess
    if tower.preprocess.resize_mode == "longest":
        yield Refusal("pictures that are resized by their longest side and padded (resize_mode longest)", OF_OPEN_CLIP)


def _of_text(towers: TwoTowers) -> Iterator[Refusal]:
    for what in _unheld(towers.text, CLIPTextCfg, HELD | HELD_OF_TEXTS):
        yield Refusal(f"{what} of the tower of {towers.text_name}", OF_OPEN_CLIP)


def _unheld(tower: OpenCLIP, known: type, held: set[str]) -> Iterator[str]:
    """List the keys of a config that say anything else than the architecture of CLIPModel."""
    for field in fields(known):
        value = tower.config.get(field.name, field.default)
        if value != field.default and field.name not in held:
            yield f"{field.name} ({value})"
    if other := {*(tower.config.get("norm_kwargs") or {})} - {"eps"}:
        yield f"norm_kwargs ({', '.join(other)})"


def write(source: Source, folder: Path) -> None:
    """Write model, image processor and tokenizer, and what sentence-transformers asks for."""
    towers, library = two_towers(source), _import()
    with torch.device("meta"):
        model = library.CLIPModel(model_config(source, towers, library))
    model.load_state_dict(state_dict(towers), assign=True, strict=False)
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(library, towers.text.tower.context_length)
    pictures = library.CLIPImageProcessor(**picture_settings(towers))
    library.CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    settings = pictures.to_dict() | {"processor_class": "CLIPProcessor"}
    _write_json(folder / "preprocessor_config.json", settings)  # where versions before 5 look for it
    _write_json(folder / "modules.json", MODULES)
    (folder / "1_Normalize").mkdir()
    _write_json(folder / "1_Normalize" / "config.json", {})


def _write_json(file: Path, tree: object) -> None:
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _import() -> Any:
    library = require("transformers", "export")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def model_config(source: Source, towers: TwoTowers, library: Any) -> Any:
    """Write the config of a CLIPModel."""
    image, text, dim = towers.image, towers.text, source.parts.recipe.model.dim
    common = [
        {
            "hidden_size": width,
            "num_hidden_layers": len(tower.tower.transformer.resblocks),
            "num_attention_heads": tower.tower.transformer.resblocks[0].attn.num_heads,
            "intermediate_size": tower.tower.transformer.resblocks[0].mlp.c_fc.out_features,
            "hidden_act": "quick_gelu" if tower.quick_gelu else "gelu",
            "layer_norm_eps": tower.tower.transformer.resblocks[0].ln_1.eps,
            "projection_dim": dim,
        }
        for tower, width in ((image, image.width), (text, text.width))
    ]
    vision = {"image_size": _pair(image.tower.image_size)[0], "patch_size": _pair(image.tower.patch_size)[0]}
    ids = read_tokenizer(text.tower.context_length)
    words = {
        "vocab_size": text.tower.vocab_size,
        "max_position_embeddings": text.tower.context_length,
        "bos_token_id": ids.sot_token_id,
        # the token at whose first place a text is pooled; 2 would pool where the id is the largest, which is the same
        "eos_token_id": ids.eot_token_id,
        "pad_token_id": ids.eot_token_id,
    }
    return library.CLIPConfig(
        vision_config=common[0] | vision,
        text_config=common[1] | words,
        projection_dim=dim,
        logit_scale_init_value=math.log(towers.scale),
        dtype="float32",
    )


def state_dict(towers: TwoTowers) -> dict[str, Tensor]:
    """Give every tensor under the name of a CLIPModel: projections transposed, query, key and value apart."""
    weights = {f"visual.{n}": x for n, x in towers.image.tower.state_dict().items()}
    weights |= dict(towers.text.tower.state_dict())
    found = {"logit_scale": torch.tensor(math.log(towers.scale))}
    for name, x in weights.items():
        ours = name in ("visual.proj", "text_projection")
        for pattern, theirs in NAMES:
            name = re.sub(pattern, theirs, name)
        if ".in_proj_" in name:
            for part, third in zip("qkv", x.chunk(3), strict=True):
                found[name.replace(".in_proj_", f".{part}_proj.")] = third.detach().clone()
        else:
            found[name] = (x.T if ours else x).detach().contiguous().clone()
    for tower in (towers.image, towers.text):
        top = "vision_model" if tower is towers.image else "text_model"
        places = len(found[f"{top}.embeddings.position_embedding.weight"])
        found[f"{top}.embeddings.position_ids"] = torch.arange(places)[None]  # a buffer, which is not saved
    return found


def make_tokenizer(library: Any, context_length: int) -> CLIPTokenizer:
    """Make CLIP's tokenizer of the vocabulary that comes with open_clip."""
    ids = read_tokenizer(context_length)
    merges = sorted(ids.bpe_ranks, key=lambda pair: ids.bpe_ranks[pair])
    # open_clip has other names for the two last ids, which begin and end a text
    vocabulary = {ENDS.get(token, token): id_ for token, id_ in ids.encoder.items()}
    return library.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=context_length)


def picture_settings(towers: TwoTowers) -> dict[str, object]:
    """Say how CLIPImageProcessor prepares pictures: resized by the shorter side and cropped, or squashed."""
    settings = towers.image.preprocess
    assert settings
    height, width = _pair(settings.size)
    squash = settings.resize_mode == "squash"
    return {
        "size": {"height": height, "width": width} if squash else {"shortest_edge": height},
        "crop_size": {"height": height, "width": width},
        "do_center_crop": not squash,
        "resample": {"bicubic": 3, "bilinear": 2}.get(settings.interpolation, 3),
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
    }


def embed(source: Source, folder: Path, samples: Samples) -> Embedded:
    """Embed the samples by transformers alone: its model, its image processor, its tokenizer."""
    library, towers = _import(), two_towers(source)
    image, text = towers.image_name, towers.text_name
    model = library.CLIPModel.from_pretrained(folder).eval()
    processor = library.AutoProcessor.from_pretrained(folder)
    pixels = processor.image_processor(images=list(samples.raw[image]), return_tensors="pt")["pixel_values"]
    longest = towers.text.tower.context_length
    words = {"padding": "max_length", "truncation": True, "max_length": longest, "return_tensors": "pt"}
    ids = processor.tokenizer(list(samples.raw[text]), **words)["input_ids"]
    found = []
    with torch.inference_mode():
        for x, tokens in ((samples.inputs[image], samples.inputs[text]), (pixels, ids)):
            rows = {
                image: _rows(model.get_image_features(pixel_values=x)),
                text: _rows(model.get_text_features(input_ids=tokens)),
            }
            found.append({Side((name,)): normalize(z, dim=-1) for name, z in rows.items()})
    return Embedded(*found)


def _rows(given: Any) -> Tensor:
    """Take the embeddings of what the model gives: since version 5 an object, before the tensor itself."""
    return given if isinstance(given, Tensor) else given.pooler_output


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def uses(source: Source) -> list[str]:
    """Show how transformers and sentence-transformers answer a question."""
    return [
        """\
from PIL import Image
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model=".")
picture = Image.new("RGB", (256, 256), "red")  # or Image.open("picture.jpg")
print(classify(picture, candidate_labels=["red", "a cat", "a house"], hypothesis_template="{}"))
""",
        """\
# pip install sentence-transformers
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
pictures = model.encode([Image.new("RGB", (256, 256), "red")])
texts = model.encode(["red", "a cat", "a house"])
print(model.similarity(pictures, texts))
""",
    ]
