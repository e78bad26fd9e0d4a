"""Checkpoint files as people have them: every layout gives open_clip's own embeddings, or one line says what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip_towers import DIM, IMAGE, TEXT, TOWER, VIT, ids, make
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.encoders._open_clip_files import read_checkpoint
from workbench.encoders.open_clip import OpenCLIP

pytestmark = pytest.mark.slow

Weights = dict[str, Tensor]


def plain(quick_gelu: bool = False) -> open_clip.CLIP:
    """The oldest layout: the text tower at the top."""
    return open_clip.CLIP(DIM, VIT, TOWER, quick_gelu=quick_gelu).eval()


def as_transformers(weights: Weights) -> Weights:
    """The names of transformers' CLIPModel, written down from its documentation."""
    found = {"logit_scale": weights["logit_scale"]}
    for ours, theirs, top in (("visual.", "vision_model", "visual.proj"), ("", "text_model", "text_projection")):
        name = "visual_projection" if ours else "text_projection"
        found[f"{name}.weight"] = weights[top].T.contiguous()
        for layer in range(2):
            block, there = f"{ours}transformer.resblocks.{layer}.", f"{theirs}.encoder.layers.{layer}."
            for kind in ("weight", "bias"):
                thirds = weights[f"{block}attn.in_proj_{kind}"].chunk(3)
                for part, x in zip("qkv", thirds, strict=True):
                    found[f"{there}self_attn.{part}_proj.{kind}"] = x.clone()
                found[f"{there}self_attn.out_proj.{kind}"] = weights[f"{block}attn.out_proj.{kind}"]
                for norm in "12":
                    found[f"{there}layer_norm{norm}.{kind}"] = weights[f"{block}ln_{norm}.{kind}"]
                found[f"{there}mlp.fc1.{kind}"] = weights[f"{block}mlp.c_fc.{kind}"]
                found[f"{there}mlp.fc2.{kind}"] = weights[f"{block}mlp.c_proj.{kind}"]
    for kind in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{kind}"] = weights[f"visual.ln_pre.{kind}"]
        found[f"vision_model.post_layernorm.{kind}"] = weights[f"visual.ln_post.{kind}"]
        found[f"text_model.final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
    found["vision_model.embeddings.class_embedding"] = weights["visual.class_embedding"]
    found["vision_model.embeddings.patch_embedding.weight"] = weights["visual.conv1.weight"]
    found["vision_model.embeddings.position_embedding.weight"] = weights["visual.positional_embedding"]
    found["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    found["text_model.embeddings.token_embedding.weight"] = weights["token_embedding.weight"]
    found["text_model.embeddings.position_embedding.weight"] = weights["positional_embedding"]
    return found


class QuickLeaf(nn.Module):
    """The activation of OpenAI's archives, whose source they hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ExactLeaf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


def write_torchscript(path: str, weights: Weights, quick_gelu: bool) -> None:
    top: nn.Module = QuickLeaf() if quick_gelu else ExactLeaf()
    numbers = {"input_resolution": 32, "context_length": 10, "vocab_size": 49408}
    for name, x in (weights | {key: torch.tensor(float(n)) for key, n in numbers.items()}).items():
        owner, (*path_to, last) = top, name.split(".")
        for part in path_to:
            if not hasattr(owner, part):
                owner.add_module(part, ExactLeaf())
            owner = getattr(owner, part)
        owner.register_parameter(last, nn.Parameter(x.half(), requires_grad=False))
    torch.jit.save(torch.jit.script(top), path)


LAYOUTS: dict[str, Callable[[str, Weights], Any]] = {
    "bare.pt": lambda path, w: torch.save(w, path),
    "epoch_3.pt": lambda path, w: torch.save(
        {"epoch": 3, "state_dict": {f"module.{n}": x for n, x in w.items()}, "optimizer": {"state": {}}}, path
    ),
    "compiled.pt": lambda path, w: torch.save({f"_orig_mod.{n}": x for n, x in w.items()}, path),
    "model.safetensors": lambda path, w: save_file({n: x.contiguous() for n, x in w.items()}, path),
    "half.pt": lambda path, w: torch.save({n: x.half() for n, x in w.items()}, path),
    "pytorch_model.bin": lambda path, w: torch.save(as_transformers(w), path),
    "hf.safetensors": lambda path, w: save_file({n: x.contiguous() for n, x in as_transformers(w).items()}, path),
    "openai.pt": lambda path, w: write_torchscript(path, w, quick_gelu=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_open_clips_embeddings(tmp_path: Path, layout: str) -> None:
    reference = plain()
    path = str(tmp_path / layout)
    LAYOUTS[layout](path, {name: x.detach() for name, x in reference.state_dict().items() if name != "attn_mask"})
    image, text = make(IMAGE, config=VIT, pretrained=path).eval(), make(TEXT, config=TOWER, pretrained=path).eval()
    if layout in ("half.pt", "openai.pt"):
        reference.load_state_dict({n: x.half().float() for n, x in reference.state_dict().items()})
    pixels, tokens = torch.randn(3, 3, 32, 32), ids(3)
    torch.testing.assert_close(image(pixels).z, reference.encode_image(pixels))
    torch.testing.assert_close(text(tokens).z, reference.encode_text(tokens))
    read = read_checkpoint(path).weights
    assert {n for n in read if not n.startswith(("visual.", "text."))} == {"logit_scale"}
    assert len(read) == len(list(reference.parameters()))


@pytest.mark.parametrize("trained", [True, False])
def test_an_archive_of_openai_tells_its_gelu(tmp_path: Path, trained: bool) -> None:
    path = str(tmp_path / "ViT-B-32.pt")
    write_torchscript(path, {n: x for n, x in plain().state_dict().items() if n != "attn_mask"}, trained)
    assert read_checkpoint(path).quick_gelu is trained
    if trained:
        with pytest.raises(ValueError, match=r"was trained with OpenAI's approximate GELU, but this tower.*-quickgelu"):
            make(IMAGE, config=VIT, pretrained=path)


def test_transformers_config_tells_the_gelu(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    LAYOUTS["hf.safetensors"](str(path), {n: x.detach() for n, x in plain().state_dict().items() if n != "attn_mask"})
    assert read_checkpoint(str(path)).quick_gelu is None
    for config, quick in (
        ({"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "gelu"}}, False),
        ({"vision_config": {}, "text_config": {}}, True),  # transformers' own default
        ({}, True),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read_checkpoint(str(path)).quick_gelu is quick


class Custom(nn.Module):
    pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("whole.pt", lambda path: torch.save(Custom(), path), "Python objects besides tensors.*only its state_dict"),
        ("list.pt", lambda path: torch.save([1, 2], path), "is no checkpoint that can be read here"),
        ("empty.pt", lambda path: torch.save({}, path), "holds no tensor"),
        ("zero.pt", lambda path: Path(path).touch(), "is no checkpoint that can be read here"),
        ("text.safetensors", lambda path: Path(path).write_text("hello"), "is no checkpoint that can be read here"),
        ("noise.pt", lambda path: Path(path).write_bytes(bytes(range(256))), "is no checkpoint that can be read"),
        ("cut.pt", lambda path: cut(path), "is no checkpoint that can be read here"),
        ("resnet.pt", lambda path: torch.save({"fc.weight": torch.ones(2, 2)}, path), "no visual tower.*as fc.weight"),
        (
            "ours.safetensors",
            lambda path: save_file({"model.encoders.image.tower.proj": torch.ones(2, 2)}, path),
            "a checkpoint of a run of the workbench: name the run folder in model.init",
        ),
    ],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = str(tmp_path / name)
    content(path)
    encoder = OpenCLIP(IMAGE, DIM, config=VIT, pretrained=path)
    with pytest.raises(ValueError, match=message) as caught:
        encoder.load_pretrained()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # which no key of a recipe sets


def cut(path: str) -> None:
    torch.save({"visual.proj": torch.ones(99, 99)}, path)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])


def test_what_does_not_fit_is_listed_shortly(tmp_path: Path) -> None:
    path = str(tmp_path / "bare.pt")
    torch.save(plain().state_dict(), path)
    for config, message in (
        (VIT | {"layers": 3}, r"transformer.resblocks.2.ln_1.weight is missing there.*and 8 more"),
        (VIT | {"layers": 1}, r"transformer.resblocks.1.ln_1.weight is not known here.*and 8 more"),
        (VIT | {"width": 48}, r"visual.class_embedding is \[32\] there and \[48\] here.*Give the encoder the config"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            make(IMAGE, config=config, pretrained=path)
        assert len(str(caught.value)) < 700


def test_a_locked_trunk_takes_published_weights_and_another_image_size(tmp_path: Path) -> None:
    """BatchNorm that is frozen has no counter, and a trunk's positions are those of its own size."""
    for trunk, size in (("test_resnet", 64), ("test_vit", 64)):
        config = {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear"}
        published = open_clip.CustomTextCLIP(DIM, config, TOWER).eval()
        for buffer in published.visual.buffers():
            buffer.copy_(torch.rand_like(buffer.float()) + 0.5)
        path = str(tmp_path / f"{trunk}.pt")
        torch.save(published.state_dict(), path)
        encoder = make(IMAGE, config=config, image_size=size, lock=0, pretrained=path).eval()
        published.visual.set_input_size(size)
        pixels = torch.randn(2, 3, size, size)
        torch.testing.assert_close(encoder(pixels).z, published.encode_image(pixels))


def test_a_tag_of_the_other_gelu_names_only_what_can_be_built() -> None:
    with pytest.raises(ValueError, match="was not trained with the GELU of ViT-B-32") as caught:
        OpenCLIP(IMAGE, 512, model="ViT-B-32", pretrained="openai")
    names = re.findall(r"[\w-]+", str(caught.value).split("take ")[1])
    assert "ViT-B-32-quickgelu" in names
    for name in names:
        assert (
            open_clip.get_pretrained_cfg(name, "openai")["quick_gelu"] == open_clip.get_model_config(name)["quick_gelu"]
        )
        with torch.device("meta"):
            OpenCLIP(IMAGE, 512, model=name, pretrained="openai")
