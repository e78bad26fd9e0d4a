"""What `wb embed --with` names, as frozen towers: a run, a recipe whose encoders are locked, or a single encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from workbench.build import Parts, build_parts
from workbench.contracts import as_encoder
from workbench.errors import RecipeError
from workbench.inspection.open_data import is_recipe
from workbench.loading.augment import Augment
from workbench.recipe.component import Spec, names, validate
from workbench.recipe.schema import Recipe, load_recipe
from workbench.recipe.yaml_text import parse_yaml
from workbench.runs.folder import read_recipe
from workbench.runs.inference import load_parts
from workbench.runs.measuring import training_items
from workbench.seeds import seed_torch
from workbench.types import Data, Encoder, Transform

BATCH = 64
"""items that are encoded at once, where no recipe says how many"""
SHARED = "shared"
"""what is taken of encoders that are to be compared with one another: unit vectors in the space that they share"""
NOT_WEIGHTS = ("pretrained", "lock", "grad_checkpointing")
"""settings that change nothing which the digest of the weights does not tell"""
LATER = ("quick_gelu", "preprocess")
"""settings that encoders did not always have: unset, they are left out, and digests of before stay what they were"""


@dataclass(frozen=True)
class Towers:
    """Encoders in eval mode, by the field that each reads."""

    encoders: Mapping[str, Encoder]
    settings: Mapping[str, Mapping[str, object]]
    """{field: the block of its encoder in a recipe}"""
    said: str
    """what a person named them by"""
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    """{field: what brings its pooled features into the shared space, where its encoder does not end there}"""
    batch: int = BATCH
    step: int | None = None
    """the step of a run's checkpoint"""

    def transforms(self) -> dict[str, Transform]:
        """{field: raw item -> model input}, without any augmentation."""
        return {name: _still(encoder) for name, encoder in self.encoders.items()}

    def digest(self, what: str) -> str:
        """Digest the encoders, their weights and settings, and what is taken of them. It begins with a letter, as YAML
        would take digits for a number."""
        about = {name: [_settings(self.settings[name]), weights_of(e)] for name, e in sorted(self.encoders.items())}
        if what == SHARED:
            for name, head in self.heads.items():
                about[name].append(weights_of(head))
        return "e" + hashlib.blake2b(json.dumps([what, about], sort_keys=True).encode()).hexdigest()[:15]


def _still(encoder: Encoder) -> Transform:
    """Give the map of an evaluation; where the encoder's augmentation is none, that of a training, which hands over
    bytes: their rounding is then bitwise that of a training with the encoder itself."""
    augment = getattr(encoder, "augment", None)
    return encoder.transform(train=augment == Augment.model_validate("none"))


def _settings(block: Mapping[str, object]) -> dict[str, object]:
    kept = {
        key: value for key, value in block.items() if key not in NOT_WEIGHTS and not (key in LATER and value is None)
    }
    return kept | {"name": str(block["name"]).rpartition(":")[2]}  # a file of one's own may have moved


