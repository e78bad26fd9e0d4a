"""Fine-tuning: weights to begin from, found by name in a run of the workbench or in a checkpoint file of CLIP.

The trap: what is not found stays as drawn from the seed, so a modality of another name would silently train from
scratch. Hence every tensor is accounted for, a shape that differs is an error, and so is a model of which nothing is
found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from workbench.distributed.sharding import place_like
from workbench.errors import RunError, did_you_mean
from workbench.model import Model
from workbench.recipe.sections import InitSection
from workbench.runs.folder import find_checkpoint
from workbench.training import checkpoint

Weights = dict[str, Tensor]

SCALES = {"log_scales.shared": "logit_scale", "log_scale": "logit_scale", "bias": "logit_bias"}
"""{parameter of an objective: its name in open_clip}; both keep the logarithm of the scale"""


def initialise(model: Model, objective: nn.Module, init: InitSection) -> list[str]:
    """Load the weights that `init` names into the model and the objective, wherever a name is known there.

    Returns three lines for people: what was loaded, what was not found and stays as drawn, and what was left over.
    Raises RunError where there is no such source, ValueError where its shapes differ or nothing of the model is in it.
    """
    both = checkpoint.under_names(model, objective)
    own, (source, found) = both.state_dict(), _read(model, objective, init)
    wanted = _wanted(own, init.parts)
    loaded = {name: found[name] for name in wanted if name in found}
    _refuse_other_shapes(source, loaded, own)
    if not any(name.startswith("model.") for name in loaded):
        raise ValueError(
            f"model.init: nothing of this model is in {source}: it has {_count(found) or 'no tensor'}, "
            f"the recipe wants {_count(wanted)}"
        )
    both.load_state_dict({name: place_like(x, own[name]) for name, x in loaded.items()}, strict=False)
    return [
        f"init from {source}: loaded {_count(loaded)}",
        f"init: not in it, so left as drawn: {_count(set(wanted) - loaded.keys()) or 'nothing'}",
        f"init: in it, but left over: {_count(found.keys() - loaded.keys()) or 'nothing'}",
    ]


def _read(model: Model, objective: nn.Module, init: InitSection) -> tuple[str, Weights]:
    """Read what `init` names; returns what messages call it, and its tensors under the names of a checkpoint."""
    path = Path(init.from_)
    if path.is_file():
        return str(path), _from_file(model, objective, path)
    if not (path / "recipe.yaml").is_file():
        raise RunError(
            f"model.init: {path} is neither a run folder (it would hold recipe.yaml and checkpoints/) "
            "nor a checkpoint file"
        )
    saved = find_checkpoint(path, init.checkpoint)
    return str(saved), _fitted(model, checkpoint.read(saved, "model"))


def _fitted(model: Model, weights: Weights) -> Weights:
    """Let each encoder resize what depends on the size of its input, as position embeddings do."""
    for modality, encoder in model.encoders.items():
        prefix = f"model.encoders.{modality}."
        part = {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}
        weights = weights | {prefix + name: x for name, x in encoder.fitted(part).items()}
    return weights


def _from_file(model: Model, objective: nn.Module, path: Path) -> Weights:
    """Read a checkpoint file of CLIP: towers, scale and bias under our names, the rest under the file's own.

    Raises ValueError where no encoder is a tower of open_clip, or the file was trained with another GELU.
    """
    from workbench.encoders._open_clip_files import read_checkpoint  # open_clip takes seconds to import
    from workbench.encoders._open_clip_weights import refuse_other_gelu
    from workbench.encoders.open_clip import OpenCLIP

    towers = {m: encoder for m, encoder in model.encoders.items() if isinstance(encoder, OpenCLIP)}
    if not towers:
        raise ValueError(
            f"model.init: {path} is a file, and no encoder here is a tower of open_clip: name a run folder"
        )
    rest, quick_gelu = read_checkpoint(str(path))
    found: Weights = {}
    for modality, tower in towers.items():
        refuse_other_gelu(str(path), quick_gelu, tower.quick_gelu)
        prefix = f"{tower.part}."
        own = {f"tower.{name.removeprefix(prefix)}": x for name, x in rest.items() if name.startswith(prefix)}
        found |= {f"model.encoders.{modality}.{name}": x for name, x in tower.fitted(own).items()}
    taken = tuple(f"{tower.part}." for tower in towers.values())
    rest = {name: x for name, x in rest.items() if not name.startswith(taken)}
    own_names = objective.state_dict()
    for ours, theirs in SCALES.items():
        if ours in own_names and theirs in rest:
            found[f"objective.{ours}"] = rest.pop(theirs).reshape(1)
    return found | rest


def _wanted(own: Weights, parts: list[str] | None) -> list[str]:
    """List the tensors of the parts that are asked for, or all. Raises ValueError for a part that is not there."""
    there = list(dict.fromkeys(map(part_of, own)))
    for part in parts or ():
        if not any(_is_in(name, part) for name in there):
            raise ValueError(f"model.init.parts: no part '{part}'{did_you_mean(part, there)}")
    return [name for name in own if parts is None or any(_is_in(part_of(name), part) for part in parts)]


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def part_of(name: str) -> str:
    """Name the part that a tensor of a checkpoint belongs to: encoders.image, heads.a, fusion, objective."""
    first, *rest = name.removeprefix("model.").split(".")
    return f"{first}.{rest[0]}" if first in ("encoders", "heads") else first


def _refuse_other_shapes(source: str, loaded: Weights, own: Weights) -> None:
    """Raise ValueError that lists what has another shape, and names the parts that could be loaded without it."""
    wrong = [name for name, x in loaded.items() if x.shape != own[name].shape]
    if wrong:
        lines = [f"  {n}: {list(loaded[n].shape)} there, {list(own[n].shape)} here" for n in wrong[:8]]
        more = [f"  and {len(wrong) - 8} more"] if len(wrong) > 8 else []
        misfits = set(map(part_of, wrong))
        other = ", ".join(dict.fromkeys(part_of(name) for name in loaded if part_of(name) not in misfits))
        raise ValueError(
            "\n".join([f"model.init: {source} has {len(wrong)} tensors of other shapes:", *lines, *more])
            + f"\nGive the recipe its sizes, or name the parts to load: model.init.parts=[{other or 'encoders.image'}]"
        )


def _count(names: Iterable[str]) -> str:
    """Count tensors by part, as `34 tensors (encoders.image 20, encoders.text 14)`; empty without any."""
    counts = Counter(map(part_of, sorted(names)))
    what = ", ".join(f"{part} {n}" for part, n in counts.items())
    return f"{counts.total()} tensors ({what})" if counts else ""
