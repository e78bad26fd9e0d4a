"""The samples that are asked about: those of a data set, or of a synthetic task, as plain numbers in memory.

The trap: a row that lacks a field is no bad one. It is kept, and left out only where that field is asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import ValidationError
from torch import Tensor

from synthetic.theory.presence import draw, seen_of
from synthetic.theory.task import Task
from workbench.data.synthetic import Synthetic
from workbench.errors import BadSample, RecipeError, did_you_mean, shorten
from workbench.inspection.open_data import PACKAGED, open_data
from workbench.loading.bad_samples import refuse_too_many
from workbench.loading.batching import unfit
from workbench.loading.samples import Samples
from workbench.recipe.component import names, validate
from workbench.recipe.yaml_file import apply_override
from workbench.runs.embedding_rows import Reading, open_rows
from workbench.seeds import generator
from workbench.studies.synergy.plain_numbers import READERS, of_picture
from workbench.types import Skipped

SAMPLES = 5120
"""drawn of a synthetic task, as `wb synth` does"""
MOST = 10_000
"""rows of a data set that are read, unless a person asks for more"""
MOST_CLASSES = 1000
"""of a label: its classes become a row of that many numbers"""
THIRD = "languages=[de]"
"""of the packaged drawings and texts, which are two fields: the third one, unless a person says another"""


@dataclass(frozen=True, eq=False)
class Numbers:
    """n samples, of each of their fields a row of plain numbers; zeros where a sample lacks it."""

    inputs: Mapping[str, Float[Tensor, "n d"]]
    present: Mapping[str, Bool[Tensor, " n"]]
    ids: Int64[Tensor, " n"]
    """equal ids are of one and the same thing: never negatives of each other, and never on two sides of a split"""
    measured: frozenset[str] = frozenset()
    """fields in units of their own, which a critic standardises by what it is trained on"""
    labels: tuple[str, ...] = ()
    """those that only may be told of, and tell nothing"""
    others: tuple[str, ...] = ()
    """labels that the source has besides"""
    bad: Sequence[Skipped] = ()
    rows: int = 0
    """that the source has, of which these are some"""
    task: Task | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(name for name in self.inputs if name not in self.labels)

    def complete(self, members: Sequence[str]) -> Int64[Tensor, " m"]:
        """List the rows that have all of these."""
        return torch.stack([self.present[name] for name in members]).all(0).nonzero()[:, 0]


def is_task(path: str) -> bool:
    """Say whether a person means a synthetic task: its name where no file has it, or a class of one's own."""
    return (path in names("task") and not Path(path).exists()) or ".py:" in path


