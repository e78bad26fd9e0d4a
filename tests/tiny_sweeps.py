"""A sweep of tiny runs that are trained in the test's own process, one after the other, as a worker would."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workbench.data.emoji import FILES, PACKAGED
from workbench.studies.side_by_side import Failed, Job, Outcome, Progress, Trained
from workbench.studies.worker import Order, _outcome

BASE = """
name: small
data: {name: synthetic, task: {name: xor}, samples: 64, held_out: 32}
model: {dim: 8, encoders: {a: {name: mlp, width: 8}, b: {name: mlp, width: 8}, c: {name: mlp, width: 8}}, fusion: mlp}
objective: {name: confu, lambda: 0.5}
train: {for: 2 steps, batch: 32}
eval: {every: 1 steps, best: min synthetic/loss, synthetic: {batches: 2, samples: 32}}
checkpoint: {every: 1 steps}
parallel: {workers: 0}
log: {tensorboard: false}
"""
SWEEP = """
name: it
base: small.yaml
seeds: 2
arms: {clip: {objective: clip}, confu: {}}
"""
BROKEN = """
from workbench.objectives.clip import CLIP

class Broken(CLIP):
    def forward(self, z, pool):
        raise ArithmeticError("the loss went astray\\nand more of it")
"""


def write_sweep(folder: Path, text: str = SWEEP) -> Path:
    (folder / "small.yaml").write_text(BASE)
    (folder / "astray.py").write_text(BROKEN)
    path = folder / "sweep_of.yaml"
    path.write_text(text)
    return path


def write_small_emoji(folder: Path) -> Path:
    """Write a twentieth of the packaged emoji: all concepts, and the drawings of every twentieth of them."""
    concepts = pq.read_table(PACKAGED / "concepts.parquet")
    kept = pa.array(concepts["concept"].to_pylist()[::20])
    for file in FILES.values():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(PACKAGED / file)
        pq.write_table(table.filter(pc.is_in(table["concept"], kept)), folder / file, write_page_checksum=True)
    pq.write_table(concepts, folder / "concepts.parquet", write_page_checksum=True)
    return folder


def train_here(
    jobs: Sequence[Job],
    at_once: int,
    progress: Callable[[Sequence[Progress]], None] = lambda _: None,
    *,
    threads: int = 1,
    wait: bool = False,
) -> Generator[tuple[int, Outcome], None, None]:
    """Stand in for `side_by_side.train_all`."""
    assert at_once >= 1
    assert threads >= 1
    found = [Progress() for _ in jobs]
    for index, job in enumerate(jobs):
        order = Order(recipe=job.recipe.as_dict(), folder=str(job.folder), log=None, command=["wb", "sweep"])
        news = io.StringIO()
        last = _outcome(json.loads(json.dumps(order)), news)
        steps = [json.loads(line) for line in news.getvalue().splitlines()]
        assert all(line["steps"] for line in steps)
        found[index] = Progress("ended", *((steps[-1]["step"], steps[-1]["steps"]) if steps else ()))
        progress(found)
        yield index, Failed(**last_words(last)) if "failed" in last else Trained(**last)  # type: ignore[arg-type]


def last_words(last: object) -> dict[str, str]:
    assert isinstance(last, dict)
    return {"kind": last["failed"], "said": last["said"]}