def weights_of(part: nn.Module) -> str:
    """Digest everything that a checkpoint would keep of an encoder or a head."""
    digest = hashlib.blake2b()
    for name, x in sorted(part.state_dict().items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def open_towers(said: str, data: Data, chosen: tuple[str, ...], checkpoint: str, dim: int) -> Towers:
    """Build what a person named, for the fields `chosen` of these data; () means all that it reads.

    Args:
        said: a run folder, a recipe, or an encoder as in a recipe: its name, or {name: open_clip, model: ViT-B-32}.
        data: the data whose fields are embedded.
        chosen: fields.
        checkpoint: which one of a run: last, best or a step.
        dim: width of the shared space, for a single encoder.

    Raises RecipeError and ValueError for what is none of them, or reads none of the fields.
    """
    if unknown := [name for name in chosen if name not in data.modalities]:
        raise RecipeError(f"--field {unknown[0]}: the data has {', '.join(data.modalities)}")
    seed, step, batch, heads = 0, None, BATCH, nn.ModuleDict()
    if Path(said).is_dir():
        parts, step = load_parts(Path(said), checkpoint, read_recipe(Path(said)))
        encoders, settings, batch = dict(parts.model.encoders), _blocks(parts.recipe), _batch(parts.recipe)
        heads = parts.model.heads
        _refuse_other_kinds(parts.data, data, encoders)
    elif is_recipe(said):
        parts = build_parts(load_recipe(said), training=False)
        encoders, settings, batch = _locked(parts, said, chosen), _blocks(parts.recipe), _batch(parts.recipe)
        heads = parts.model.heads
        _refuse_other_kinds(parts.data, data, encoders)
        seed = parts.recipe.seed
    else:
        encoders, settings = _of_encoder(_read_block(said), data, chosen, dim)
    found = {name: encoders[name] for name in chosen or data.modalities if name in encoders}
    if missing := [name for name in chosen if name not in found]:
        raise RecipeError(f"--field {missing[0]}: {said} reads {', '.join(encoders)}")
    if not found:
        raise RecipeError(f"{said} reads {', '.join(encoders)}, and the data has {', '.join(data.modalities)}")
    for name, encoder in found.items():
        if step is None and encoder.needs_items:
            encoder.measure(training_items(data, name, seed))
        encoder.eval().requires_grad_(False)
    kept = {name: heads[name].eval().requires_grad_(False) for name in found if name in heads}
    return Towers(found, {name: settings[name] for name in found}, said, kept, batch, step)


def towers_of(parts: Parts, said: str, names: Iterable[str]) -> Towers:
    """Take the towers of these fields out of a model that is built already."""
    settings, heads = _blocks(parts.recipe), parts.model.heads
    encoders = {name: parts.model.encoders[name] for name in names}
    kept = {name: heads[name] for name in encoders if name in heads}
    return Towers(encoders, {name: settings[name] for name in encoders}, said, kept, _batch(parts.recipe))


def _locked(parts: Parts, said: str, chosen: tuple[str, ...]) -> dict[str, Encoder]:
    """List a recipe's encoders; unless fields are chosen, those that it never trains. Raises RecipeError."""
    encoders = dict(parts.model.encoders)
    locked = {n: e for n, e in encoders.items() if not any(p.requires_grad for p in e.parameters())}
    if not chosen and not locked:
        raise RecipeError(
            f"{said} trains all of its encoders ({', '.join(encoders)}): lock those that are to be embedded, as "
            "lock: 0, name one with --field, or give the run that has trained them"
        )
    return encoders if chosen else locked


def _refuse_other_kinds(known: Data, given: Data, fields: Iterable[str]) -> None:
    """Raise ValueError for a field of another kind, or with numbers of another length, than an encoder was made for."""
    for name in fields:
        a, b = known.modalities[name], given.modalities.get(name)
        if b and (a.kind != b.kind or (a.kind in ("vector", "sequence") and a.shape[-1:] != b.shape[-1:])):
            mine, theirs = (f"{m.kind} {' x '.join(map(str, m.shape))}".strip() for m in (b, a))
            raise ValueError(f"field '{name}' is {mine}, and its encoder reads {theirs}: take the fields of its recipe")


def _blocks(recipe: Recipe) -> dict[str, dict[str, object]]:
    return {name: spec.as_dict() for name, spec in recipe.model.encoders.items()}


def _batch(recipe: Recipe) -> int:
    """Take as many items at once as a training does, so that a matrix product rounds as it does there."""
    return recipe.train.microbatch or recipe.train.batch


def _read_block(said: str) -> Spec[Encoder]:
    """Read an encoder as a recipe has it. Raises RecipeError."""
    block = parse_yaml(said, lambda _: "--with").value if said.lstrip().startswith("{") else said
    name = block.get("name") if isinstance(block, dict) else block
    if isinstance(name, str) and ":" not in name and name not in names("encoder"):
        known = ", ".join(names("encoder"))
        raise RecipeError(f"--with {said}: no run folder, no recipe, and no encoder (there are: {known})")
    try:
        return validate("encoder", block)  # type: ignore[return-value]  # its kind says what it builds
    except ValidationError as error:
        lines = (f"--with: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None


def _of_encoder(
    spec: Spec[Encoder], data: Data, chosen: tuple[str, ...], dim: int
) -> tuple[dict[str, Encoder], dict[str, dict[str, object]]]:
    """Build an encoder for each chosen field, or for each that it can read. Raises RecipeError where that is none."""
    found: dict[str, Encoder] = {}
    wrong: list[RecipeError] = []
    for name in chosen or data.modalities:
        seed_torch(0, "encoder", name)
        try:
            encoder = as_encoder(spec.build(data.modalities[name], dim), spec.name)
        except RecipeError as error:
            wrong.append(error)
            continue
        try:
            encoder.load_pretrained()
        except ValueError as error:
            raise RecipeError(f"encoder '{spec.name}': {error}") from error
        found[name] = encoder
    if wrong and (chosen or not found):
        raise wrong[0]
    return found, {name: spec.as_dict() for name in found}
