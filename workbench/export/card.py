"""README.md of an export, a model card: how the model is used, what it was trained and measured on, what is left out.

The trap: an interval says how far another draw of as many queries would be away, and not how far another training.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from workbench.export.report import LARGEST, Report
from workbench.export.source import Source
from workbench.recipe.component import Spec
from workbench.runs.exported import FILE
from workbench.runs.folder import package_version
from workbench.training.metrics import read

LIBRARIES = {"open_clip": "open_clip", "transformers": "transformers", "onnx": "onnx", "safetensors": "safetensors"}
LICENCES = {
    "emoji": "the drawings of emoji are under Apache-2.0, MIT and CC-BY-4.0, their names and keywords under "
    "Unicode-3.0 and MIT (credits: ATTRIBUTION.md of the packaged data)",
    "synthetic": "synthetic numbers, which nobody owns",
}
"""{data set that ships with the program: its licences}"""
SHOWN = re.compile(r"(^|/)(.*_r(1|5|10)|mean_recall|accuracy|balanced_accuracy|top5|l2m)$")
SHARE = re.compile(r"(_r\d+|accuracy|top5)$")
"""metrics that are a share of queries"""
CERTAINTY = 1.96
"""standard deviations to either side of a 95 % interval"""


def write_card(source: Source, report: Report, uses: Sequence[str], licence: str | None, file: Path) -> None:
    """Write the card; `uses` are the lines that a client's users run, in blocks."""
    parts = [
        f"---\n{yaml.safe_dump(_front(source, report, licence), sort_keys=False)}---\n",
        f"# {source.parts.recipe.name}\n",
        f"{_what(source)}\n",
        f"## Use\n\nThese lines run in this folder.{_needs(report)}\n",
        *(f"```python\n{lines.rstrip()}\n```\n" for lines in uses),
        "With the Multimodal Workbench, `workbench.load('.')` gives the model that the run gives.\n",
        f"## What it was compared with\n\n{_compared(report)}\n",
        f"## Training\n\n{_training(source)}\n",
        f"## Measured\n\n{_measured(source)}\n",
        f"## Licence\n\n{_licence(source, licence)}\n",
    ]
    file.write_text("\n".join(parts), encoding="utf-8")


def _front(source: Source, report: Report, licence: str | None) -> dict[str, object]:
    """Give what catalogues of models read."""
    kinds = sorted(modality.kind for modality in source.loaded.modalities.values())
    front: dict[str, object] = {"library_name": LIBRARIES[report.format]}
    if kinds == ["image", "text"]:
        front["pipeline_tag"] = "zero-shot-image-classification"
    if licence:
        front["license"] = licence
    front["datasets"] = [_name(source.parts.recipe.data)]
    front["tags"] = ["contrastive", "multimodal", _name(source.parts.recipe.objective)]
    if measured := [name for name, _ in _metrics(source)]:
        front["metrics"] = sorted({name.rpartition("/")[2] for name in measured})
    return front


def _name(spec: Spec[object]) -> str:
    """Name a component, one's own without the folder that its file lies in."""
    return Path(spec.name).name if spec.is_own else spec.name


def _what(source: Source) -> str:
    modalities = ", ".join(f"{m} ({a.kind})" if m != a.kind else m for m, a in source.loaded.modalities.items())
    recipe, (scale, bias) = source.parts.recipe, source.contrast
    said = (
        f"It embeds {modalities} as unit vectors of {recipe.model.dim} numbers in one space, where what belongs "
        f"together has a large cosine. Sides: {', '.join(f'`{side}`' for side in source.sides)}."
    )
    if scale is not None:
        said += f" The loss multiplied cosines by {scale:.4g}" + (
            f" and added {bias:.4g}." if bias is not None else "."
        )
    return said


def _needs(report: Report) -> str:
    packages = {
        "open_clip": "open_clip_torch",
        "transformers": "transformers torch torchvision",
        "onnx": "onnxruntime tokenizers pillow",
        "safetensors": "multimodal-workbench",
    }
    return f" They need `pip install {packages[report.format]}`."


