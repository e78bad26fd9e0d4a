"""Writes what a run measures to TensorBoard, laid out, and after each evaluation pictures of what it has learned.

x is the optimizer step. The trap: pictures may cost a run some seconds but never the run: when one cannot be drawn, a
line on stderr says so and the rest of the run goes without.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench.engine import Callback, Engine, Logs
from workbench.errors import writing
from workbench.figures import embeddings
from workbench.figures.confusion import confusion_picture
from workbench.figures.dashboards import LAST, layout, list_tags
from workbench.figures.gallery import Gallery
from workbench.figures.hparams import begin_session, choose_hparams, end_session
from workbench.scoring.classes import say_confusions
from workbench.training.metrics import Record
from workbench.types import ClassTable, Context, Side, Views

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["TensorBoard"]

MAPS, MAP_ROWS = 6, 64
QUERIES, ANSWERS = 6, 5
SHOWN = ("image", "audio", "sequence")
"""kinds of which a picture says more than the label"""
NOUNS = {"image": "images", "text": "texts", "audio": "sounds", "sequence": "sequences"}
THUMBNAIL = 48
"""pixels a side, in the projector"""


class TensorBoard(Callback):
    """Scalars of every metrics record, the recipe as text and as hyperparameters, dashboards, pictures, the projector.

    Scalars have their own names, but for chances, which have a group behind all others; the metric that chooses the
    best step has a group before them, too. Stands behind the evaluation, as it draws the model that was just evaluated.

    Args:
        folder: where the event file goes.
        recipe: the resolved recipe, as YAML.
        context: the data and the model, as evaluators see them.
        best: the metric of `eval.best`, which has the first chart.
        split: the held-out split that pictures are drawn from.
        tables: what the last evaluation said class by class, by the names of its evaluators.
    """

    def __init__(
        self,
        folder: Path,
        recipe: str,
        context: Context,
        best: str | None = None,
        split: str = "validation",
        tables: Mapping[str, ClassTable] = MappingProxyType({}),
    ) -> None:
        self.folder, self.recipe, self.context, self.split, self.tables = folder, recipe, context, split, tables
        self.best = best
        self._writer: SummaryWriter | None = None
        self.gallery: Gallery | None = None
        self._draws = True
        self._evaluated = False
        self._laid_out = False
        self._ended = False
        self._chances: dict[str, float] = {}
        """what a guess scores, by its tag, as it was written last"""

    def on_start(self, engine: Engine) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # TensorBoard takes a second to import

        # a resumed run repeats the steps after its checkpoint, and without one step 0: what was written is withdrawn
        self._writer = SummaryWriter(str(self.folder), purge_step=engine.step + 1 if engine.step else 0, flush_secs=2)
        begin_session(self.folder, choose_hparams(engine.recipe))
        self.writer.add_text("recipe", f"```yaml\n{self.recipe}```", engine.step)
        for record in engine.metrics.records:  # the evaluation before the first step has already been
            self._write(record)
        engine.metrics.listeners.append(self._write)
        self._draw_evaluated(engine.step)

    def on_step(self, engine: Engine, logs: Logs) -> None:
        self._draw_evaluated(engine.step)

    def on_end(self, engine: Engine) -> None:
        self._ended = True
        engine.metrics.flush()
        with writing(self.folder):
            if not self._laid_out:
                self.writer.add_custom_scalars(layout({}))
            for tag, value in self._chances.items():
                self.writer.add_scalar(tag, value, engine.step)
            if self._draws and self._laid_out:  # without any evaluation nobody has said what is held out
                self._try(self._project, engine.step)

    def on_exit(self, engine: Engine) -> None:
        if self._writer:
            with writing(self.folder):
                self._writer.close()
            # a run that was asked to stop has neither succeeded nor failed: it will go on
            if engine.finished or not self._ended:
                end_session(self.folder, "success" if self._ended else "failure")

    @property
    def writer(self) -> SummaryWriter:
        assert self._writer, "opened at the start"
        return self._writer

    def _write(self, record: Record) -> None:
        with writing(self.folder):
            self._add(record)

    def _add(self, record: Record) -> None:
        for name, value in record.items():
            if name not in ("step", "samples") and value is not None:
                for tag in list_tags(name, self.best):
                    self._add_scalar(tag, value, record["step"])
        if any(name.startswith("eval/") for name in record):
            self._evaluated = True
            if not self._laid_out:  # only now is it known what there is to see
                self.writer.add_custom_scalars(layout(record, self.best))
                self._laid_out = True

    def _add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write a value; of what a guess scores only the ends, which make a line without a mark at every evaluation."""
        if tag.startswith(f"{LAST}/"):
            if self._chances.get(tag) == value:
                return
            self._chances[tag] = value
        self.writer.add_scalar(tag, value, step)

    def _draw_evaluated(self, step: int) -> None:
        if self._evaluated and self._draws:
            self._try(self._draw, step)
        self._evaluated = False

    def _try(self, draw: Any, step: int) -> None:
        try:
            self.gallery = self.gallery or Gallery.of(self.context, self.split)
            draw(self.gallery, step)
        except Exception as error:
            self._draws = False
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            sys.stderr.write(f"TensorBoard: no more pictures from step {step} on: {reason}\n")

    def _draw(self, gallery: Gallery, step: int) -> None:
        for name, table in list(self.tables.items())[:MAPS]:
            if table.pairs is not None:
                self._picture(f"confusion/{name}", confusion_picture(table, f"{name} at step {step}"), step)
                self.writer.add_text(f"confusion/{name}", "  \n".join(say_confusions(table)), step)
        views = gallery.embed(self.context)
        for query, candidates in gallery.pairs()[:MAPS]:
            self._heat_map(gallery, views, query, candidates, step)
        shown, text = gallery.first(*SHOWN), gallery.first("text")
        if shown and text:
            self._retrieved(gallery, views, shown, text, step)
            self._retrieved(gallery, views, text, shown, step)

    def _heat_map(self, gallery: Gallery, views: Views, query: Side, candidates: Side, step: int) -> None:
        rows, columns = gallery.matches(query, candidates, MAP_ROWS)
        scores = self._scores(views, query, candidates)[np.ix_(rows, columns)]
        asked, searched = ([gallery.labels[s][i] for i in at] for s, at in ((query, rows), (candidates, columns)))
        title = f"{query} (rows) with {candidates}: {len(rows)} held-out pairs at step {step}, matches on the diagonal"
        figure = embeddings.heat_map(scores, asked, searched, title)
        self._picture(f"similarity/{query}~{candidates}", figure, step)

    def _retrieved(self, gallery: Gallery, views: Views, query: Side, candidates: Side, step: int) -> None:
        rows, _ = gallery.matches(query, candidates, QUERIES)
        scores = self._scores(views, query, candidates)[rows]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :ANSWERS]
        asked, found = gallery.examples[query], gallery.examples[candidates]
        items, raw = next(iter(found.raw.values())), next(iter(asked.raw.values()))
        answers = [
            [embeddings.Answer(items[j], line[j], bool(found.ids[j] == asked.ids[i])) for j in top]
            for i, line, top in zip(rows, scores, best.tolist(), strict=True)
        ]
        nouns = NOUNS[gallery.kinds[candidates]]
        title = f"top {best.shape[1]} of {len(found.ids)} {nouns} at step {step}, right ones in green"
        if gallery.kinds[query] != "text":
            queries = [(raw[i], gallery.labels[query][i]) for i in rows]
            figure = embeddings.retrieved_texts(queries, answers, title)
        else:
            figure = embeddings.retrieved_images([gallery.labels[query][i] for i in rows], answers, title)
        self._picture(f"retrieval/{query}_to_{candidates}", figure, step)

    def _project(self, gallery: Gallery, step: int) -> None:
        """The embedding projector: every item of the plain sides in one cloud."""
        views = gallery.embed(self.context)
        sides = [side for side, kind in gallery.kinds.items() if kind != "fused"]
        if not sides:
            return
        tag, pictures = "held_out", None
        if gallery.first(*SHOWN):
            raw = [item for side in sides for items in gallery.examples[side].raw.values() for item in items]
            pictures = torch.from_numpy(np.stack([embeddings.thumbnail(item, THUMBNAIL) for item in raw]))
        metadata = [[embeddings.short(label, 80), str(side)] for side in sides for label in gallery.labels[side]]
        # the same step may have been written by a run that was stopped there; TensorBoard would complain on stdout
        shutil.rmtree(self.folder / f"{step:05d}" / tag, ignore_errors=True)
        z = torch.cat([views[side].z[:, 0] for side in sides])
        self.writer.add_embedding(z, metadata, pictures, step, tag, metadata_header=["name", "modality"])

    def _scores(self, views: Views, query: Side, candidates: Side) -> np.ndarray:
        with torch.no_grad():
            return self.context.objective.score({query: views[query]}, {candidates: views[candidates]}).numpy()

    def _picture(self, tag: str, figure: Any, step: int) -> None:
        self.writer.add_image(tag, embeddings.pixels(figure), step, dataformats="HWC")
