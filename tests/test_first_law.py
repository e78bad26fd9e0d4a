"""A model is a map of single samples: what is none is refused before a step is taken, by name, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from timm.layers import EvoNorm2dB0
from torch import Tensor, nn

from workbench.build import build_parts
from workbench.cli.check import check_
from workbench.errors import RecipeError
from workbench.first_law import refuse_mixing_encoder, refuse_mixing_fusion
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.cost import assemble
from workbench.runs.inference import load_parts
from workbench.runs.train import train
from workbench.training import checkpoint, checkpoint_files
from workbench.types import Encoder, Features, Fusion, Modality, Side, Transform

VECTOR = Modality("vector", (6,))


class Own(Encoder):
    """Any module on six numbers; `fixed` names layers that stay in eval mode."""

    def __init__(self, inside: nn.Module, fixed: bool = False) -> None:
        super().__init__()
        self.width, self.inside, self.fixed = 6, inside, fixed

    def train(self, mode: bool = True) -> "Own":
        super().train(mode)
        if self.fixed:
            self.inside.eval()
        return self

    def transform(self, train: bool) -> Transform:
        return torch.as_tensor

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        z = self.inside(x)
        return Features(z, z)


class Channels(nn.Module):
    """A layer for pictures, on six numbers as six channels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[..., None, None].repeat(1, 1, 2, 2) * torch.tensor([1.0, 2.0])).mean((2, 3))


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "fixed", "name"),
    [
        (nn.BatchNorm1d(6), False, "BatchNorm1d inside.0"),
        (nn.SyncBatchNorm(6), False, "SyncBatchNorm inside.0"),
        (Channels(nn.BatchNorm2d(6, affine=False)), False, "BatchNorm2d inside.0.layer"),
        (nn.BatchNorm1d(6, track_running_stats=False), True, "BatchNorm1d inside.0"),  # even in eval mode
        (Channels(nn.InstanceNorm2d(6, track_running_stats=True)), False, "InstanceNorm2d inside.0.layer"),
        (Channels(EvoNorm2dB0(6)), False, "EvoNorm2dB0 inside.0.layer"),
        (nn.BatchNorm1d(6), True, None),
        (Channels(nn.InstanceNorm2d(6)), False, None),
        (nn.GroupNorm(2, 6), False, None),
        (nn.LayerNorm(6), False, None),
    ],
    ids=str,
)
def test_layers_are_known_by_their_class(layer: nn.Module, fixed: bool, name: str | None) -> None:
    encoder = Own(nn.Sequential(layer, nn.Linear(6, 6)), fixed)
    if name is None:
        refuse_mixing_encoder("model.encoders.x (own)", encoder, VECTOR, lambda: encoder)
        assert alone_equals_together(encoder)
    else:
        with pytest.raises(RecipeError, match=rf"model.encoders.x \(own\) mixes .*{name}\).*convnext_atto.*lock: 0"):
            refuse_mixing_encoder("model.encoders.x (own)", encoder, VECTOR)


def alone_equals_together(encoder: Encoder) -> bool:
    x = torch.randn(5, 6)
    return torch.allclose(encoder.train()(x).z[2:3], encoder(x[2:3]).z, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "mixes"),
    [
        (lambda x: x - x.mean(0), True),
        (lambda x: x / x.norm(), True),
        (lambda x: x.softmax(0), True),
        (lambda x: x + 0.001 * x.max(), True),
        (lambda x: x.flip(0), True),
        (lambda x: x - x.mean(1, keepdim=True), False),
        (lambda x: nn.functional.dropout(x, 0.5), False),
        (lambda x: x + 0 * torch.randn_like(x) + torch.rand(1), False),  # torch's generator is seeded
        (lambda x: x[:, (x[0] * 0).long()], False),
        (lambda x: x + torch.rand(1, generator=GENERATOR), False),  # draws that nobody can repeat: not known
        (lambda x: nn.functional.one_hot(x.long()), False),  # fails on noise: not known
    ],
)
def test_own_code_is_tried_out(function: Any, mixes: bool) -> None:
    encoder = Own(Lambda(function))
    refuse_mixing_encoder("here", encoder, VECTOR)  # what is shipped is not tried out: its layers are known
    if mixes:
        with pytest.raises(RecipeError, match="here mixes the samples of a batch, as a try on noise shows"):
            refuse_mixing_encoder("here", encoder, VECTOR, lambda: encoder)
    else:
        refuse_mixing_encoder("here", encoder, VECTOR, lambda: encoder)


GENERATOR = torch.Generator()


def test_a_try_leaves_no_trace() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += len(x)
            return nn.functional.dropout(x)

    encoder = Own(Counting())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    refuse_mixing_encoder("here", encoder, VECTOR, lambda: encoder)
    assert torch.equal(torch.rand(3), expected)
    assert encoder.inside.seen.item() == 0


@pytest.mark.parametrize("mixes", [True, False])
def test_a_fusion_is_tried_out(mixes: bool) -> None:
    class Sum(Fusion):
        def forward(self, side: Side, features: Any, present: Any = None) -> Tensor:
            z = sum(f.pooled for f in features.values())
            return z - z.mean(0) if mixes else z

    given = ("model.fusion (own)", Sum(), [Side.parse("a+b")], {"a": 6, "b": 6}, 6, Sum)
    if mixes:
        with pytest.raises(RecipeError, match=r"model.fusion \(own\) mixes the samples"):
            refuse_mixing_fusion(*given)
    else:
        refuse_mixing_fusion(*given)


