"""Which questions samples allow, and all their critics trained: for each target, each pair of other fields.

The trap: a pair of fields alone is the same question from either side, as InfoNCE is symmetric, and is answered once
for all targets that have the same samples.
"""

from __future__ import annotations

import math
import multiprocessing as mp
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from synthetic.theory.joint import Joint
from synthetic.theory.optima import Optimum, infonce_optimum
from synthetic.theory.summed import summed_optimum
from workbench.errors import RecipeError, did_you_mean
from workbench.studies.synergy.critics import Fitted, Group, Parts, Trial, divide, fit
from workbench.studies.synergy.samples import Numbers
from workbench.studies.synergy.usable import Interval, Word, decide, gain_of, least, usable

BATCHES = 20
"""that the samples have to fill: four for each of five held-out parts, and two that say when to stop"""
USUAL, SMALLEST = (256, 128, 64, 32, 16), 16
"""batches, of which the largest that the samples allow is taken; the smallest still tells things apart"""
MOST_CELLS = 20_000
"""of a table of scores whose best sum is sought: half a minute"""


class Question(NamedTuple):
    """What do two fields tell of a target?"""

    target: str
    first: str
    second: str

    @property
    def pair(self) -> str:
        return f"{self.first}+{self.second}"

    @property
    def critics(self) -> tuple[tuple[Group, ...], ...]:
        """List the groups of the four critics: each alone, the sum of both, and both fused besides."""
        x, y = (self.first,), (self.second,)
        return (x,), (y,), (x, y), (x, y, (self.first, self.second))


@dataclass(frozen=True)
class Answer:
    """What was found on a question, in nats."""

    question: Question
    samples: int
    """ids that have all three"""
    left_out: int
    """rows that lack one of the three"""
    batch: int
    single: dict[str, Interval]
    summed: Interval
    fused: Interval
    gain: Interval
    exact: dict[str, float] | None
    """{critic: the most that any critic of its form can use}, of a synthetic task whose outcomes can be listed; without
    the sum and the gain where that table is too large"""

    @property
    def shared(self) -> Interval:
        """What either of the two tells: the lesser of both, as redundancy is measured (an upper bound of it)."""
        return least(list(self.single.values()))

    @property
    def ceiling(self) -> float:
        return math.log(self.batch)

    @property
    def word(self) -> Word:
        return decide(self.fused, self.gain)


def ask_about(numbers: Numbers, targets: Sequence[str]) -> list[Question]:
    """List the questions: for each target (default: everything), each pair of other fields.

    Raises ValueError where there are fewer than three fields, RecipeError where a target is none.
    """
    names, fields = list(numbers.inputs), numbers.fields
    if len(fields) < 2 or len(names) < 3:
        labels = f", one of its labels as --target: {', '.join(numbers.others)}," if numbers.others else ""
        raise ValueError(
            f"whether two fields help to tell a third takes three, and the data has {' and '.join(names)}: give it "
            f"another field{labels} or the name of a synthetic task"
        )
    if unknown := [name for name in targets if name not in names]:
        raise RecipeError(f"--target {unknown[0]}{did_you_mean(unknown[0], names)}")
    return [
        Question(target, *pair)
        for target in targets or names
        for pair in combinations([name for name in fields if name != target], 2)
    ]


def choose_batch(samples: int, wanted: int | None) -> int:
    """Choose the largest power of two up to 256 that the samples fill twenty times, or check the one that is wanted.

    Raises ValueError where there are too few samples, with the number that it takes.
    """
    batch = wanted or next((b for b in USUAL if samples >= BATCHES * b), SMALLEST)
    if samples < BATCHES * batch:
        remedy = f", or lower --batch to {samples // BATCHES}" if samples >= BATCHES * SMALLEST else ""
        raise ValueError(
            f"{samples:,} samples (different ids that have all three) are too few to tell anything at a batch of "
            f"{batch}: it takes {BATCHES * batch:,}{remedy}"
        )
    return batch


@dataclass(frozen=True)
class Job:
    """A critic to train, and the samples that it is trained on."""

    trial: Trial
    rows: int
    """which of the sets of rows"""


