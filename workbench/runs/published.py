"""A model of open_clip in the place of a run: built, with its weights and its scale, for the same evaluators."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import ValidationError

from workbench.contracts import as_encoder
from workbench.errors import RecipeError
from workbench.model import Model
from workbench.recipe.component import validate
from workbench.types import Encoder, Modality, Objective

PREFIX = "open_clip:"


def is_published(source: str) -> bool:
    """Say whether a source names a model of open_clip, or is a folder of one, and no run folder."""
    from workbench.encoders._open_clip_models import CONFIG

    folder = Path(source)
    return source.startswith(PREFIX) or ((folder / CONFIG).is_file() and not (folder / "recipe.yaml").is_file())


def build_published(source: str, image: str, text: str) -> tuple[Model, Objective]:
    """Build the two towers under the names of the data's modalities, and CLIP's objective at the model's own scale.

    Raises RecipeError for a name that is none, for towers that cannot be built here, and for weights that are not found
    or do not fit.
    """
    from workbench.encoders._open_clip_files import read_checkpoint
    from workbench.encoders._open_clip_models import find_published
    from workbench.encoders._open_clip_weights import load_tower, refuse_other_gelu
    from workbench.encoders.open_clip import OpenCLIP

    try:
        found = find_published(source.removeprefix(PREFIX))
        encoders: dict[str, Encoder] = {}
        towers: list[OpenCLIP] = []
        for name, kind, settings in ((image, "image", found.image), (text, "text", found.text)):
            spec = validate("encoder", {"name": "open_clip", **settings})
            tower = as_encoder(spec.build(Modality(kind), found.dim), spec.name)  # type: ignore[arg-type]
            assert isinstance(tower, OpenCLIP)
            encoders[name] = tower
            towers.append(tower)
        assert towers[0].pretrained is not None
        file = towers[0].pretrained.path()
        weights, quick_gelu = read_checkpoint(file)
        for tower in towers:
            refuse_other_gelu(file, quick_gelu, tower.quick_gelu)
            own = {n.removeprefix(f"{tower.part}."): x for n, x in weights.items() if n.startswith(f"{tower.part}.")}
            load_tower(tower.tower, tower.part, file, own)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{source}: {e['msg']}" for e in error.errors())) from None
    except ValueError as error:
        raise RecipeError(f"{source}: {error}") from error
    return Model(encoders, {}, None).eval(), _objective(image, text, weights)


def _objective(image: str, text: str, weights: dict[str, torch.Tensor]) -> Objective:
    from workbench.objectives.clip import CLIP
    from workbench.scale import Scale

    known = weights.get("logit_scale")
    scale = 1 / 0.07 if known is None else math.exp(known.item())
    return CLIP((image, text), scale=Scale(init=scale, max=max(scale, 100.0), learn=False))