def _compared(report: Report) -> str:
    lines = [
        f"{report.package} {report.version} on {report.items} items of each kind from {report.samples}: the largest "
        f"difference of a coordinate from the run is {report.largest:.1g} ({LARGEST:g} is allowed)."
    ]
    lines += [
        f"What the client itself makes of {side} items differs by up to {x:.1g}: it resizes pictures otherwise."
        for side, x in report.prepared.items()
        if x > LARGEST
    ]
    lines += [f"Left out: {line}." for line in report.dropped]
    return "\n".join(f"- {line}" for line in lines)


def _training(source: Source) -> str:
    recipe = source.parts.recipe
    data = source.run / "data.json"
    digest = json.loads(data.read_text(encoding="utf-8")).get("blake2b") if data.is_file() else None
    settings = {key: x for key, x in recipe.objective.as_dict().items() if key != "name"}
    lines = [
        f"data: {_name(recipe.data)}" + (f", fingerprint {digest[:16]}" if digest else ""),
        f"objective: {_name(recipe.objective)}" + (f" {json.dumps(settings)}" if settings else ""),
        f"step {source.step} at a batch of {recipe.train.batch}, AdamW with a peak rate of {recipe.train.lr:g}, "
        f"precision {recipe.train.precision}, seed {recipe.seed}",
        *(f"encoder of {m}: {_name(spec)}" for m, spec in recipe.model.encoders.items()),
        f"by multimodal-workbench {package_version('multimodal-workbench')} and torch {package_version('torch')}; "
        f"{FILE} has the settings of each part",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _metrics(source: Source) -> Iterator[tuple[str, float]]:
    """Yield the evaluation of the exported step, its shown metrics."""
    for record in read(source.run / "metrics.jsonl"):
        if record["step"] == source.step:
            for name, value in record.items():
                if name.startswith("eval/") and SHOWN.search(name) and "chance" not in name and value is not None:
                    yield name.removeprefix("eval/"), value


def _measured(source: Source) -> str:
    found = dict(_metrics(source))
    if not found:
        return f"The run has no evaluation at step {source.step}."
    rows = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for name, value in found.items():
        number = _queries(source, name) if SHARE.search(name) else None
        told = "-" if number is None else "{:.3g} to {:.3g} ({} queries)".format(*wilson(value, number), number)
        rows.append(f"| {name} | {value:.4g} | {told} |")
    return (
        "\n".join(rows) + "\n\nAn interval (Wilson's) is that of a share of so many queries, as if each were drawn by "
        "itself; it says nothing of another seed. Means over several shares have none."
    )


def _queries(source: Source, metric: str) -> int | None:
    """Count the queries behind a share: the items of its first modality in the evaluator's split; None: unknown."""
    key, name = metric.rsplit("/", 1)
    spec = source.parts.recipe.eval.evaluators.get(key)
    split = getattr(spec.settings, "split", None) if spec else None
    asking = re.match(r"(\w+?)(\+\w+)*_to_", name)
    try:
        items = source.parts.data.split(split or "validation").items
        if asking:
            return len(items[asking[1]])
        image = next(m for m, a in source.loaded.modalities.items() if a.kind == "image")
        return None if name.startswith("balanced") else len(items[image])
    except Exception:  # the data may be gone, or be a class of one's own
        return None


def wilson(share: float, number: int) -> tuple[float, float]:
    """Give the 95 % interval of a share of `number` independent draws (Wilson 1927)."""
    square = CERTAINTY**2 / number
    middle = (share + square / 2) / (1 + square)
    half = CERTAINTY / (1 + square) * math.sqrt(share * (1 - share) / number + square / number / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _licence(source: Source, licence: str | None) -> str:
    own = f"The weights: {licence}." if licence else "The weights: not stated by who exported them."
    data = LICENCES.get(source.parts.recipe.data.name, "not recorded: ask who gathered them")
    return f"{own} The data: {data}."
