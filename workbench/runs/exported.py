"""What `wb export` has written, read back: the client's own files hold the weights, export.json says of what.

The trap: a folder is given away, and lies elsewhere. Nothing in export.json is a path of the machine that wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from workbench.contracts import as_encoder, as_fusion
from workbench.errors import RunError
from workbench.model import Model
from workbench.recipe.component import Spec, validate
from workbench.runs.graphs import GraphModel
from workbench.types import Encoder, Fusion, Modality, Side, Transform

FILE = "export.json"
Format = Literal["open_clip", "transformers", "onnx", "safetensors"]
WEIGHTS: Mapping[Format, str] = {
    "open_clip": "open_clip_model.safetensors",
    "transformers": "model.safetensors",
    "safetensors": "model.safetensors",
}
"""{format: the file of its weights}; of `onnx` each graph is a file of its own"""
FOLDER_OF = "model"
"""the key of an encoder `transformers` that names a folder: of an export, the one of its modality beside the weights"""


@dataclass(frozen=True)
class Manifest:
    """What an export holds."""

    format: Format
    name: str
    """of the run"""
    step: int
    dim: int
    modalities: Mapping[str, Modality]
    encoders: Mapping[str, Mapping[str, object]]
    """{modality: the block of its encoder in a recipe}"""
    fusion: Mapping[str, object] | None
    heads: Sequence[str]
    """sides that have a linear head"""
    sides: Sequence[str]
    """what can be embedded"""
    scale: float | None
    """the factor on cosines, where the objective has one"""
    bias: float | None
    """what a sigmoid adds to them"""

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


class Exported(NamedTuple):
    """An export that was read."""

    manifest: Manifest
    model: Model
    transforms: dict[str, Transform]


def is_export(path: Path) -> bool:
    return (path / FILE).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read export.json. Raises RunError where it is not what `wb export` writes."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        told = {field.name: found[field.name] for field in fields(Manifest)}
        told["modalities"] = {m: _modality(about) for m, about in told["modalities"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / FILE} is not what wb export writes ({error!r}): export the run again") from None
    return Manifest(**told)


def _modality(about: Mapping[str, object]) -> Modality:
    shape = about["shape"]
    assert isinstance(shape, list)
    return Modality(**{**about, "shape": tuple(shape)})  # type: ignore[arg-type]


def read_export(folder: Path) -> Exported:
    """Read the model of an export. Raises RunError where its files are damaged or missing."""
    manifest = read_manifest(folder)
    if manifest.format == "onnx":
        with torch.device("meta"):  # a graph has the weights: of the encoder only the preparation of items is asked
            encoders = build_encoders(folder, manifest)
        transforms = {
            m: encoders[m].transform(False) if m in encoders else _no_transform(m) for m in manifest.modalities
        }
        return Exported(manifest, GraphModel(folder, manifest.modalities, manifest.sides), transforms)
    encoders = build_encoders(folder, manifest)
    model = Model(encoders, _build_heads(manifest, encoders), _build_fusion(manifest, encoders))
    _load(model, _read_weights(folder, manifest), folder / WEIGHTS[manifest.format])
    return Exported(manifest, model, {m: encoder.transform(False) for m, encoder in encoders.items()})


def build_encoders(folder: Path, manifest: Manifest) -> dict[str, Encoder]:
    """Build the encoders with drawn weights, those of a user's own class left out."""
    found = {}
    for name, block in manifest.encoders.items():
        if ":" in str(block["name"]):
            continue
        own = {**block, FOLDER_OF: str(folder / name)} if block["name"] == "transformers" else dict(block)
        spec = _spec("encoder", own)
        found[name] = as_encoder(spec.build(manifest.modalities[name], manifest.dim), spec.name)
    for encoder in found.values():
        encoder.borrow(found, manifest.modalities)
    return found


def _no_transform(modality: str) -> Transform:
    def refuse(_: object) -> Tensor:
        raise ValueError(f"items of {modality} are prepared by a class that is not in the export: give model inputs")

    return refuse


def _build_heads(manifest: Manifest, encoders: Mapping[str, Encoder]) -> dict[str, nn.Module]:
    widths = {name: encoders[Side.parse(name).members[0]].width for name in manifest.heads}
    return {name: nn.Linear(width, manifest.dim) for name, width in widths.items()}


def _build_fusion(manifest: Manifest, encoders: Mapping[str, Encoder]) -> Fusion | None:
    if manifest.fusion is None:
        return None
    spec = _spec("fusion", dict(manifest.fusion))
    fused = [side for side in map(Side.parse, manifest.sides) if side.fused]
    widths = {name: encoder.width for name, encoder in encoders.items()}
    return as_fusion(spec.build(fused, widths, manifest.dim), spec.name)


def _spec(kind: str, block: dict[str, object]) -> Spec[object]:
    try:
        return validate(kind, block)
    except ValueError as error:
        raise RunError(f"{FILE} names a {kind} that is not known here: {error}; export the run again") from None


def _read_weights(folder: Path, manifest: Manifest) -> Mapping[str, Tensor]:
    """Read the weights under the names that a `Model` has for them. Raises RunError for a damaged file."""
    file = folder / WEIGHTS[manifest.format]
    try:
        if manifest.format == "safetensors":
            return load_file(file)
        return _of_towers(manifest, file)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read: {error}; export the run again") from None


def _of_towers(manifest: Manifest, file: Path) -> dict[str, Tensor]:
    """Read the weights of an image and a text tower from a file of open_clip or transformers."""
    from workbench.encoders._open_clip_files import read_checkpoint

    names = {modality.kind: name for name, modality in manifest.modalities.items()}
    tops = {"visual.": f"encoders.{names['image']}.tower.", "text.": f"encoders.{names['text']}.tower."}
    weights = read_checkpoint(str(file)).weights
    return {
        ours + n.removeprefix(top): x for top, ours in tops.items() for n, x in weights.items() if n.startswith(top)
    }


def _load(model: Model, weights: Mapping[str, Tensor], file: Path) -> None:
    """Load all weights of a model. Raises RunError where the file lacks one, or has one of another shape."""
    own = model.state_dict()
    for name, x in own.items():
        if name not in weights or weights[name].shape != x.shape:
            there = list(weights[name].shape) if name in weights else "missing"
            raise RunError(f"{file}: {name} is {there}, and {list(x.shape)} in the model: export the run again")
    model.load_state_dict({name: weights[name] for name in own})
