"""A callback that a recipe names: whatever goes wrong in it is told under its name, with the step and the place."""

from __future__ import annotations

from workbench.engine import Callback, Engine, Logs
from workbench.errors import GO_ON, RankLate, RankLost, failure

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
        try:
            called(engine, *logs)
        except (RankLate, RankLost):
            raise
        except Exception as error:
            what = f"callback '{self.name}' has failed in {hook} at step {engine.step}"
            then = f". {GO_ON}, with --set callbacks.{self.key}=null without it"
            raise failure(what, error, then, verb="") from error
