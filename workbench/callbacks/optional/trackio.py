"""Sends a run to Trackio: a dashboard on this machine (`trackio show`), or a Space of Hugging Face.

The trap: steps between the last checkpoint and a crash are trained again, and Trackio keeps both. They are the same
numbers, but for times.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib import import_module

from workbench.callbacks.optional._tracker import Session, Tracker, name_run
from workbench.engine import Engine

__all__ = ["Trackio"]


class Trackio(Tracker):
    """Every record of metrics.jsonl under its own names, over the optimizer step; the resolved recipe as the config.

    Needs the extra `trackio`. Where it keeps its files the variable TRACKIO_DIR says; a resumed run goes on under its
    name.

    Args:
        project: where runs stand together; default: the sweep's name, or the recipe's.
        group: what runs are listed under; default: the arm of a sweep's run.
        space_id: a Space of Hugging Face, as `user/name`, that gets the run; default: this machine alone.
    """

    def __init__(self, *, project: str | None = None, group: str | None = None, space_id: str | None = None) -> None:
        super().__init__("trackio")
        self.project, self.group, self.space_id = project, group, space_id

    def open(self, engine: Engine) -> Session:
        trackio = import_module("trackio")
        project, name, group = name_run(engine)
        with redirect_stdout(sys.stderr):  # stdout is for what a command reports
            return trackio.init(
                project=self.project or project,
                name=name,
                group=self.group or group,
                space_id=self.space_id,
                config=dict(engine.recipe),
                resume="allow" if engine.step else "never",
                embed=False,
            )

    def close(self, session: Session) -> None:
        with redirect_stdout(sys.stderr):
            # not the session's own finish, or the package would finish it once more at the end of the process
            import_module("trackio").finish()
