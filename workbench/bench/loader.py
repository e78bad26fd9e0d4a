"""Images a second that the loader of `shards` hands over, beside open_clip's own, on the same tars in one run.

    python -m workbench.bench.loader

Rounds alternate, each with new loaders and worker processes; a round's first batches, in which workers start and
buffers fill, are not counted. `workbench` is what a recipe's run has; `workbench*` is the same loader with open_clip's
transform, which tells what the loading gains from what the transform does. Theirs are normalised floats, ours bytes
that the encoder normalises on its device.

The trap: seconds on a machine that others use. A ratio compares neighbours in time, which a busy minute hits alike, and
`ms` is the processor time of an image, in the process and its workers, which hardly minds.
"""

from __future__ import annotations

import datetime
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import groupby
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import click
import torch
from open_clip import AugmentationCfg
from open_clip.transform import PreprocessCfg, image_transform_v2

from workbench.bench import loader_shards
from workbench.bench.rows import device_name, markdown, write
from workbench.data.shards import Shards
from workbench.encoders.open_clip import OpenCLIP
from workbench.loading.augment import Augment
from workbench.loading.feed import Feed
from workbench.types import Batch, Modality, Transform

PEER = "open_clip"
HEAD = ("shards", "augment", "workers", "loader", "images/s", "/ open_clip", "each round", "ms", "/ open_clip")

