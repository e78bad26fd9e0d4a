"""A callback that a recipe names: whatever goes wrong in it is told under its name, with the step and the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from workbench.engine import Callback, Engine, Logs
from workbench.errors import GO_ON, RankLate, RankLost, failure
from workbench.training.metrics import Record

__all__ = ["FromRecipe"]


class FromRecipe(Callback):
    """Calls the hooks that a callback has; a class of one's own needs to have those only that it hears.

    Args:
        key: its key in the recipe's block `callbacks`.
        name: the component's name, or `file.py:Class`.
        callback: what is called.
    """

    def __init__(self, key: str, name: str, callback: object) -> None:
        self.key, self.name, self.callback = key, name, callback

    def on_start(self, engine: Engine) -> None:
        self._call("on_start", engine)

    def on_gradients(self, engine: Engine, logs: Logs) -> None:
        self._call("on_gradients", engine, logs)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        self._call("on_step", engine, logs)

    def on_end(self, engine: Engine) -> None:
        self._call("on_end", engine)

    def on_exit(self, engine: Engine) -> None:
        self._call("on_exit", engine)

    def name_phase(self) -> str:
        return type(self.callback).__name__

    def _call(self, hook: str, engine: Engine, *logs: Logs) -> None:
        """Raises ValueError that names the callback; what other processes have caused is theirs to say."""
        called = getattr(self.callback, hook, None)
        if called is None:
            return
        listeners = engine.metrics.listeners
        heard = len(listeners)
        with self._named(hook, engine):
            called(engine, *logs)
        # what it has hung there is called by the metrics, between two hooks
        listeners[heard:] = [partial(self._hear, engine, listener) for listener in listeners[heard:]]

    def _hear(self, engine: Engine, listener: Callable[[Record], None], record: Record) -> None:
        with self._named("a listener", engine):
            listener(record)

    @contextmanager
    def _named(self, where: str, engine: Engine) -> Iterator[None]:
        try:
            yield
        except (RankLate, RankLost):
            raise
        except (Exception, SystemExit) as error:  # sys.exit() of theirs would end the run without a word
            what = f"callback '{self.name}' has failed in {where} at step {engine.step}"
            then = f". {GO_ON}, with --set callbacks.{self.key}=null without it"
            raise failure(what, error, then, verb="") from error