@dataclass(frozen=True)
class Study:
    """Samples, questions, and how they are asked."""

    numbers: Numbers
    questions: Sequence[Question]
    batch: int | None = None
    """candidates; None: as many as the samples allow, up to 256"""
    parts: int = 5
    """divisions of the samples, each with a seed of its own"""
    seed: int = 0

    def answer(self, processes: int = 1, tell: Callable[[int, int], None] = lambda done, of: None) -> list[Answer]:
        """Train and ask every critic; `tell` is called with (critics that are done, all critics).

        Raises ValueError where a question has too few samples. The numbers do not depend on the processes.
        """
        prepared = [self._prepare(question) for question in self.questions]
        sets: dict[bytes, _Set] = {own.key: own for own in prepared}
        order = list(sets)
        jobs = list(
            dict.fromkeys(
                Job(_canonical(Trial(groups, question.target)), order.index(own.key))
                for question, own in zip(self.questions, prepared, strict=True)
                for groups in question.critics
            )
        )
        jobs.sort(key=lambda job: -len(job.trial.groups))  # long ones first, so that processes end together
        found: dict[Job, list[Fitted]] = {}
        tell(0, len(jobs))
        for job, fitted in _fit_all(jobs, list(sets.values()), self.numbers, self.seed, processes):
            found[job] = fitted
            tell(len(found), len(jobs))
        return [
            self._gather(question, own, order.index(own.key), found)
            for question, own in zip(self.questions, prepared, strict=True)
        ]

    def _prepare(self, question: Question) -> _Set:
        rows = self.numbers.complete(question)
        ids = self.numbers.ids[rows]
        samples = len(ids.unique())
        if not samples:
            counts = ", ".join(f"{name} {int(self.numbers.present[name].sum()):,}" for name in question)
            raise ValueError(f"no sample has {', '.join(question)} together (rows: {counts}): choose with --field")
        batch = choose_batch(samples, self.batch)
        return _Set(rows, batch, samples, divide(ids, self.parts, self.seed))

    def _gather(self, question: Question, own: _Set, place: int, found: dict[Job, list[Fitted]]) -> Answer:
        x, y, summed, fused = (
            found[Job(_canonical(Trial(groups, question.target)), place)] for groups in question.critics
        )
        ceiling, task = math.log(own.batch), self.numbers.task
        joint = task.joint() if task else None
        return Answer(
            question,
            own.samples,
            len(self.numbers.ids) - len(own.rows),
            own.batch,
            {question.first: usable(x, ceiling), question.second: usable(y, ceiling)},
            usable(summed, ceiling),
            usable(fused, ceiling),
            gain_of(fused, summed),
            exact_nats(joint, question, own.batch) if joint else None,
        )


def exact_nats(joint: Joint, question: Question, batch: int) -> dict[str, float]:
    """Compute what the best critic of each form uses at this batch: ln B less the least loss."""
    z, x, y = question
    optima = {x: (x,), y: (y,), "fused": (x, y)}
    nats = {name: _used(infonce_optimum(joint, fields, (z,), batch)) for name, fields in optima.items()}
    if len(joint.group((x, y))[1]) * joint.codes[z] > MOST_CELLS:
        return nats
    summed = _used(summed_optimum(joint, x, y, z, batch))
    return nats | {"summed": summed, "gain": nats["fused"] - summed}


def _used(optimum: Optimum) -> float:
    return optimum.no_information - optimum.value


@dataclass(frozen=True, eq=False)
class _Set:
    """The rows of a question, and their divisions."""

    rows: Int64[Tensor, " m"]
    batch: int
    samples: int
    parts: list[Parts]

    @property
    def key(self) -> bytes:
        return self.rows.numpy().tobytes()


def _canonical(trial: Trial) -> Trial:
    """Name the same trial alike from both sides: one field against another."""
    if len(trial.groups) == 1:
        first, second = sorted((trial.groups[0][0], trial.target))
        return Trial(((first,),), second)
    return trial


def _fit_all(
    jobs: Sequence[Job], sets: Sequence[_Set], numbers: Numbers, seed: int, processes: int
) -> Iterator[tuple[Job, list[Fitted]]]:
    """Fit all, in this process or in several, each on one thread: the matrices are small."""
    if processes == 1:
        threads = torch.get_num_threads()
        _share(sets, numbers, seed)
        try:
            for job in jobs:
                yield job, _fit(job)
        finally:
            torch.set_num_threads(threads)
        return
    context = mp.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_share, initargs=(sets, numbers, seed)) as pool:
        waiting = {pool.submit(_fit, job): job for job in jobs}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise ValueError(
                "a process was killed, perhaps for want of memory: give --jobs 1, or fewer --samples"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # and wait: at Python's end it would write to a closed pipe


_shared: list[tuple[Sequence[_Set], Numbers, int]] = []
"""what every job of this process works on: sent once, not with each job"""


def _share(sets: Sequence[_Set], numbers: Numbers, seed: int) -> None:
    torch.set_num_threads(1)
    _shared[:] = [(sets, numbers, seed)]


def _fit(job: Job) -> list[Fitted]:
    ((sets, numbers, seed),) = _shared
    own = sets[job.rows]
    return fit(job.trial, numbers, own.rows, own.parts, own.batch, seed)