def open_task(path: str, settings: tuple[str, ...]) -> Task:
    """Build a task with settings key=value. Raises RecipeError."""
    block: dict[str, object] = {"name": path}
    for setting in settings:
        block = apply_override(block, {}, setting)
    try:
        task = validate("task", block).build()
    except ValidationError as error:
        lines = (f"--set {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None
    return task  # type: ignore[return-value]  # its kind says what it builds


def read(
    path: str,
    source: str | None = None,
    settings: tuple[str, ...] = (),
    *,
    split: str = "train",
    samples: int | None = None,
    seed: int = 0,
    fields: Sequence[str] = (),
    targets: Sequence[str] = (),
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Numbers:
    """Read samples of what lies at a path, or draw them of the synthetic task of that name.

    Args:
        path: data or a recipe as `wb data inspect` takes them, a features file of `wb embed`, or a task's name.
        source: what lies there, where that cannot be told.
        settings: key=value of the data, or of the task.
        split: of the data.
        samples: how many at most; default 10,000 rows, or 5,120 draws of a task. Which ones is drawn by the seed.
        seed: of what is drawn.
        fields: those to read; default: all.
        targets: those of them that are labels of the data are read, too; of a task, what it never shows always is.
        tell: is called with (rows that are read, all rows).

    Raises RecipeError and ValueError for what is not there, or cannot be read.
    """
    if source is None and is_task(path):
        return _draw(open_task(path, settings), samples or SAMPLES, seed, fields)
    if path == PACKAGED and source is None and not any(s.startswith("languages") for s in settings):
        settings = (*settings, THIRD)
    _, data = open_data(path, source, settings)
    if isinstance(data, Synthetic):
        return _draw(data.task, samples or data.samples, seed, fields)
    return _read(open_rows(data, split), samples or MOST, seed, fields, targets, tell)


def _draw(task: Task, samples: int, seed: int, fields: Sequence[str]) -> Numbers:
    """Draw samples of a task; a variable that it never shows is a label."""
    _refuse_unknown(fields, task.modalities)
    kept = [name for name in task.modalities if not fields or name in fields]
    codes = task.sample(samples, generator(seed, "synergy", "samples"))
    seen = draw(seen_of(task), task.modalities, samples, generator(seed, "synergy", "seen"))
    inputs = {name: _numbers_of(task, name, codes[name]) for name in kept}
    present = {name: seen[name] for name in kept}
    hidden = () if task.target in task.modalities else (task.target,)
    for name in hidden:
        inputs[name] = F.one_hot(codes[name], task.codes[name]).float()
        present[name] = torch.ones(samples, dtype=torch.bool)
    inputs = {name: torch.where(present[name][:, None], x, 0) for name, x in inputs.items()}
    kinds = getattr(task, "kinds", {})
    measured = frozenset(name for name in kept if kinds.get(name) == "image")
    return Numbers(inputs, present, torch.arange(samples), measured, hidden, rows=samples, task=task)


def _numbers_of(task: Task, modality: str, codes: Tensor) -> Float[Tensor, "n d"]:
    """Observe codes as rows of numbers."""
    from PIL import Image

    seen = task.observe(modality, codes)
    kind = getattr(task, "kinds", {}).get(modality, "vector")
    if kind == "image":
        assert isinstance(seen, Tensor)
        return torch.stack([of_picture(Image.fromarray(picture)) for picture in seen.numpy()])
    if isinstance(seen, Tensor):
        return seen.float().flatten(1)
    return torch.stack([READERS["text"](text) for text in seen])


def _read(
    rows: Reading,
    samples: int,
    seed: int,
    fields: Sequence[str],
    targets: Sequence[str],
    tell: Callable[[int, int], None],
) -> Numbers:
    """Read rows of a data set, the bad ones counted. Raises ValueError where too many are bad."""
    kinds = {name: modality.kind for name, modality in rows.data.modalities.items()}
    _refuse_unknown(fields, kinds)
    _refuse_unknown(targets, [*kinds, *rows.labelled])
    labels = tuple(name for name in targets if name not in kinds)
    kept = [name for name in kinds if not fields or name in fields]
    order = torch.randperm(len(rows), generator=generator(seed, "synergy", "rows"))[:samples].sort().values.tolist()
    found: list[_Row] = []
    bad: list[Skipped] = []
    for done, index in enumerate(order, 1):
        try:
            found.append(_read_row(rows, index, kept, labels))
        except BadSample as error:
            bad.append(Skipped(str(error.name), str(error.reason)))
        except (OSError, ValueError) as error:
            bad.append(Skipped(rows.name(index), shorten(str(error))))
        tell(done, len(order))
    if isinstance(rows.data, Samples):
        refuse_too_many(bad, len(order), rows.data.max_bad)
    if not found:
        raise ValueError(f"no usable sample{f': the first is {bad[0]}' if bad else ''}")
    columns = {name: _stack([row.fields.get(name) for row in found]) for name in kept}
    columns |= {name: _as_numbers(name, [row.labels[f"label {name}"] for row in found]) for name in labels}
    number = {id: place for place, id in enumerate(dict.fromkeys(row.id for row in found))}
    return Numbers(
        {name: values for name, (values, _) in columns.items()},
        {name: there for name, (_, there) in columns.items()},
        torch.tensor([number[row.id] for row in found]),
        frozenset(n for n, (values, _) in columns.items() if kinds.get(n, "text") != "text" or values.shape[1] == 1),
        labels,
        tuple(name for name in rows.labelled if name not in labels),
        bad,
        len(rows),
    )


class _Row(NamedTuple):
    fields: Mapping[str, Tensor]
    labels: Mapping[str, object]
    id: str


def _read_row(rows: Reading, index: int, kept: Sequence[str], labels: Sequence[str]) -> _Row:
    """Read the first item of each field that a row has, its labels where any is asked for, and its id.

    Raises BadSample, OSError and ValueError.
    """
    found = {}
    for name, items in rows.items(index).items():
        if name not in kept or not items:
            continue
        modality = rows.data.modalities[name]
        if reason := unfit(items[0], modality):
            raise BadSample(rows.name(index), f"its {name} {reason}")
        found[name] = READERS[modality.kind](items[0])
        if not found[name].isfinite().all():
            raise BadSample(rows.name(index), f"its {name} holds numbers that are none")
    id = rows.id(index)
    return _Row(found, rows.labels(index) if labels else {}, f"row {index}" if id is None else f"id {id}")


def _stack(rows: Sequence[Tensor | None]) -> tuple[Float[Tensor, "n d"], Bool[Tensor, " n"]]:
    """Stack rows, zeros in the place of those that are missing; tell which are there."""
    first = next((row for row in rows if row is not None), torch.zeros(1))
    there = torch.tensor([row is not None for row in rows])
    return torch.stack([torch.zeros_like(first) if row is None else row for row in rows]), there


def _as_numbers(name: str, values: Sequence[object]) -> tuple[Float[Tensor, "n d"], Bool[Tensor, " n"]]:
    """Write labels as numbers: one for each class, or the number itself. Raises ValueError for too many classes."""
    if any(isinstance(value, float) for value in values):
        return _stack([torch.tensor([v]) if isinstance(v, float) and math.isfinite(v) else None for v in values])
    words = [list(_words(value)) for value in values]
    classes = sorted({word for row in words for word in row})
    if len(classes) > MOST_CLASSES:
        raise ValueError(
            f"label '{name}' has {len(classes):,} classes, more than {MOST_CLASSES}: a text field, perhaps?"
        )
    place = {word: at for at, word in enumerate(classes)}
    found = torch.zeros(len(words), max(1, len(classes)))
    for row, own in enumerate(words):
        found[row, [place[word] for word in own]] = 1
    return found, torch.tensor([value is not None for value in values])


def _words(value: object) -> list[str]:
    """List the classes of a label that is a word, a list of them, or nothing."""
    if value is None:
        return []
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _refuse_unknown(chosen: Sequence[str], known: Collection[str]) -> None:
    if unknown := [name for name in chosen if name not in known]:
        raise RecipeError(f"no field '{unknown[0]}'{did_you_mean(unknown[0], known)}")
