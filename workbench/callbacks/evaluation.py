"""Runs the evaluators before training, every so many steps and at the end; remembers the best value of one metric."""

from collections.abc import Callable, Iterator

from workbench.engine import Callback, Engine, Logs
from workbench.training.metrics import Best

__all__ = ["Evaluation"]


class Evaluation(Callback):
    """Stands before the checkpoint callback, so that a checkpoint never lacks the evaluation of its own step.

    Args:
        evaluate: yields (name, value) for the model as it is now.
        every: optimizer steps between evaluations.
        best: the name whose largest value marks the best checkpoint, or None.
        start: evaluate before the first step, too.
    """

    def __init__(
        self, evaluate: Callable[[], Iterator[tuple[str, float]]], every: int, best: str | None, start: bool = True
    ) -> None:
        self.evaluate, self.every, self.best, self.start = evaluate, every, best, start

    def on_start(self, engine: Engine) -> None:
        if engine.step == 0 and self.start:
            self._run(engine)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        if engine.step % self.every == 0 or engine.finished:
            self._run(engine)

    def _run(self, engine: Engine) -> None:
        engine.whole.gather()  # the first process evaluates alone
        if engine.parallel.rank == 0:
            values = dict(self.evaluate())
            engine.metrics.record(
                engine.step, engine.samples, {f"eval/{name}": value for name, value in values.items()}
            )
            engine.metrics.flush()
            self._remember(engine, values)
        # all have to know it, as all take part in saving a best checkpoint
        engine.best = engine.parallel.gather_objects(engine.best, "an evaluation")[0]

    def _remember(self, engine: Engine, values: dict[str, float]) -> None:
        if self.best is None:
            return
        if self.best not in values:
            raise ValueError(f"eval.best: no metric '{self.best}' (there are: {', '.join(values)})")
        if engine.best is None or values[self.best] > engine.best.value:
            engine.best = Best(self.best, values[self.best], engine.step)
