"""Samples of named fields with random access: what every source of them (tars, folders, tables) has in common.

A source lists its rows as a `Table`; the settings that all sources share are declared and documented here, once, and
here are the choice of what a sample shows, the limit on bad samples and the held-out splits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from jaxtyping import Int64
from pydantic import PositiveInt

from workbench.errors import BadSample, shorten
from workbench.loading.bad_samples import MAX_BAD, MaxBad, refuse_too_many
from workbench.loading.feed import Feed
from workbench.loading.fields import KINDS, Fields, FieldSection, Keys
from workbench.loading.kept import Rows, distinct_cells, load_kept
from workbench.loading.labels import Label, LabelReader
from workbench.loading.lengths import CellsOf, with_lengths
from workbench.loading.paths import Paths
from workbench.loading.shares import Limit, Share, divide, identify
from workbench.loading.shuffled import read_mixed, shuffled_names
from workbench.loading.splits import decode_all, link
from workbench.loading.table import ENOUGH, ID, LABEL, Part, Table
from workbench.seeds import seed_for
from workbench.types import Batch, Modality, Sample, Skipped, Split

Source = TypeVar("Source")
"""what a source lists its rows from: patterns of files, or the name of a split"""
PAIR = ("image", "text")
"""the fields of a source whose recipe names none"""


class Samples(ABC, Generic[Source]):
    """A data set of samples; a source says how to list them (`table`) and what is missing (`missing`).

    Args:
        fields: the modalities, as {image: {from: poster, views: 2}, speech: {kind: audio, from: wav}}: kinds are image,
            text, audio, vector and sequence; null: image and text from where the source has them, as is the other one
            where only one of these two is named.
        labels: classes or numbers for probes and reports, as {genre: {from: genres, many: true}}; never for the loss.
        id: column of ids: samples with equal ids are positives of each other, and in one split; null: each row is one.
        validation: held-out files for evaluation, as `path`; or a share of the ids of `path`, as 10 %.
        splits: further ones, by name: {test: ..., noisy: ...}.
        samples: samples to train on, for plans made before the data is there; counted when it is.
        limit: ids to train on, drawn by the run's seed: a number, or a share, as 25 %; null: all.
        max_bad: bad samples before the run fails: a share of those seen below 1, a number from 1 on.
        keep: read and transform each distinct item once and keep it in memory, where few of them make many samples;
            nothing may be drawn then (augment: none), nor anything be bad.
    """

    usual: ClassVar[Mapping[str, Keys]] = {}
    """where `image` and `text` are read from that do not say it; of other fields, their names are the columns"""

    def __init__(
        self,
        path: Source,
        *,
        fields: Fields | None = None,
        labels: Mapping[str, Label] | None = None,
        id: str | None = None,
        validation: Paths | None = None,
        splits: Mapping[str, Paths] | None = None,
        samples: PositiveInt | None = None,
        limit: int | str | None = None,
        max_bad: MaxBad = MAX_BAD,
        keep: bool = False,
    ) -> None:
        self.limit, self.seed = Limit.parse(limit), 0
        self.path, self.samples, self.max_bad, self.keep = path, samples, max_bad, keep
        self.declared = self._complete(fields)
        if keep and (shuffled := shuffled_names(self.declared)):
            raise ValueError(f"fields.{shuffled[0]}: shuffle draws a sample each time, and keep reads each item once")
        self.labels, self.id = dict(labels or {}), id
        held_out = {**(splits or {}), **({"validation": validation} if validation else {})}
        if "train" in held_out or len(held_out) < len(splits or {}) + bool(validation):
            raise ValueError("splits: `train` is data.path, and `validation` is given twice: as a key, and in splits")
        shares = {name: Share.parse(value) for name, value in held_out.items()}
        self.shares = {name: share for name, share in shares.items() if share}
        self.held_out = {name: self.source(value) for name, value in held_out.items() if not shares[name]}
        self.skipped: list[Skipped] = []
        """what was left out here, not in a batch; a run writes it down and clears it"""

    def _complete(self, fields: Fields | None) -> Fields:
        """Fill in what a recipe leaves out. Raises ValueError for fewer than two fields."""
        given = dict(fields or {})
        if len(given) < ENOUGH and given.keys() <= set(PAIR):
            given = {name: given.get(name) or KINDS[name]() for name in PAIR}
        if len(given) < ENOUGH:
            raise ValueError(f"fields: a sample has two modalities at least, and here is only {', '.join(given)}")
        found = Fields()
        for name, field in given.items():
            kept = field.from_ is not None
            found[name] = field if kept else field.model_copy(update={"from_": self.usual_keys(name, field)})
        return found

    def usual_keys(self, name: str, field: FieldSection) -> Keys:
        """Say where a field is read from whose recipe does not."""
        return self.usual[name] if name in PAIR and isinstance(field, KINDS[name]) else name

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """List the columns of a table, and the keys that each is read from."""
        columns = {name: field.keys for name, field in self.declared.items()}
        columns |= {LABEL + name: (label.from_,) for name, label in self.labels.items()}
        return columns | ({ID: (self.id,)} if self.id else {})

    def source(self, value: Paths) -> Source:
        """Make of what a recipe says of a split what `table` lists it from."""
        return cast(Source, value)

    @abstractmethod
    def table(self, source: Source) -> Table:
        """List the rows of a split. Raises ValueError with the remedy when they cannot be listed."""

    @abstractmethod
    def absent(self, source: Source) -> str | None:
        """Say in one line what of a split is not there, and how to point to it; None if all is."""

    def missing(self) -> str | None:
        """Say in one line what to point where, when the training data is not there."""
        return self.absent(self.path)

    def missing_held_out(self) -> str | None:
        """Say in one line what to point where, when there is to be held-out data, and it is not there."""
        return next(filter(None, map(self.absent, self.held_out.values())), None)

    def key_of(self, source: Source) -> str:
        """Name the key of the recipe that a source was written under, for messages that say what to change."""
        name = next((name for name, held_out in self.held_out.items() if held_out == source), None)
        return "data.path" if name is None or source == self.path else f"data.{_key(name)}"

    @cached_property
    def fields(self) -> Fields:
        """Give the fields, with the lengths of vectors and frames that the training rows have."""
        return self.measured(self.first_cells)

    def measured(self, cells_of: CellsOf) -> Fields:
        """Find the lengths that the recipe does not say, by the first rows there are. Raises ValueError for none."""
        return with_lengths(self.declared, cells_of, self.missing)

    @property
    def modalities(self) -> Mapping[str, Modality]:
        return {name: field.modality() for name, field in self.fields.items()}

    def first_cells(self, name: str) -> Iterator[tuple[Sequence[object], str | Path]]:
        """Give (cells, root) of the training rows that have something in a column, in their order."""
        yield from cells_in(self.train, name)

    def __len__(self) -> int:
        if self.samples and "train" not in vars(self) and self.missing():
            return self.samples
        return len(self.train)

    def batches(self, start: int, feed: Feed) -> Iterator[Batch]:
        """Give endless batches from optimizer step `start` on."""
        _ = self.train, self.fields  # list the rows here, not in every worker
        if self.keep:
            return load_kept(Rows(self.train, self.fields, self.modalities, self.ids(self.train)), feed, start)
        return feed.load(self, start)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Read sample `index`, a pure function of both arguments. Raises BadSample."""
        try:
            id = self._id_of(self.train, index)
        except (OSError, ValueError) as error:
            raise BadSample(self.train.name(index), f"its id cannot be read: {shorten(str(error))}") from None
        found = read_mixed(self.train, index, self.fields, partial(self._id_of, self.train), partial(_own, rng))
        return self.choose(found, id, rng)

    def choose(self, found: Mapping[str, list[Any]], id: int, rng: np.random.Generator) -> Sample:
        """Make a sample of raw items: of each field as many as it shows."""
        shown = {name: self.fields[name].choose(items, partial(_own, rng, name)) for name, items in found.items()}
        return Sample(shown, id)

    def _id_of(self, table: Table, index: int) -> int:
        return index if self.id is None else identify(table.cells(index, ID), index)

    def ids(self, table: Table) -> Int64[np.ndarray, " n"]:
        """Read the id of every row; one that cannot be read is of a bad sample, and like no other."""

        def read(index: int) -> int:
            try:
                return self._id_of(table, index)
            except (OSError, ValueError):
                return identify([], index)

        return np.array([read(index) for index in range(len(table))], np.int64)

    def raw_items(self, modality: str, at_most: int) -> Iterator[Any]:
        """Give raw items of the training split, in the order of the table; missing and bad ones are left out.

        Where items are kept, each distinct one is given once.
        """
        field, given = self.fields[modality], 0
        for cells, root in distinct_cells(self.train, modality) if self.keep else self.first_cells(modality):
            try:
                items = field.read(cells, root)
            except (OSError, ValueError):
                continue  # counted where it is trained on
            if items:
                yield items[0]
                given += 1
            if given == at_most:
                return

    def split(self, name: str) -> Split:
        """Give a held-out split, or the training one, as lists of items that ids link. Raises ValueError for others."""
        self.check_split(name)
        if name not in self._splits:
            self._splits[name] = self._read_split(name)
        return self._splits[name]

    def check_split(self, name: str) -> None:
        if name != "train" and name not in self.held_out and name not in self.shares:
            held_out = ", ".join([*self.held_out, *self.shares])
            have = f" (there are: {held_out})" if held_out else ""
            raise ValueError(f"this data has no split '{name}'{have}: set data.{_key(name)} to held-out samples")

    def rows(self, split: str) -> Table:
        """List the rows of a split, good and bad ones, in their order. Raises ValueError."""
        self.check_split(split)
        if split == "train":
            return self.train
        return self._divided[split] if split in self.shares else self._listed(self.held_out[split])

    @cached_property
    def _splits(self) -> dict[str, Split]:
        return {}

    def draw_limit(self, seed: int) -> None:
        """Take the run's seed, by which the ids that `limit` leaves are drawn: before the first sample is read."""
        self.seed = seed

    @cached_property
    def train(self) -> Table:
        whole = self._divided["train"] if self.shares else self._listed(self.path)
        if self.limit is None:
            return whole
        return Part(whole, self.limit.keep(self.ids(whole), self.seed), whole.left_out)

    @cached_property
    def _divided(self) -> dict[str, Table]:
        """Divide the rows of `path` by the shares of ids that other splits have of it."""
        whole = self._listed(self.path)
        parts = divide(self.ids(whole), self.shares)
        return {name: Part(whole, rows, whole.left_out if name == "train" else ()) for name, rows in parts.items()}

    @cached_property
    def label_readers(self) -> dict[str, LabelReader]:
        """Find the classes of each label: those that the recipe names, else those of the training rows."""
        return {name: LabelReader.of(name, label, self.train) for name, label in self.labels.items()}

    def _read_split(self, name: str) -> Split:
        """Find bad samples by decoding everything once, so that no evaluation meets one."""
        table = self.rows(name)
        found = decode_all(table, self.fields)
        refuse_too_many(found.bad, len(table), self.max_bad)
        if not found.usable:
            raise ValueError(f"data.{_key(name)} holds no usable sample; the first one is {found.bad[0]}")
        self.skipped += found.bad
        ids = None if self.id is None else self.ids(Part(table, np.array(found.usable)))
        return link(table, found, self.fields, ids, self.label_readers)

    def _listed(self, source: Source) -> Table:
        for field in self.declared.values():
            field.prepare()
        table = self.table(source)
        if table.mixed:
            raise ValueError(table.mixed)
        refuse_too_many(table.left_out, len(table) + len(table.left_out), self.max_bad)
        self.skipped += table.left_out
        return table


def cells_in(table: Table, name: str) -> Iterator[tuple[Sequence[object], str | Path]]:
    """Give (cells, root) of the rows of a table that have something in a column."""
    for row in table.filled(name).nonzero()[0].tolist():
        yield table.cells(row, name), table.root(row, name)


def _own(rng: np.random.Generator, field: str) -> np.random.Generator:
    """Give a field random numbers of its own, so that what is drawn for it does not hang on the other fields."""
    if field == "text":  # as before there were others: runs of then go on as they would have
        return rng
    entropy = cast(np.random.SeedSequence, rng.bit_generator.seed_seq).entropy
    return np.random.default_rng(seed_for("field", field, str(entropy)))


def _key(split: str) -> str:
    return "validation" if split == "validation" else f"splits.{split}"