SIZES = {"emoji": 64, "photos": 224}
"""{shards: pixels a side that a model is given}"""
AUGMENT: dict[str, tuple[Any, dict[str, Any]]] = {
    "clip": ("clip", {}),
    "jitter": (
        {"crop": (0.5, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.8, "grayscale": 0.2},
        {"scale": (0.5, 1.0), "color_jitter": (0.4, 0.4, 0.4, 0.1), "color_jitter_prob": 0.8, "gray_scale_prob": 0.2},
    ),
}
"""{name: (as a recipe writes it, as open_clip's --aug-cfg does)}; `jitter` is ITO's without what open_clip lacks"""
TOWERS = {
    "image": {"layers": 1, "width": 64, "head_width": 64, "patch_size": 32},
    "text": {"layers": 1, "width": 64, "heads": 1},
}
"""no tower is run: they only name the transforms that an encoder gives to the loader"""
NEWEST = (0, 2, 86)
"""webdataset: later ones hand over markers at the end of a tar, on which open_clip's loader fails"""
WARM = 2
"""batches of each worker that are not counted"""


@dataclass(frozen=True)
class Case:
    """The settings that all loaders of a comparison have in common."""

    shards: str
    augment: str
    workers: int
    batch: int
    size: int


class Span(NamedTuple):
    """The images that a loader handed over, and the time that it took."""

    images: int
    seconds: float
    cpu_seconds: float | None


@dataclass(frozen=True)
class Measured:
    """A line of the CSV."""

    date: str
    cpu: str
    versions: str
    shards: str
    augment: str
    workers: int
    batch: int
    size: int
    round: int
    loader: str
    images: int
    seconds: float
    cpu_seconds: float | None
    """of the process and its workers; None where the system does not tell"""

    @property
    def case(self) -> Case:
        return Case(self.shards, self.augment, self.workers, self.batch, self.size)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def ms(self) -> float | None:
        """Milliseconds of processor time for an image."""
        return self.cpu_seconds and 1e3 * self.cpu_seconds / self.images


def load_ours(tars: str, case: Case, seed: int) -> Iterator[Batch]:
    """Start the workbench's loader with the transforms of a recipe."""
    return _feed(tars, case, seed, _encoder("image", case).transform(train=True))


def load_ours_with_their_transform(tars: str, case: Case, seed: int) -> Iterator[Batch]:
    """Start the workbench's loader with open_clip's image transform."""
    return _feed(tars, case, seed, their_transform(case))


def load_theirs(tars: str, case: Case, seed: int) -> Iterator[object]:
    """Start open_clip's own loader, as its training script makes it."""
    from open_clip_train.data import get_wds_dataset

    args = SimpleNamespace(
        train_data=tars,
        train_num_samples=10**9,
        train_data_upsampling_factors=None,
        seed=seed,
        batch_size=case.batch,
        world_size=1,
        workers=case.workers,
    )
    tokenizer = _encoder("text", case).tokenizer
    loader = get_wds_dataset(args, their_transform(case), is_train=True, tokenizer=tokenizer).dataloader
    assert loader is not None
    return iter(loader)


def find_missing_peer() -> str | None:
    """Say in one line what open_clip's loader lacks to run here, and the remedy; None when it runs."""
    try:
        found = version("webdataset")
    except PackageNotFoundError:
        found = None
    if found and tuple(map(int, found.split(".")[:3])) <= NEWEST and find_spec("open_clip_train"):
        return None
    newest = ".".join(map(str, NEWEST))
    return (
        f"open_clip's loader works with webdataset up to {newest}, here is {found or 'none'}: "
        "pip install 'multimodal-workbench[bench]'"
    )


LOADERS: dict[str, Callable[[str, Case, int], Iterator[object]]] = {
    "open_clip": load_theirs,
    "workbench": load_ours,
    "workbench*": load_ours_with_their_transform,
}


def their_transform(case: Case) -> Transform:
    """Make open_clip's own image transform for training."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unused augmentation cfg items")  # it uses them, and says it did not
        aug_cfg = AugmentationCfg(**AUGMENT[case.augment][1])
        return cast(Transform, image_transform_v2(PreprocessCfg(size=case.size), is_train=True, aug_cfg=aug_cfg))


def _feed(tars: str, case: Case, seed: int, image: Transform) -> Iterator[Batch]:
    feed = Feed(
        {"image": image, "text": _encoder("text", case).transform(train=True)}, case.batch, seed, workers=case.workers
    )
    return Shards(path=tars).batches(0, feed)


def _encoder(kind: Literal["image", "text"], case: Case) -> OpenCLIP:
    more = {"image_size": case.size, "augment": Augment.model_validate(AUGMENT[case.augment][0])}
    return OpenCLIP(Modality(kind), 64, config=TOWERS[kind], **(more if kind == "image" else {}))


def measure(batches: Iterator[object], case: Case, seconds: float) -> Span:
    """Take batches for at least so many seconds, after the first ones."""
    for _ in range(WARM * max(1, case.workers)):
        next(batches)
    images, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while (passed := time.perf_counter() - start) < seconds:
        next(batches)
        images += case.batch
    now = cpu_seconds()
    return Span(images, passed, None if cpu is None or now is None else now - cpu)


def cpu_seconds() -> float | None:
    """Add up the processor time of this process and of its running children; None where there is no /proc."""
    try:
        lines = [Path(f"/proc/{child.pid}/stat").read_text() for child in active_children()]
    except OSError:
        return None
    ticks = sum(int(field) for line in lines for field in line.rpartition(")")[2].split()[11:13])  # utime, stime
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def compare(tars: str, case: Case, seconds: float, rounds: int) -> Iterator[Measured]:
    """Measure every loader in every round, one after the other, in turns who is first."""
    about = {"date": f"{datetime.date.today()}", "cpu": device_name(), "versions": versions()}
    for turn in range(rounds):
        names = list(LOADERS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            batches = LOADERS[name](tars, case, turn)
            found = measure(batches, case, seconds)
            del batches  # with its worker processes
            yield Measured(**about, **asdict(case), round=turn, loader=name, **found._asdict())


def versions() -> str:
    """List the versions of the packages that load and decode."""
    return ", ".join(f"{p} {version(p)}" for p in ("open_clip_torch", "webdataset", "torch", "torchvision", "pillow"))


def table(rows: Sequence[Measured]) -> str:
    """Write a line for each case and loader: images a second, the ratio to open_clip in the same round (the median,
    then each), and processor milliseconds an image with the ratio of open_clip's to them. More than 1 is better."""
    lines: list[tuple[str, ...]] = []
    for case, same in groupby(rows, lambda row: row.case):
        measured: dict[str, list[Measured]] = {}
        for row in same:
            measured.setdefault(row.loader, []).append(row)
        about = (case.shards, case.augment, str(case.workers))
        lines += [(*about, name, *_cells(rows, measured[PEER])) for name, rows in measured.items()]
    return markdown(HEAD, lines)


def _cells(rows: Sequence[Measured], peers: Sequence[Measured]) -> tuple[str, ...]:
    ratios = [row.rate / peer.rate for row, peer in zip(rows, peers, strict=True)]
    each = " ".join(f"{ratio:.2f}" for ratio in ratios)
    ms = [(row.ms, peer.ms) for row, peer in zip(rows, peers, strict=True) if row.ms and peer.ms]
    work = (f"{median(a for a, _ in ms):.2f}", f"{median(b / a for a, b in ms):.2f}") if ms else ("-", "-")
    return f"{median(row.rate for row in rows):.0f}", f"{median(ratios):.2f}", each, *work


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(min=0), help="Of each measurement.")
@click.option("--workers", default=(0, 1, 2), show_default=True, multiple=True, type=click.IntRange(min=0))
@click.option("--shards", default=tuple(SIZES), show_default=True, multiple=True, type=click.Choice(list(SIZES)))
@click.option("--augment", default=tuple(AUGMENT), show_default=True, multiple=True, type=click.Choice(list(AUGMENT)))
@click.option("--batch", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--photos", default=loader_shards.PHOTOS, show_default=True, type=click.IntRange(min=8), help="How many.")
@click.option("--csv", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write a line a measurement.")
def main(
    rounds: int,
    seconds: float,
    workers: Sequence[int],
    shards: Sequence[str],
    augment: Sequence[str],
    batch: int,
    photos: int,
    out: Path | None,
) -> None:
    """Measure, and print a table: medians over rounds, and of the ratios to open_clip in the same round."""
    if complaint := find_missing_peer():
        raise click.ClickException(complaint)
    torch.set_num_threads(1)  # as in a worker, also without any
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        made = {"emoji": lambda at: loader_shards.emoji(at), "photos": lambda at: loader_shards.photos(at, photos)}
        for name in shards:
            tars = made[name](Path(folder) / name)
            for case in (Case(name, a, w, batch, SIZES[name]) for a in augment for w in workers):
                for row in compare(tars, case, seconds, rounds):
                    rows.append(row)
                    click.echo(f"{name} {case.augment} {case.workers} {row.loader}: {row.rate:.0f}", err=True)
                if out:
                    write(rows, out)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
