"""All weights in one file under their own names, for `workbench.load` and for readers of safetensors anywhere.

A model of any sides can be written so. Linear heads and the fusion of ConFu are a few matrices: the card shows how to
apply them without the workbench, and that is what an export is verified by, beside `workbench.load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.export.samples import Embedded, Samples
from workbench.export.source import Refusal, Source
from workbench.fusion.deep_set import DeepSet
from workbench.fusion.mlp import MLP
from workbench.runs.exported import WEIGHTS
from workbench.runs.inference import load_export
from workbench.types import Fusion, Kind, Modality, Side

PACKAGE = "safetensors"
FUSION = "fusion.safetensors"


def sides(source: Source) -> list[Side]:
    return list(source.sides)


def dropped(source: Source) -> list[str]:
    """All that a run can embed is written."""
    return []


def refusals(source: Source) -> Iterator[Refusal]:
    """List the parts whose code is a user's own: their weights alone are of no use to anybody."""
    model = source.parts.recipe.model
    own = {f"the encoder of {name}": spec for name, spec in model.encoders.items()}
    own |= {"the fusion": model.fusion} if source.fused and model.fusion else {}
    for what, spec in own.items():
        if spec.is_own:
            yield Refusal(
                f"{what} ({Path(spec.name).name}), a class of your own whose code it does not have", ("onnx",)
            )


def write(source: Source, folder: Path) -> None:
    """Write the weights, the fusion's a second time by themselves, and what towers of transformers are prepared by."""
    model = source.parts.model
    save_file(_plain(model.state_dict()), folder / WEIGHTS["safetensors"], {"format": "pt"})
    if model.fusion is not None and loader(model.fusion):
        save_file(_plain(model.fusion.state_dict()), folder / FUSION, {"format": "pt"})
    write_preparations(source, folder)


def write_preparations(source: Source, folder: Path) -> None:
    """Write of each tower of transformers its config, and its tokenizer, image processor or feature extractor."""
    for name, encoder in source.encoders.items():
        if source.parts.recipe.model.encoders[name].name == "transformers":
            tower: Any = encoder
            tower.config.save_pretrained(folder / name)
            kept = (getattr(tower.prepare, part, None) for part in ("tokenizer", "processor", "extractor"))
            next(part for part in kept if part is not None).save_pretrained(folder / name)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.detach().contiguous().clone() for name, x in weights.items()}


def embed(source: Source, folder: Path, samples: Samples) -> Embedded:
    """Embed the samples by the model that is read back, and its fused sides by the card's own lines."""
    loaded = load_export(folder)
    rows = loaded.encode(samples.inputs, [str(side) for side in source.sides])
    found = {Side.parse(name): z for name, z in rows.items()}
    fusion = source.parts.model.fusion
    if fusion is None or not (lines := loader(fusion)):
        return Embedded(found, {})
    weights: dict[str, Any] = {"FILE": str(folder / FUSION)}
    exec(lines.replace(f'"{FUSION}"', "FILE"), weights)
    with torch.inference_mode():
        features = {m: loaded.model.encoders[m](x).pooled for m, x in samples.inputs.items()}
    apart = {s: weights["fuse"]({m: features[m] for m in s.members}) for s in source.fused}
    # of both ways the one that is further from the run counts
    for side, z in apart.items():
        if (z - samples.rows[side]).abs().max() > (found[side] - samples.rows[side]).abs().max():
            found[side] = z
    return Embedded(found, {})


EXAMPLES: Mapping[Kind, str] = {
    "image": '[Image.new("RGB", (256, 256), "red")]',
    "text": '["red"]',
    "audio": "[(torch.zeros({rate}), {rate})]",
    "vector": "[torch.zeros({shape})]",
    "sequence": "[torch.zeros(1, {last})]",
}
"""{kind: a list of one item, in Python}"""


def example_items(modalities: Mapping[str, Modality]) -> str:
    """Write a dictionary of items for `encode`, in Python."""
    said = {
        m: EXAMPLES[a.kind].format(rate=a.rate or 16_000, shape=list(a.shape), last=a.shape[-1] if a.shape else 1)
        for m, a in modalities.items()
    }
    return "{" + ", ".join(f'"{m}": {items}' for m, items in said.items()) + "}"


def loader(fusion: Fusion) -> str:
    """Write the lines of plain torch that apply a fusion's weights; empty for one that is more than a few matrices."""
    if isinstance(fusion, MLP):
        first = next(iter(fusion.mlps.values()))
        activated = len(first) > 4  # type: ignore[arg-type]
        last = "F.leaky_relu(z, 0.2)" if activated else "z"
        return f'''\
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

weights = load_file("{FUSION}")


def fuse(features):
    """{{field: features [n, h], before the projection}}, in the order of the side's name -> unit rows [n, d]."""
    at = "mlps." + "+".join(features)
    h = F.linear(torch.cat(list(features.values()), 1), weights[f"{{at}}.0.weight"], weights[f"{{at}}.0.bias"])
    z = F.linear(h.relu(), weights[f"{{at}}.3.weight"], weights[f"{{at}}.3.bias"])
    return F.normalize({last}, dim=1)
'''
    if isinstance(fusion, DeepSet):
        return f'''\
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

weights = load_file("{FUSION}")
widths = {fusion.widths}


def fuse(features):
    """{{field: features [n, h], before the projection}} of any fields -> unit rows [n, d]."""
    n = len(next(iter(features.values())))
    h = [features.get(field, torch.zeros(n, width)) for field, width in widths.items()]
    there = torch.tensor([[float(field in features) for field in widths]]).expand(n, -1)
    h = F.linear(torch.cat([*h, there], 1), weights["project.weight"], weights["project.bias"])
    return F.normalize(F.linear(h.relu(), weights["readout.2.weight"], weights["readout.2.bias"]), dim=1)
'''
    return ""


def uses(source: Source) -> list[str]:
    """Show how the model is loaded, and how its fusion is applied without the workbench."""
    items = example_items(source.loaded.modalities)
    lines = (
        "import torch\n\nimport workbench\n\nmodel = workbench.load('.')\n"
        if "torch." in items
        else ("import workbench\n\nmodel = workbench.load('.')\n")
    )
    lines = ("from PIL import Image\n\n" if "Image." in items else "") + lines
    lines += f"rows = model.encode({items})\nprint({{side: z.shape for side, z in rows.items()}})\n"
    fusion = source.parts.model.fusion
    if fusion is None or not (alone := loader(fusion)):
        return [lines]
    (side, *_) = source.fused
    widths = {m: source.encoders[m].width for m in side.members}
    made = ", ".join(f'"{m}": torch.randn(2, {width})' for m, width in widths.items())
    note = "# features before the projection: model.model.encoders[field](inputs).pooled, or open_clip's without proj\n"
    return [lines, f"{alone}\n\n{note}print(fuse({{{made}}}).shape)  # the side {side}\n"]
