"""Runs the evaluators before training, every so many steps and at the end; remembers the best value of one metric.

The trap: a process may die between the save of a step and the step's evaluation. Whoever resumes from that checkpoint
makes up for it, or the run would lack an evaluation that an uninterrupted one has.
"""

from collections.abc import Callable, Iterator

from workbench.engine import Callback, Engine, Logs
from workbench.training.metrics import Best, Criterion

__all__ = ["Evaluation"]


class Evaluation(Callback):
    """Stands behind the save of the step, so that an evaluation that fails costs no work.

    Args:
        evaluate: yields (name, value) for the model as it is now.
        every: optimizer steps between evaluations.
        best: which of two evaluations is the better one; None where none is to be remembered.
        start: evaluate before the first step, too.
    """

    def __init__(
        self,
        evaluate: Callable[[], Iterator[tuple[str, float]]],
        every: int,
        best: Criterion | None,
        start: bool = True,
    ) -> None:
        self.evaluate, self.every, self.best, self.start = evaluate, every, best, start

    def on_start(self, engine: Engine) -> None:
        records = [record for record in engine.metrics.earlier if record["step"] == engine.step]
        values = {name.removeprefix("eval/"): x for r in records for name, x in r.items() if name.startswith("eval/")}
        values = engine.parallel.gather_objects(values, "the resume")[0]
        if values:  # the process may have died before it could say in the checkpoint that this was the best
            self._remember(engine, values)
        elif self._is_due(engine) if engine.step else self.start:
            self._run(engine)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        if self._is_due(engine):
            self._run(engine)

    def _is_due(self, engine: Engine) -> bool:
        return engine.step % self.every == 0 or engine.finished

    def _run(self, engine: Engine) -> None:
        engine.evaluated.gather()  # all processes take part in this, then the first one evaluates alone
        values: dict[str, float] = {}
        if engine.parallel.rank == 0:
            values = dict(self.evaluate())
            named = {f"eval/{name}": value for name, value in values.items()}
            engine.metrics.record(engine.step, engine.samples, named)
            engine.metrics.flush()
            if self.best and self.best.metric not in values:
                raise ValueError(f"eval.best: no metric '{self.best.metric}' (there are: {', '.join(values)})")
        # every process has to know the best step, as all take part in saving it
        self._remember(engine, engine.parallel.gather_objects(values, "an evaluation")[0])

    def _remember(self, engine: Engine, values: dict[str, float]) -> None:
        value = values.get(self.best.metric) if self.best else None
        if self.best and value is not None and self.best.improves(value, engine.best):
            engine.best = Best(self.best.metric, value, engine.step)
