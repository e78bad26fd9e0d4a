"""What trackers have in common: the first process sends every record, and a resumed run goes on as the one it was.

The trap: TensorBoard, W&B and Trackio take whatever they are sent. A record with the step of another run, or a second
run for the rest of a resumed one, shows nowhere but on the chart.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Protocol

from workbench.engine import Callback, Engine
from workbench.training.metrics import Record

__all__ = ["Tracker"]


class Session(Protocol):
    """A run as a service's package hands it out."""

    def log(self, values: Record, /, *, step: int) -> None: ...
    def finish(self, *, exit_code: int = 0) -> None: ...


class Tracker(Callback):
    """Sends the metrics of a run to a service, under their own names and steps.

    Args:
        package: what has to be installed; also the name of the extra that has it.
    """

    def __init__(self, package: str) -> None:
        spec = find_spec(package)
        # a folder of that name is found, too, and has no file: such services write folders of their name
        if spec is None or spec.origin is None:
            raise ValueError(f"{package} is not installed: pip install 'multimodal-workbench[{package}]'")
        self.session: Session | None = None
        self.ended = False

    def on_start(self, engine: Engine) -> None:
        if engine.parallel.rank:
            return
        self.session = self.open(engine)
        for record in engine.metrics.records:  # the evaluation before the first step has already been
            self._send(record)
        engine.metrics.listeners.append(self._send)

    def on_end(self, engine: Engine) -> None:
        engine.metrics.flush()
        self.ended = True

    def on_exit(self, engine: Engine) -> None:
        if self.session:
            self.close(self.session)

    def open(self, engine: Engine) -> Session:
        """Begin a run at the service, or go on with it where the engine has resumed."""
        raise NotImplementedError

    def close(self, session: Session) -> None:
        """Wait until everything is sent, and say whether the training came to its end or an error ended it."""
        session.finish(exit_code=0 if self.ended else 1)

    def _send(self, record: Record) -> None:
        assert self.session, "opened at the start"
        values = {k: v for k, v in record.items() if k != "step" and v is not None}
        self.session.log(values, step=record["step"])


def name_run(engine: Engine) -> tuple[str, str, str | None]:
    """Name the project, the run and its group: of runs/SWEEP/ARM-seedN the three words, of runs/NAME this one twice."""
    name = str(engine.recipe.get("name", "run"))
    project, _, run = name.rpartition("/")
    arm = re.fullmatch(r"(.+)-seed\d+", run)
    run = engine.folder.resolve().name if engine.folder else run
    return (project or run).replace("/", "-"), run, arm[1] if arm else None
