"""A run as an export sees it: its model with the weights of a checkpoint, and what a client can hold of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from workbench.build import Parts
from workbench.runs.exported import FOLDER_OF, Format, Manifest
from workbench.runs.folder import read_recipe
from workbench.runs.inference import LoadedModel, as_loaded, load_parts
from workbench.terms import Terms
from workbench.types import Encoder, Side

OF_TRAINING: Mapping[str, object] = {"grad_checkpointing": False, "augment": None}
"""{key of an encoder: its value in an export}: what only a training reads"""


class Refusal(NamedTuple):
    """Something that a format has no place for."""

    what: str
    held_by: tuple[Format, ...]
    """the formats that have one"""


@dataclass(frozen=True)
class Source:
    """A run's model in eval mode on the CPU, fused sides that exist only while training left out."""

    run: Path
    parts: Parts
    step: int
    loaded: LoadedModel

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return self.parts.model.encoders

    @property
    def sides(self) -> Sequence[Side]:
        return self.loaded.sides

    @property
    def fused(self) -> list[Side]:
        return [side for side in self.sides if side.fused]

    def sides_of(self, modality: str) -> list[Side]:
        """List the sides that are made of one modality without the fusion."""
        return [side for side in self.sides if side.members == (modality,) and not side.fused]

    @property
    def dropped(self) -> list[str]:
        """Say what of the run no export has."""
        trained = {dataclasses.replace(side, options=frozenset()) for side in self.parts.objective.all_sides}
        gone = [str(side) for side in trained if side not in self.sides]
        fusion = self.parts.recipe.model.fusion
        if not gone or fusion is None:
            return []
        return [f"the fusion ({fusion.name}) that made {', '.join(sorted(gone))}: it exists only while training"]

    @cached_property
    def contrast(self) -> tuple[float | None, float | None]:
        """The factor on cosines and the bias of a sigmoid, of the term between the two modalities where there is one.

        None for what the objective does not have.
        """
        objective = self.parts.objective
        plain = {str(side) for side in self.sides if side.plain}
        named = objective.named.items() if isinstance(objective, Terms) else ()
        between = next(((name, term) for name, term in named if set(term.between) == plain and len(plain) == 2), None)
        if isinstance(objective, Terms) and between:
            name, term = between
            bias = objective.bias.item() if term.loss == "sigmoid" and objective.bias is not None else None
            return (None if term.loss == "align_uniform" else objective.scale(name).item()), bias
        scale = objective.scale()
        return (None if scale is None else scale.item()), None

    def manifest(self, format: Format, sides: Sequence[Side]) -> Manifest:
        """Say what an export of these sides holds."""
        recipe = self.parts.recipe
        scale, bias = self.contrast
        kept = recipe.model.fusion if any(side.fused for side in sides) else None
        return Manifest(
            format,
            recipe.name,
            self.step,
            recipe.model.dim,
            self.loaded.modalities,
            {name: published(spec.as_dict()) for name, spec in recipe.model.encoders.items()},
            published(kept.as_dict()) if kept else None,
            [name for name in self.parts.model.heads if Side.parse(name) in sides],
            [str(side) for side in sides],
            scale,
            bias,
        )


def open_source(run: Path, checkpoint: str) -> Source:
    """Open a run. Raises RunError where it is none, or has no such checkpoint; DamagedCheckpoint."""
    parts, step = load_parts(run, checkpoint, read_recipe(run))
    parts.model.requires_grad_(False)
    return Source(run, parts, step, as_loaded(parts, torch.device("cpu")))


def published(block: Mapping[str, object]) -> dict[str, object]:
    """Give an encoder's or a fusion's block without paths of this machine, and without what only a training reads."""
    kept = {key: OF_TRAINING.get(key, value) for key, value in block.items()}
    name = str(kept["name"])
    if ":" in name:
        kept["name"] = Path(name).name
    if name == "transformers":
        kept |= {FOLDER_OF: ".", "pretrained": False}
    elif "pretrained" in kept and not _is_tag(name, kept):
        kept["pretrained"] = None if name == "open_clip" else False
    return kept


def _is_tag(name: str, block: Mapping[str, object]) -> bool:
    """Say whether the published weights are a tag of open_clip, which tells how pictures were prepared, and no file."""
    return name == "open_clip" and block.get("model") is not None and not Path(str(block["pretrained"])).is_file()


def refuse(format: Format, refusals: Sequence[Refusal]) -> None:
    """Raise ValueError that lists what the format cannot hold, with the formats that can; nothing for an empty list."""
    if not refusals:
        return
    able = [other for other in refusals[0].held_by if all(other in refusal.held_by for refusal in refusals)]
    remedy = f"--format {' or '.join(able)} can" if able else "no format holds all of it"
    raise ValueError(f"--format {format} cannot hold {'; nor '.join(refusal.what for refusal in refusals)}: {remedy}")


def count(parts: Sequence[nn.Module]) -> int:
    """Count the parameters of modules."""
    return sum(p.numel() for part in parts for p in part.parameters())
