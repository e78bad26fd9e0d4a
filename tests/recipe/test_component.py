"""A component is one class in one file: an objective, a fusion, a data set and a task of one's own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.build import build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.recipe.component import KINDS, declarers, load, names, schema, summary, validate
from workbench.recipe.documentation import document
from workbench.recipe.schema import RecipeError, parse_recipe
from workbench.training.metrics import Metrics

OWN = {
    "objective.py": """
import torch
from torch import nn
from workbench.types import Loss, Side

class Attract(nn.Module):
    '''Pull a fused pair towards the third modality.'''
    total_weight = 1.0
    def __init__(self, modalities, *, strength: float = 1.0):
        super().__init__()
        self.strength = strength
        self.all_sides = [Side.parse("+".join(modalities[:2])), Side.parse(modalities[2])]
    def sides(self, step):
        return self.all_sides
    def forward(self, z, pool):
        a, b = (z[str(side)].z[:, 0] for side in self.all_sides)
        return Loss(self.strength * (a - b).square().sum(1).mean(), {})
""",
    "fusion.py": """
import torch
from torch import nn

class Mean(nn.Module):
    kept_at_inference, needs_tokens = True, False
    def __init__(self, sides, widths, dim, *, bias: bool = True):
        super().__init__()
        self.out = nn.Linear(next(iter(widths.values())), dim, bias=bias)
    def forward(self, side, features, present):
        return self.out(torch.stack([f.pooled for f in features.values()]).mean(0))
""",
    "task.py": """
import torch
from synthetic.xor import XOR

class Copies(XOR):
    def __init__(self, *, bits: int = 2):
        super().__init__(bits=bits)
    def sample(self, n, generator):
        a = torch.randint(2 ** 2, (n,), generator=generator)
        return {"a": a, "b": a, "c": a}
""",
    "data.py": """
from pydantic import PositiveInt
import torch
from workbench.types import Modality, Sample

class Noise:
    def __init__(self, *, samples: PositiveInt = 40):
        self.samples = samples
        self.modalities = {m: Modality("vector", (5,)) for m in "abc"}
    def __len__(self):
        return self.samples
    def sample(self, index, rng):
        return Sample({m: [rng.normal(size=5).astype("float32")] for m in "abc"}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
    def split(self, name):
        raise ValueError("no splits")
""",
}


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """{kind: component name} of four components in files of their own."""
    classes = {"objective": "Attract", "fusion": "Mean", "task": "Copies", "data": "Noise"}
    for file, text in OWN.items():
        (tmp_path / file).write_text(text)
    return {kind: f"{tmp_path}/{kind}.py:{name}" for kind, name in classes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("data", ["own data", "own task"])
def test_own_components_train_together(own: dict[str, str], data: str) -> None:
    recipe = parse_recipe(
        {
            "name": "own",
            "data": {"name": own["data"], "samples": 48}
            if data == "own data"
            else {"name": "synthetic", "task": own["task"]},
            "objective": {"name": own["objective"], "strength": 2.0},
            "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp"), "fusion": own["fusion"]},
            "train": {"for": "20 steps", "batch": 16, "lr": 1e-2},
            "parallel": {"workers": 0},
        }
    )
    metrics = Metrics(None)
    build_engine(build_parts(recipe), Parallel(), metrics).fit()
    losses = [record["train/loss"] for record in metrics.records]
    assert len(losses) == 20
    assert losses[-1] < 0.9 * losses[0]


def test_a_module_path_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_ideas.py").write_text(OWN["fusion.py"])
    monkeypatch.chdir(tmp_path)
    assert load("fusion", "my_ideas:Mean").__name__ == "Mean"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.module:Thing", "cannot import 'nowhere.module'"),
        ("no_file.py:Thing", "no file"),
        ("workbench.fusion.mlp:MPL", "did you mean 'MLP'"),
        ("mpl", "did you mean 'mlp'"),
    ],
)
def test_a_component_that_is_not_there_is_named_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("fusion", name)


def test_keyword_arguments_are_the_recipe_and_a_trailing_underscore_is_dropped() -> None:
    spec = validate("objective", {"name": "ito", "lambda": 3})
    assert spec.as_dict()["lambda"] == 3
    assert spec.build(("image", "text")).terms[1].weight == 3


def test_unknown_key_in_a_recipe_of_an_own_component(own: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'strenght'; did you mean 'strength'"):
        parse_recipe({"objective": {"name": own["objective"], "strenght": 1}})


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_has_documentation_and_a_schema(kind: str) -> None:
    for name in names(kind):
        component = load(kind, name)
        assert summary(kind, name)
        documented = "".join(owner.__doc__ or "" for owner in (component, *declarers(component)))
        for field in schema(component).model_fields.values():
            assert f"{field.alias}:" in documented, f"{kind} {name}: Args: lacks {field.alias}"


class Inner:
    """A base.

    Args:
        depth: how deep
        width: how wide
    """

    def __init__(self, first: str, *, depth: int = 2, width: int = 3) -> None:
        self.given = (first, depth, width)


class Outer(Inner):
    """A component that hands keywords on.

    Args:
        tall: how tall
        width: how wide, in metres
    """

    def __init__(self, *, tall: bool, width: int = 7, **more: Any) -> None:
        super().__init__("a", width=width, **more)


def test_keywords_that_are_handed_on_are_the_recipe_as_well() -> None:
    fields = {name: (field.annotation, field.is_required()) for name, field in schema(Outer).model_fields.items()}
    assert fields == {"tall": (bool, True), "width": (int, False), "depth": (int, False)}
    spec = validate("data", {"name": f"{__file__}:Outer", "tall": True, "depth": 5})
    assert spec.build().given == ("a", 5, 7)
    described = {k.name: k.description for k in document("data", f"{__file__}:Outer").block.keywords}
    assert described == {"tall": "how tall", "width": "how wide, in metres", "depth": "how deep"}
    with pytest.raises(ValueError, match=r"unknown key 'dpeth'; did you mean 'depth'"):
        validate("data", {"name": f"{__file__}:Outer", "tall": True, "dpeth": 5})
    assert list(schema(Inner).model_fields) == ["depth", "width"]


def test_seeds_do_not_depend_on_other_parts() -> None:
    def first_weight(objective: str) -> torch.Tensor:
        tree = {"name": "x", "data": {"name": "synthetic", "task": "xor"}, "train": {"for": "1 steps", "batch": 8}}
        tree |= {"objective": objective, "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp"), "fusion": "mlp"}}
        return next(build_parts(parse_recipe(tree)).model.encoders["c"].parameters())

    assert torch.equal(first_weight("clip"), first_weight("confu"))