@pytest.mark.parametrize(
    "settings", ["mlp", "deep_set", {"name": "transformer", "heads": 2, "readout": "mean"}], ids=str
)
def test_every_shipped_fusion_is_a_map_of_single_samples(settings: Any) -> None:
    from workbench.recipe.component import validate

    side, dim = Side.parse("a+b+c"), 8
    fusion = validate("fusion", settings).build([side], dict.fromkeys("abc", 6), dim)
    fusion = fusion.eval() if settings in ("mlp", "deep_set") else fusion.train()  # those two have dropout
    n = 9
    whole = {m: (torch.randn(n, dim), torch.randn(n, 6), torch.randn(n, 4, dim), torch.rand(n, 4) < 0.8) for m in "abc"}
    present = {m: torch.rand(n) < 0.7 for m in "abc"}

    def fuse(rows: list[int]) -> Tensor:
        features = {m: Features(z[rows], h[rows], t[rows], mask=mask[rows]) for m, (z, h, t, mask) in whole.items()}
        return fusion(side, features, {m: p[rows] for m, p in present.items()})

    together = fuse(list(range(n)))
    for row in range(n):
        torch.testing.assert_close(fuse([row]), together[row : row + 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fuse([3, 8, 1]), together[[3, 8, 1]], atol=1e-5, rtol=1e-4)


OWN = """
import torch
from torch import nn
from workbench.types import Features

class Whitened(nn.Module):
    def __init__(self, modality, dim):
        super().__init__()
        self.width = dim
        self.layer = nn.Linear(*modality.shape, dim)
    def forward(self, x):
        z = self.layer(x)
        z = (z - z.mean(0)) / (1e-3 + z.std(0))
        return Features(z=z, pooled=z)
    def transform(self, train):
        return torch.as_tensor
"""


def test_an_own_encoder_is_refused_when_it_is_checked_and_when_it_is_trained(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    tree = {
        "name": "own",
        "data": {"name": "synthetic", "task": "xor"},
        "model": {"dim": 4, "encoders": {"a": f"{tmp_path}/own.py:Whitened", "b": "mlp", "c": "mlp"}},
        "objective": "clip",
        "train": {"for": "1 steps", "batch": 8},
    }
    message = r"model.encoders.a \(.*own.py:Whitened\) mixes the samples of a batch, as a try on noise shows"
    for refuse in (assemble, build_parts, lambda recipe: train(recipe, tmp_path / "run")):
        with pytest.raises(RecipeError, match=message):
            refuse(parse_recipe(tree))
    build_parts(parse_recipe(tree), training=False)  # as a run of an earlier version is loaded


def pictures(**image: Any) -> dict[str, Any]:
    text = {"name": "open_clip", "config": {"context_length": 8, "width": 16, "heads": 2, "layers": 1}}
    return {
        "name": "pictures",
        "data": {"name": "emoji"},
        "model": {"dim": 16, "encoders": {"image": {"name": "open_clip", **image}, "text": text}},
        "objective": "clip",
        "train": {"for": "1 steps", "batch": 8, "microbatch": 4},
        "log": {"tensorboard": False},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "more", "mixes"),
    [
        ("resnet18", {}, "BatchNorm2d tower.trunk.bn1 and 19 more layers"),
        ("resnet18", {"lock": 0}, None),
        ("resnet18", {"lock": 1}, None),
        ("efficientnet_b0", {}, "BatchNormAct2d"),
        ("levit_128s", {"lock": 0}, "BatchNorm1d"),  # timm freezes those of two dimensions only
        ("convnext_atto", {}, None),
        ("edgenext_xx_small", {}, None),
    ],
)
def test_wb_check_refuses_batchnorm_by_name(tmp_path: Path, trunk: str, more: dict[str, int], mixes: Any) -> None:
    config = {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(pictures(config=config, **more)))
    result = CliRunner().invoke(check_, [str(tmp_path / "recipe.yaml"), "--json"])
    (found,) = json.loads(result.stdout).values()
    if mixes is None:
        assert (result.exit_code, found) == (0, None)
    else:
        assert result.exit_code == 2
        assert f"recipe.yaml: model.encoders.image (open_clip) mixes the samples of a batch ({mixes}" in found
        assert all(word in found for word in ("convnext_atto", "edgenext_xx_small", "ViT", "lock: 0"))


@pytest.mark.slow
def test_a_run_with_batchnorm_of_an_earlier_version_still_loads_but_does_not_resume(tmp_path: Path) -> None:
    config = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    recipe: Recipe = parse_recipe(pictures(config=config))
    parts = build_parts(recipe, training=False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.yaml").write_text(recipe.as_yaml())
    optimizer = torch.optim.SGD([torch.zeros(1)])
    checkpoint.save(tmp_path / "checkpoints", parts.model, parts.objective, optimizer, checkpoint_files.State(0))
    loaded, _ = load_parts(tmp_path, "last", recipe)
    assert not loaded.model.training
    with pytest.raises(RecipeError, match="BatchNorm2d"):
        train(recipe, tmp_path)
