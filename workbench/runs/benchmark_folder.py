"""A folder in CLIP_benchmark's layout: its tars as data, and the evaluators that its published numbers come from.

    ROOT/dataset_type.txt                           retrieval, multilabel, or classification where there is none
    ROOT/classnames.txt                             a class a line, in the order of their numbers
    ROOT/zeroshot_classification_templates.txt      a sentence a line, with {c} for the name
    ROOT/test/nshards.txt  ROOT/test/{0..n-1}.tar   a picture beside a .cls (a number), .npy (0 or 1 a class) or .txt

The trap: a class is its number there, also where its name is one, and a name is written as it stands. Labels of other
sources prefer names to numbers, and write `_` as a space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from workbench.data.shards import Shards
from workbench.errors import RecipeError
from workbench.loading.fields import Fields, ImageField, TextField, VectorField
from workbench.loading.labels import Label, LabelReader, read_names
from workbench.loading.numbers import parse_npy
from workbench.loading.table import LABEL, Table
from workbench.types import Classes

CLASS = "class"
"""the name of the label"""
FLAGS = "flags"
"""the field of a picture's classes where it has several; a sample needs a second field"""
COUNT, NAMES, PROMPTS, TYPE = (
    "nshards.txt",
    "classnames.txt",
    "zeroshot_classification_templates.txt",
    "dataset_type.txt",
)
RENAMED = {
    "zeroshot/accuracy": "acc1",
    "zeroshot/top5": "acc5",
    "zeroshot/balanced_accuracy": "mean_per_class_recall",
    "zeroshot/mean_average_precision": "mean_average_precision",
}
"""{our metric: its name there}"""
Task = Literal["classification", "multilabel", "retrieval"]


def is_benchmark(path: str) -> bool:
    """Say whether a folder has this layout."""
    return any(Path(path).expanduser().glob(f"*/{COUNT}"))


@dataclass(frozen=True)
class Benchmark:
    """What lies in such a folder."""

    folder: Path
    task: Task
    splits: Mapping[str, list[str]]
    """{split: its tars}"""

    @staticmethod
    def read(path: str) -> Benchmark:
        """Read what describes the tars. Raises RecipeError for a type that there is not, and for what is no number."""
        folder = Path(path).expanduser()
        kind = _read(folder / TYPE).lower() if (folder / TYPE).is_file() else "classification"
        if kind not in ("classification", "multilabel", "retrieval"):
            raise RecipeError(f"{folder / TYPE} says '{kind}': write classification, multilabel or retrieval")
        needed = () if kind == "retrieval" else (NAMES, PROMPTS)
        if missing := [name for name in needed if not (folder / name).is_file()]:
            raise RecipeError(
                f"{folder} has no {missing[0]}, which zero-shot classification needs: write it, a line each"
            )
        splits = {file.parent.name: _tars(file) for file in sorted(folder.glob(f"*/{COUNT}"))}
        return Benchmark(folder, cast(Task, kind), splits)

    @property
    def split(self) -> str:
        """The split that is evaluated: `test`, else the only one. Raises RecipeError where that is not clear."""
        if "test" in self.splits or len(self.splits) == 1:
            return "test" if "test" in self.splits else next(iter(self.splits))
        raise RecipeError(
            f"{self.folder} has no split test, and several others: {', '.join(self.splits)}; keep one there"
        )

    def data(self, image: str, text: str) -> Shards:
        """Make the data set, with these names of its fields."""
        return BenchmarkTars(self, image, text)

    @cached_property
    def names(self) -> list[str]:
        """Read the names of the classes."""
        return [] if self.task == "retrieval" else read_names(self.folder / NAMES)

    def rename(self, image: str, text: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Give the metrics that CLIP_benchmark has under its names, as `clip_benchmark/acc1`."""
        names = dict(RENAMED)
        for way, name in ((f"{image}_to_{text}", "text"), (f"{text}_to_{image}", "image")):
            found = (metric.rpartition("_r")[2] for metric in metrics if metric.startswith(f"retrieval/{way}_r"))
            names |= {f"retrieval/{way}_r{k}": f"{name}_retrieval_recall@{k}" for k in found}
        renamed = {f"clip_benchmark/{theirs}": metrics[ours] for ours, theirs in names.items() if ours in metrics}
        if len(self.names) == 5 and "zeroshot/accuracy" in metrics:
            renamed["clip_benchmark/acc5"] = 1.0  # it rates the five best of five
        return renamed

    def evaluators(self, image: str, text: str) -> dict[str, dict[str, Any]]:
        """Write the evaluators as a recipe does."""
        if self.task == "retrieval":
            return {"retrieval": {"name": "retrieval", "split": self.split, "query": image, "candidates": text}}
        settings = {"label": CLASS, "split": self.split, "image": image, "text": text}
        return {"zeroshot": {"name": "zeroshot", "prompts": str(self.folder / PROMPTS), **settings}}


class BenchmarkTars(Shards):
    """The tars of such a folder; every split is a held-out one."""

    def __init__(self, benchmark: Benchmark, image: str, text: str) -> None:
        self.task, self.names = benchmark.task, benchmark.names
        fields = Fields()
        fields[image] = ImageField(from_=("webp", "png", "jpg", "jpeg"))
        fields[text] = TextField(from_="txt")
        if self.task == "classification":
            fields[text] = TextField(from_="cls", classes=benchmark.folder / NAMES)
        elif self.task == "multilabel":
            del fields[text]
            fields[FLAGS] = VectorField(from_="npy", dim=len(self.names))
        label = Label(from_="npy" if self.task == "multilabel" else "cls", many=self.task == "multilabel")
        labels = {} if self.task == "retrieval" else {CLASS: label}
        tars = {name: tuple(files) for name, files in benchmark.splits.items()}
        train = tars.pop("train", None) or next(iter(tars.values()))
        super().__init__(path=train, fields=fields, labels=labels, splits=tars)

    @cached_property
    def label_readers(self) -> dict[str, LabelReader]:
        classes = Classes(tuple(self.names), tuple((name,) for name in self.names))
        return {name: NumberedClasses(name, label, classes) for name, label in self.labels.items()}


class NumberedClasses(LabelReader):
    """Reads the number of a class in a .cls, or a .npy with a number for each class that is 0 where it is not there."""

    def read(self, table: Table, rows: Sequence[int]) -> Tensor:
        """Read the labels of some rows: classes [n], or bool [n, classes]. Raises ValueError for anything else."""
        assert self.classes is not None
        found = [self._read(table, row) for row in rows]
        return torch.stack(found) if found else torch.zeros(0, dtype=torch.int64)

    def _read(self, table: Table, row: int) -> Tensor:
        assert self.classes is not None
        (content,) = table.cells(row, LABEL + self.name)
        assert isinstance(content, bytes)
        known = len(self.classes.names)
        if self.label.many:
            flags = torch.from_numpy(parse_npy(content).copy()).flatten() != 0
            if len(flags) != known:
                raise ValueError(f"{table.name(row)}: its .npy is of {len(flags)} classes, and {NAMES} has {known}")
            return flags
        text = content.decode("utf-8", "replace").strip()
        if not text.isdecimal() or int(text) >= known:
            raise ValueError(f"{table.name(row)}: '{text}' is no number of a class: {NAMES} has {known}, from 0 on")
        return torch.tensor(int(text))


def _tars(count: Path) -> list[str]:
    text = _read(count)
    if not text.isdecimal() or not int(text):
        raise RecipeError(f"{count} says '{text}': write the number of tars beside it")
    return [str(count.with_name(f"{at}.tar")) for at in range(int(text))]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} cannot be read: {error}") from None
