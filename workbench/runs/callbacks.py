"""All callbacks of a run, in the one order in which they are called, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from workbench.build import Parts
from workbench.callbacks.bad_samples import BadSamples, BadSamplesOfEvaluations
from workbench.callbacks.checkpointing import Checkpointing, KeepBest
from workbench.callbacks.collapse import Collapse
from workbench.callbacks.evaluation import Evaluation
from workbench.callbacks.from_recipe import FromRecipe
from workbench.callbacks.nan_guard import NaNGuard
from workbench.callbacks.positives import Positives
from workbench.distributed.processes import Parallel
from workbench.engine import Callback
from workbench.runs.folder import Run
from workbench.training.metrics import Criterion


def list_callbacks(
    parts: Parts,
    parallel: Parallel,
    run: Run | None,
    *,
    console: bool = False,
    profile: bool = False,
    others: Sequence[Callback] = (),
) -> list[Callback]:
    """List the callbacks of a training.

    Args:
        run: the folder that it is kept in; None keeps nothing.
        console: show progress on stderr.
        profile: time some steps, into the run folder.
        others: callbacks of the caller.
    """
    bad_samples = BadSamples(run.skipped if run else None, parts.data)
    checkpoints = _checkpointing(parts, run) if run else None
    return [
        # alone at on_gradients, before the update: what is no number must not reach the weights
        NaNGuard(run.path if run else None),
        # these two hear the metrics only, from the first step on
        Positives(),
        Collapse(),
        # before the save: a checkpoint must never be newer than the names of the bad samples before it
        bad_samples,
        # before the evaluation: if that fails, or is killed for its memory, the step is saved
        *([checkpoints] if checkpoints else []),
        # before everything that shows or draws what it found
        *_evaluation(parts, parallel),
        # behind the evaluation, which has decoded its split
        BadSamplesOfEvaluations(bad_samples),
        # behind the evaluation, which knows now whether this step is the best
        *([KeepBest(checkpoints)] if checkpoints else []),
        # behind the evaluation: it draws the model that was just evaluated; behind the saves, as drawing takes seconds
        *_tensorboard(parts, parallel, run),
        # last of those that a run always has, so that a line on the screen stands for what is on the disk
        *_console(parts, console),
        # behind the run's own: they see a step that is complete. On every process, as they may have to agree
        *(FromRecipe(key, spec.name, spec.build()) for key, spec in parts.recipe.callbacks.items()),
        *others,
        # at the very end: a profile begins and ends when everyone else has had their turn
        *_profile(run, profile),
    ]


def _checkpointing(parts: Parts, run: Run) -> Checkpointing:
    settings = parts.recipe.checkpoint
    every = parts.steps(settings.every)
    keep_every = parts.steps(settings.keep_every) if settings.keep_every else None
    return Checkpointing(run.checkpoints, every, settings.keep, keep_every, background=settings.async_)


def _evaluation(parts: Parts, parallel: Parallel) -> Iterator[Callback]:
    settings = parts.recipe.eval
    if settings.evaluators:
        best = Criterion.parse(settings.best) if settings.best else None
        yield Evaluation(
            partial(parts.evaluate, parallel.device), parts.steps(settings.every), best, start=settings.start
        )


def _tensorboard(parts: Parts, parallel: Parallel, run: Run | None) -> Iterator[Callback]:
    if run and parts.recipe.log.tensorboard and parallel.rank == 0:
        from workbench.callbacks.tensorboard import TensorBoard

        best, context = parts.recipe.eval.best, parts.context(parallel.device)
        metric = Criterion.parse(best).metric if best else None
        yield TensorBoard(run.tensorboard, parts.recipe.as_yaml(), context, metric, tables=parts.tables)


def _console(parts: Parts, wanted: bool) -> Iterator[Callback]:
    if wanted:
        from workbench.callbacks.console import Console

        best = parts.recipe.eval.best
        yield Console([Criterion.parse(best).metric] if best else None)


def _profile(run: Run | None, wanted: bool) -> Iterator[Callback]:
    if wanted and run:
        from workbench.callbacks.profile import Profile

        yield Profile(run.path / "profile")
