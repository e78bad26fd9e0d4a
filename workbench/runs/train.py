"""Train a recipe, in a run folder or without one: open or resume it, stop politely, mark it done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from workbench.build import Parts, build_engine, build_parts, build_schedule, prepare
from workbench.distributed.processes import Parallel
from workbench.engine import Callback, Engine
from workbench.errors import RunError, failure
from workbench.recipe.schema import Recipe
from workbench.runs.callbacks import list_callbacks
from workbench.runs.folder import Run
from workbench.runs.initial_weights import initialise
from workbench.runs.measuring import measure
from workbench.runs.meeting import refuse_terms_apart
from workbench.runs.own_code import record_code, use_kept_code
from workbench.runs.process import explained, polite_stop, settle
from workbench.starting import collect_as_usual
from workbench.training import checkpoint, checkpoint_files
from workbench.training.metrics import Best, Metrics, Record, read
from workbench.training.peak_memory import count_peak_anew, read_peak


@dataclass
class Outcome:
    """How a training ended."""

    run: Path | None
    step: int
    steps: int
    finished: bool
    already: bool
    """it had been finished before this command"""
    records: list[Record]
    best: Best | None
    parts: Parts
    """the model, objective and data, trained as far as `step`"""


def train(
    recipe: Recipe,
    path: Path | None = None,
    *,
    fresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
    console: bool = False,
    profile: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train until the recipe's end, resuming whatever `path` holds. Raises RunError, ValueError, NotFinite, OSError.

    SIGINT and SIGTERM finish the step, save, and return an Outcome that is not finished. May be called in any thread,
    but in one at a time: what dropout draws comes from torch's one generator.

    Args:
        path: the run folder; None keeps nothing.
        fresh: set aside what `path` holds, and begin anew.
        say: gets a line for people about what is begun or resumed.
        console: show progress on stderr.
        profile: time some steps, into `path`/profile.
        callbacks: more of them, called behind the run's own.
    """
    parallel = Parallel.join(recipe.parallel.timeout.seconds)
    lead = parallel.rank == 0
    say = say if lead else _say_nothing
    settle(compiles=recipe.train.compile)
    run = Run(path) if path else None
    with parallel.explained(), run or nullcontext():
        if run and lead:
            run.open(recipe, fresh=fresh, say=say)
        parallel.barrier("the opening of the run folder")
        found = _find_checkpoint(run, parallel, say) if run else None
        if run and found:
            recipe = use_kept_code(run.path, recipe)
        # a checkpoint has all weights: the file of pretrained ones may be gone by now
        parts = build_parts(recipe, pretrained=found is None)
        if found is None:
            refuse_terms_apart(parts.objective, parts.data, say)
        if not found:  # it has what was measured; and weights of `model.init` come later, with what they learned by
            for line in measure(parts, parallel):
                say(line)
        parts = prepare(parts, parallel)
        if run and lead and not found:  # what an earlier start left behind, which took no step
            run.forget_beginning()
        if run and lead and "path" in type(recipe.data.settings).model_fields:
            run.record_data(parts.data, say)
        if run and lead:
            record_code(run.path, recipe, say, began=found is not None)
        metrics = Metrics(run.metrics if run and lead else None, on_device=parallel.device.type == "cuda")
        engine = build_engine(parts, parallel, metrics)
        engine.folder = path
        if found:
            _restore(engine, found, say)
            if run and run.before:
                _say_schedule(parts, engine, run.before, say)
        elif recipe.model.init:
            for line in initialise(engine.model, engine.objective, recipe.model.init):
                say(line)
        already = parallel.any(bool(run) and engine.finished and run.done.exists())
        if already and run:
            metrics.earlier = read(run.metrics)
        else:
            engine.callbacks = list_callbacks(parts, parallel, run, console=console, profile=profile, others=callbacks)
            _fit(engine, run, recipe)
    parallel.leave()
    records = metrics.earlier + metrics.records
    return Outcome(path, engine.step, engine.steps, engine.finished, already, records, engine.best, parts)


def _say_nothing(_: str) -> None: ...


def _find_checkpoint(run: Run, parallel: Parallel, say: Callable[[str], None]) -> Path | None:
    """Find the newest whole checkpoint, on the first process for all. Raises RunError where all are damaged."""
    found = checkpoint_files.newest(run.checkpoints) if parallel.rank == 0 else (None, [])
    path, complaints = parallel.gather_objects(found, "the search for a checkpoint")[0]
    for complaint in complaints:
        say(f"damaged checkpoint left alone: {complaint}")
    if path is None and complaints:
        raise RunError(f"{run.path} has no whole checkpoint left; --fresh sets it aside and begins anew")
    if path and not path.is_dir():
        raise RunError(f"{path} cannot be seen from here: all processes need the run folder, on a disk that they share")
    return path


def _restore(engine: Engine, path: Path, say: Callable[[str], None]) -> None:
    """Go on from a checkpoint."""
    whole = checkpoint_files.has_optimizer(path)  # `wb runs prune --weights` leaves none to what is finished
    state = checkpoint.load(path, engine.model, engine.objective, engine.optimizer if whole else None)
    engine.step, engine.best, engine.saved_step = state.step, state.best, state.step
    if not whole and not engine.finished:
        raise RunError(
            f"{path} has no state of the optimizer any more (wb runs prune --weights), so that no training can go on "
            "from it: begin a new run from its weights with model.init, or anew with --fresh"
        )
    if not engine.finished:
        say(f"resuming from {path} (step {state.step} of {engine.steps})")


def _say_schedule(parts: Parts, engine: Engine, before: Recipe, say: Callable[[str], None]) -> None:
    """Say how a resume with another length of training changes the learning rate."""
    old, new = build_schedule(parts, before.train).rate(engine.step), engine.schedule.rate(engine.step)
    if old != new and not engine.finished:
        horizon = before.train.schedule.for_ or before.train.for_
        say(
            f"the schedule has changed with train.for: the learning rate of step {engine.step + 1} is {new:.3g}, by "
            f"the one before it would be {old:.3g}. To keep that: --set 'train.schedule.for={horizon}'"
        )


def _fit(engine: Engine, run: Run | None, recipe: Recipe) -> None:
    """Run the loop, and mark a run that reaches its end as done."""
    lead = engine.parallel.rank == 0
    if run and lead:
        run.done.unlink(missing_ok=True)
    engine.metrics.open(engine.step)
    count_peak_anew(engine.parallel.device)
    collect_as_usual()
    with engine.metrics, polite_stop(engine), explained(recipe.parallel.workers):
        try:
            engine.fit()
        except SystemExit as error:  # of an objective, an encoder or an evaluator of the user's own
            what = f"at step {engine.step} code that the training called has ended the program"
            raise failure(what, error, verb="") from error
    if run and lead and engine.finished:
        run.finish(engine.step, read_peak(engine.parallel.device))
