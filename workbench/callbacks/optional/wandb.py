"""Sends a run to Weights & Biases (wandb.ai, or a folder with WANDB_MODE=offline), with its recipe for a config.

A resumed run goes on in the same run there: its id lies in wandb/id.txt of the run folder. The trap: steps between the
last checkpoint and a crash are trained again; W&B has them already, and leaves out what it is sent a second time.
"""

from __future__ import annotations

import secrets
from importlib import import_module
from pathlib import Path
from typing import Literal

from workbench.callbacks.optional._tracker import Session, Tracker, name_run
from workbench.engine import Engine
from workbench.errors import writing

__all__ = ["WandB"]


class WandB(Tracker):
    """Every record of metrics.jsonl under its own names, over the optimizer step; the resolved recipe as the config.

    Needs the extra `wandb`, and once `wandb login`, or WANDB_MODE=offline and later `wandb sync`. The final metrics are
    the run's summary, so that a table of runs has them.

    Args:
        project: where runs stand together; default: the sweep's name, or the recipe's.
        entity: the user or team; default: that of the login.
        group: what runs are averaged over; default: the arm of a sweep's run.
        tags: words to find the run by.
        notes: a text about the run.
        mode: how it is sent; default: what WANDB_MODE says, else online.
    """

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        super().__init__("wandb")
        self.project, self.entity, self.group = project, entity, group
        self.tags, self.notes, self.mode = tags, notes, mode

    def open(self, engine: Engine) -> Session:
        wandb = import_module("wandb")  # an extra, which takes a second to import
        project, name, group = name_run(engine)
        return wandb.init(
            project=self.project or project,
            entity=self.entity,
            name=name,
            group=self.group or group,
            tags=self.tags,
            notes=self.notes,
            mode=self.mode,
            config=dict(engine.recipe),
            dir=engine.folder,
            id=_find_id(engine),
            resume="allow",
            reinit="create_new",
            # what it prints belongs to the terminal of the run, and what the run prints, not to the service
            settings=wandb.Settings(silent=True, console="off"),
        )


def _find_id(engine: Engine) -> str | None:
    """Read the id of a resumed run, or keep a new one in the run folder; None where nothing is kept."""
    if engine.folder is None:
        return None
    file: Path = engine.folder / "wandb" / "id.txt"
    if engine.step and file.is_file():
        return file.read_text(encoding="utf-8").strip()
    made = secrets.token_hex(4)
    with writing(file):
        file.parent.mkdir(exist_ok=True)
        file.write_text(made + "\n", encoding="utf-8")
    return made
