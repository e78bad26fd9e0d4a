"""What clients of CLIP have places for: an image tower, a text tower, a factor on cosines. Other things are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from workbench.encoders.open_clip import OpenCLIP
from workbench.export.source import Refusal, Source
from workbench.runs.exported import Format
from workbench.types import Objective, Side

ANY: tuple[Format, ...] = ("onnx", "safetensors")
"""formats that hold a model of any encoders and sides"""


class TwoTowers(NamedTuple):
    """A model as CLIP's clients know it."""

    image_name: str
    image: OpenCLIP
    text_name: str
    text: OpenCLIP
    scale: float
    bias: float | None


def refusals(source: Source) -> Iterator[Refusal]:
    """List what makes a run another model than one of two towers of open_clip that are compared by the cosine."""
    kinds = {name: modality.kind for name, modality in source.loaded.modalities.items()}
    if sorted(kinds.values()) != ["image", "text"]:
        told = ", ".join(f"{name} ({kind})" if name != kind else name for name, kind in kinds.items())
        yield Refusal(f"the {len(kinds)} modalities {told}, only one image and one text", ANY)
        return
    for name, encoder in source.encoders.items():
        if not isinstance(encoder, OpenCLIP):
            kind = source.parts.recipe.model.encoders[name].name
            yield Refusal(f"the encoder of {name} ({kind}), only towers of open_clip", ANY)
        if not any(side.plain for side in source.sides_of(name)):
            trained = ", ".join(map(str, source.sides_of(name))) or "fused sides"
            yield Refusal(f"{name}, which was trained through {trained} alone and not through its own projection", ANY)
        elif name in source.parts.model.heads:
            yield Refusal(f"the linear head of {name} (model.head: linear), whose bias has no place there", ANY)
    if source.fused:
        fusion = source.parts.recipe.model.fusion
        assert fusion
        yield Refusal(f"the fusion ({fusion.name}) that makes {', '.join(map(str, source.fused))}", ANY)
    if type(source.parts.objective).score is not Objective.score:
        name = source.parts.recipe.objective.name
        yield Refusal(f"the score of {name}: clients of CLIP compare by the cosine", ANY)


def second_heads(source: Source) -> list[str]:
    """Say which sides besides the two towers' own are dropped: heads that only helped training."""
    heads = [str(side) for side in source.sides if side.head]
    return [f"{', '.join(heads)}: of each modality its own projection is exported"] if heads else []


def plain_sides(source: Source) -> list[Side]:
    return [side for side in source.sides if side.plain]


def two_towers(source: Source) -> TwoTowers:
    """Take a run, of which `refusals` lists nothing, apart."""
    named = {modality.kind: name for name, modality in source.loaded.modalities.items()}
    image, text = source.encoders[named["image"]], source.encoders[named["text"]]
    assert isinstance(image, OpenCLIP)
    assert isinstance(text, OpenCLIP)
    scale, bias = source.contrast
    return TwoTowers(named["image"], image, named["text"], text, 1.0 if scale is None else scale, bias)
