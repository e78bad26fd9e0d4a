"""Encoders and fusions of a user's own: what they may leave out, and what they are told when they lack something."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.build import build_optimizer, build_parts
from workbench.contracts import as_encoder, as_fusion, refuse_unreadable_sides
from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.cost import assemble, cost
from workbench.runs.train import train
from workbench.types import Encoder, Features, Fusion, Side

SOURCE = """
import torch
from torch import nn
from workbench.types import Encoder, Features, Fusion

class Small(nn.Module):
    def __init__(self, modality, dim):
        super().__init__()
        self.width = modality.shape[0]
        self.layer = nn.Linear(*modality.shape, dim)
    def forward(self, x):
        return Features(z=self.layer(x), pooled=x)
    def transform(self, train):
        return torch.as_tensor

class Said(Encoder):
    has_tokens = True
    def __init__(self, modality, dim):
        super().__init__()
        self.width = dim
        self.layer = nn.Linear(*modality.shape, 3 * dim)
        self.asked = []
    def forward(self, x, tokens=False):
        self.asked.append(tokens)
        h = self.layer(x).unflatten(1, (3, -1))
        return Features(z=h[:, 0], pooled=h[:, 0], tokens=h if tokens else None)
    def transform(self, train):
        return torch.as_tensor
    def depths(self):
        return {"layer.weight": 0, "layer.bias": 0}

class Mean(nn.Module):
    def __init__(self, sides, widths, dim):
        super().__init__()
        self.out = nn.Linear(next(iter(widths.values())), dim)
    def forward(self, side, features, present):
        return self.out(torch.stack([f.pooled for f in features.values()]).mean(0))
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(SOURCE)
    return str(tmp_path / "own.py")


def recipe(encoder: Any, objective: Any = "clip", fusion: Any = None, **train: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "own",
            "data": {"name": "synthetic", "task": "xor"},
            "model": {"dim": 8, "encoders": dict.fromkeys("abc", encoder), "fusion": fusion},
            "objective": objective,
            "train": {"for": "2 steps", "batch": 8, **train},
            "log": {"tensorboard": False},
        }
    )


@pytest.mark.slow
def test_a_plain_module_trains_and_keeps_the_names_of_its_tensors(source: str, tmp_path: Path) -> None:
    settings = recipe(f"{source}:Small", "confu", f"{source}:Mean")
    parts = build_parts(settings)
    encoder, fusion = parts.model.encoders["a"], parts.model.fusion
    assert isinstance(encoder, Encoder)
    assert isinstance(fusion, Fusion)
    assert (encoder.has_tokens, encoder.context_length, list(encoder.repeated())) == (False, None, [])
    assert (fusion.kept_at_inference, fusion.needs_tokens) == (True, False)
    assert set(encoder.state_dict()) == {"layer.weight", "layer.bias"}
    assert type(encoder) is type(parts.model.encoders["b"])
    assert train(settings, tmp_path / "run").finished
    assert cost(settings).parameters["a"] == 8 * 3 + 8


def test_tokens_are_asked_for_by_keyword_and_only_where_a_fusion_reads_them(source: str) -> None:
    x, there = {m: torch.randn(4, 1, 3) for m in "abc"}, {m: torch.ones(4, 1).bool() for m in "abc"}
    reads = {"name": "transformer", "layers": 1, "heads": 2, "readout": "mean"}
    model = build_parts(recipe(f"{source}:Said", "confu", reads)).model
    for encoder in model.encoders.values():
        encoder.asked.clear()
    model(x, there, ["a", "b+c"])
    assert [model.encoders[m].asked for m in "abc"] == [[False], [True], [True]]


def test_depths_of_an_own_encoder_are_used(source: str) -> None:
    assert build_optimizer(build_parts(recipe(f"{source}:Said", layer_decay=0.5)))
    with pytest.raises(RecipeError, match="none of the encoders says how deep"):
        build_optimizer(build_parts(recipe(f"{source}:Small", layer_decay=0.5)))


class Without(nn.Module):
    """No encoder yet."""


class Half(Encoder):
    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        return Features(x, x)


class Flagged(nn.Module):
    """As encoders were before tokens were asked for by keyword."""

    width, has_tokens, want_tokens = 3, True, False

    def forward(self, x: Tensor) -> Features:
        return Features(x, x)

    def transform(self, train: bool) -> Any:
        return torch.as_tensor


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Without(), r"encoder 'x.py:E' lacks width and transform and forward: see workbench.types.Encoder"),
        (Half(), r"encoder 'x.py:E' lacks width and transform: see"),
        (Flagged(), r"encoder 'x.py:E' has tokens.*write forward\(self, x, tokens=False\)"),
        (len, r"encoder 'x.py:E' is no torch.nn.Module but builtin_function_or_method"),
    ],
)
def test_what_an_encoder_lacks_is_said_by_name(made: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        as_encoder(made, "x.py:E")


def test_what_a_fusion_lacks_is_said_by_name() -> None:
    with pytest.raises(RecipeError, match=r"fusion 'x.py:F' lacks forward: see workbench.types.Fusion"):
        as_fusion(Without(), "x.py:F")


class Tower(Encoder):
    def __init__(self, tokens: bool, class_token: bool) -> None:
        super().__init__()
        self.has_tokens, self.has_class_token = tokens, class_token


class Reader(Fusion):
    needs_tokens = needs_class_token = True


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ({"a": (True, True), "b": (True, False)}, None),
        ({"a": (True, False), "b": (True, True)}, None),
        ({"a": (True, True), "b": (False, False)}, r"reads tokens, which the encoder of b \('plain'\) does not give"),
        ({"a": (True, False), "b": (True, False)}, r"side 'a\+b' at a class token, which no member has \(a: plain"),
    ],
)
def test_sides_that_a_fusion_cannot_read_are_refused(towers: dict[str, Any], message: str | None) -> None:
    encoders = {m: Tower(*has) for m, has in towers.items()}
    given = (Reader(), "reader", [Side.parse("a+b")], encoders, dict.fromkeys("ab", "plain"))
    if message is None:
        refuse_unreadable_sides(*given)
    else:
        with pytest.raises(RecipeError, match=message):
            refuse_unreadable_sides(*given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "readout", "message"),
    [
        ({}, "cls", None),
        ({"pool_type": "avg"}, "mean", None),
        ({"pool_type": "avg"}, "cls", r"at a class token, which no member has.*set model.fusion.readout=mean or token"),
        ({"patch_dropout": 0.5}, "mean", r"reads tokens, which the encoder of image \('open_clip'\) does not give"),
    ],
)
def test_wb_check_knows_which_towers_have_a_class_token(image: dict[str, Any], readout: str, message: Any) -> None:
    vit = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8} | image
    text = {"context_length": 8, "width": 16, "heads": 2, "layers": 1}
    settings = parse_recipe(
        {
            "name": "x",
            "data": {"name": "emoji", "views": 2},
            "model": {
                "dim": 16,
                "encoders": {m: {"name": "open_clip", "config": c} for m, c in (("image", vit), ("text", text))},
                "fusion": {"name": "transformer", "layers": 1, "heads": 2, "readout": readout},
            },
            "objective": "ito",
            "train": {"for": "1 steps", "batch": 4},
        }
    )
    if message is None:
        assemble(settings)
    else:
        with pytest.raises(RecipeError, match=message):
            assemble(settings)
