"""A data set of Hugging Face's `datasets`: a folder on the disk or the id of one on the hub; map-style or streamed.

A folder is what `save_to_disk` wrote, or anything that `load_dataset` reads. `streaming` reads it from front to back,
without a copy in the cache; its order is random only as far as the buffer reaches, it depends on the number of workers,
and a resume begins at a whole file near where the run was (workbench/loading/stream.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from workbench.errors import BadSample, did_you_mean
from workbench.loading.chosen_rows import Choice, ChosenRows, Where, is_chosen, where_columns
from workbench.loading.fields import Keys
from workbench.loading.samples_in_arrow import ArrowSamples, Columns, load, read_part, undecoded
from workbench.loading.streamed_samples import StreamedSamples
from workbench.loading.table import Raw, Table

if TYPE_CHECKING:
    import datasets

__all__ = ["HF"]


class HF(ChosenRows, StreamedSamples[Choice]):
    """Samples, a row each; `from` names a column, or a dotted key in one of blocks. A text cell may be a list of them.

    Relative paths start from `path`, where it is a folder.

    Args:
        path: a folder, or the id of a data set on the hub, as 'nlphuji/flickr30k'.
        config: which of its configurations, where it has several.
        split: the split to train on.
        validation: the split held out for evaluation, as 'validation' or 'train[:1000]'; or a share of ids, as 10 %.
        splits: further ones, by name: {test: 'test', small: 'test[:1000]'}, or rows of `split`: {odd: {kind: odd}}.
    """

    usual: ClassVar[Mapping[str, Keys]] = {"image": "image", "text": "caption"}

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        split: str = "train",
        validation: str | None = None,
        splits: Mapping[str, str | Where] | None = None,
        **more: Any,
    ) -> None:
        self.source_path, self.config = path, config
        super().__init__(path=split, validation=validation, splits=splits, **more)
        self.folder = Path(path).expanduser()

    def __len__(self) -> int:
        if self.samples and "train" not in vars(self) and not self.folder.exists():
            return self.samples  # a plan does not fetch anything from the hub
        return super().__len__()

    def absent(self, source: Choice) -> str | None:
        # all splits lie in one folder; an id on the hub is looked up when training starts
        if self.folder.exists() or _is_hub_id(self.source_path):
            return None
        return f"no folder '{self.source_path}': point to yours, or to an id on the hub, with --set data.path=..."

    def table(self, source: Choice) -> Table:
        found = ArrowSamples(self._load(source), self._columns(source), [(0, self.folder)])
        chosen = found.chosen(source.where)
        if not len(chosen) and len(found):
            raise ValueError(f"{self.source_path}[{source.paths}] has no row where {source.where}")
        return chosen

    def parts(self) -> int:
        return self._streamed.num_shards

    def read(self, part: int) -> Iterator[Raw | BadSample]:
        for raw in read_part(self._streamed, part, self._columns(self.path), self.folder):
            if isinstance(raw, BadSample) or is_chosen(raw.cells, self.path.where):
                yield raw

    def _columns(self, source: Choice) -> Columns:
        keys = {**self.columns, **where_columns(source.where)}
        return Columns(keys, self.declared, f"{self.source_path}[{source.paths}]")

    @cached_property
    def _streamed(self) -> Any:
        return undecoded(self._load(self.path, streaming=True), self._columns(self.path))

    def _load(self, source: Choice, streaming: bool = False) -> Any:
        """Load a split, as a Dataset or an IterableDataset. Raises ValueError with the remedy."""
        if complaint := self.absent(source):
            raise ValueError(complaint)
        split = str(source.paths)
        try:
            if any((self.folder / name).exists() for name in ("dataset_dict.json", "state.json")):
                return self._saved(split, streaming)
            path = str(self.folder) if self.folder.exists() else self.source_path
            return load(path, self.config, split=split, streaming=streaming)
        except ValueError as error:
            where = "" if self.folder.exists() else " (no folder here, so looked up on the hub)"
            hint = (
                "; `datasets` reads brackets in its name as a pattern: link to it by another" if self._is_odd() else ""
            )
            raise ValueError(f"data.path={self.source_path}{where}, split '{split}': {error}{hint}") from None

    def _is_odd(self) -> bool:
        return has_magic(str(self.folder)) and self.folder.exists()

    def _saved(self, split: str, streaming: bool) -> Any:
        """Load what `save_to_disk` wrote: one split, several by name, or a part of one."""
        import datasets  # it takes a second, which `wb check` does not pay

        try:
            data = datasets.load_from_disk(str(self.folder))
        except Exception as error:  # anything at all: an IndexError, for one, where no row was saved
            raise ValueError(f"cannot be read ({type(error).__name__}: {error}), or was saved without a row") from None
        splits = data if isinstance(data, datasets.DatasetDict) else {str(data.split or "train"): data}
        found = _slice({str(name): rows for name, rows in splits.items()}, split)
        return found.to_iterable_dataset(num_shards=max(1, len(found.cache_files))) if streaming else found


def _slice(splits: dict[str, datasets.Dataset], wanted: str) -> datasets.Dataset:
    """Cut `train`, `train[:1000]`, `train[10%:]+test` out of what was saved, as load_dataset reads those words.

    Raises ValueError naming the splits there are.
    """
    import datasets

    if wanted in splits:
        return splits[wanted]
    for part in wanted.split("+"):
        if (name := part.partition("[")[0].strip()) not in splits:
            raise ValueError(f"there is no such split{did_you_mean(name, splits)}")
    lengths = {name: len(rows) for name, rows in splits.items()}
    try:
        parts = datasets.ReadInstruction.from_spec(wanted).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{error}; a part is written as train[:1000], train[50%:] or train+test") from None
    rows = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts if part.from_ < part.to]
    if not rows:
        there = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
        raise ValueError(f"no row is in this part ({there})")
    return datasets.concatenate_datasets(rows)


def _is_hub_id(path: str) -> bool:
    """Say whether a path may be an id on the hub: 'name' and 'owner/name', not './name', '/a/b' or 'a/b/c'."""
    return path.count("/") <= 1 and path[:1] not in "./~"
