"""Train a recipe in a run folder: open or resume it, stop politely, mark it done."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from workbench.build import Parts, build_engine, build_parts
from workbench.callbacks.bad_samples import BadSamples
from workbench.callbacks.checkpointing import Checkpointing
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine
from workbench.errors import GO_ON
from workbench.recipe.schema import InitSection, Recipe
from workbench.runs.folder import Run, RunError
from workbench.runs.initial_weights import initialise
from workbench.training import checkpoint
from workbench.training.metrics import Metrics, Record, rewind


@dataclass
class Outcome:
    """How a training ended."""

    run: Path
    step: int
    steps: int
    finished: bool
    already: bool
    """it had been finished before this command"""
    records: list[Record]
    best: checkpoint.Best | None


def train(
    recipe: Recipe,
    path: Path,
    *,
    fresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train until the recipe's end, resuming whatever `path` holds. Raises RunError, ValueError, NotFinite, OSError.

    `callbacks` are added behind the run's own (checkpoints, TensorBoard).

    SIGINT and SIGTERM finish the step, save, and return an Outcome that is not finished.
    """
    parallel = Parallel(recipe.parallel.timeout.seconds)
    run = Run(path)
    with parallel.explained():
        if parallel.rank == 0:
            aside = run.set_aside() if fresh else None
            if aside:
                say(f"the earlier run is now in {aside}")
            run.open(recipe)
        parallel.barrier("the opening of the run folder")
        outcome = _train(build_parts(recipe), run, parallel, say, callbacks)
    parallel.close()  # not after an error: to part politely, the others would have to do it, too
    return outcome


def _train(
    parts: Parts, run: Run, parallel: Parallel, say: Callable[[str], None], callbacks: Sequence[Callback]
) -> Outcome:
    lead = parallel.rank == 0
    engine = build_engine(parts, parallel, Metrics(None))
    _resume(engine, run, parts.recipe.model.init, say if lead else lambda _: None)
    records = rewind(run.metrics, engine.step) if lead else []
    already = parallel.any(engine.finished and run.done.exists())
    if not already:
        if lead:
            run.done.unlink(missing_ok=True)
        engine.metrics = Metrics(run.metrics if lead else None, on_device=parallel.device.type == "cuda")
        engine.callbacks += [*_callbacks(parts, run, parallel), *callbacks]
        with polite_stop(engine), explained(parts.recipe.parallel.workers):
            engine.fit()
        engine.metrics.close()
        records += engine.metrics.records
        if engine.finished and lead:
            run.finish(engine.step)
    return Outcome(run.path, engine.step, engine.steps, engine.finished, already, records, engine.best)


def _resume(engine: Engine, run: Run, init: InitSection | None, say: Callable[[str], None]) -> None:
    """Go on from the newest whole checkpoint; without any, start from `model.init`."""
    found = checkpoint.newest(run.checkpoints) if engine.parallel.rank == 0 else None
    path, complaints = engine.parallel.gather_objects(found, "the search for a checkpoint")[0]
    for complaint in complaints:
        say(f"damaged checkpoint left alone: {complaint}")
    if path is None:
        if complaints:
            raise RunError(f"{run.path} has no whole checkpoint left; --fresh sets it aside and begins anew")
        for line in initialise(engine.model, engine.objective, init) if init else ():
            say(line)
        return
    if not path.is_dir():
        raise RunError(f"{path} cannot be seen from here: all processes need the run folder, on a disk that they share")
    state = checkpoint.load(path, engine.model, engine.objective, engine.optimizer)
    engine.step, engine.best = state.step, state.best
    if not engine.finished:
        say(f"resuming from {path} (step {state.step} of {engine.steps})")


def _callbacks(parts: Parts, run: Run, parallel: Parallel) -> list[Callback]:
    settings = parts.recipe.checkpoint
    every, keep_every = (span and max(1, parts.steps(span)) for span in (settings.every, settings.keep_every))
    assert every
    chosen: list[Callback] = [
        BadSamples(run.skipped, parts.data),
        Checkpointing(run.checkpoints, every, settings.keep, keep_every, background=settings.async_),
    ]
    if parts.recipe.log.tensorboard and parallel.rank == 0:
        from workbench.callbacks.tensorboard import TensorBoard  # with matplotlib, which a short run feels

        chosen.append(TensorBoard(run.tensorboard, parts.recipe.as_yaml(), parts.context(parallel)))
    return chosen


@contextmanager
def explained(workers: int) -> Iterator[None]:
    """Raises ChildProcessError for the death of a data worker: torch has no class of its own for it, raises it wherever
    training happens to be, or fails to read what the worker had promised."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise again, in the middle of the message
        what = f"a data worker died, perhaps killed for its memory: lower parallel.workers ({workers})"
        raise ChildProcessError(f"{what}. {GO_ON}") from None


@contextmanager
def polite_stop(engine: Engine) -> Iterator[None]:
    """SIGINT and SIGTERM ask the engine to stop after the current step; a second SIGINT interrupts at once."""

    def request(signum: int, frame: FrameType | None) -> None:
        if engine.stop_requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        engine.stop_requested = True
        if engine.parallel.rank == 0:
            os.write(2, b"\nfinishing this step, then saving; once more to stop at once\n")

    before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
