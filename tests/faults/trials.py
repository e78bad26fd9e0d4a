"""Real runs to be broken: the command itself, each in a process of its own that may be killed."""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import start
from noisy_pairs import DATA

from workbench.training.metrics import read

RECIPE = """
name: small
seed: 5
data: {{name: '{data}:Pairs'}}
model: {{dim: 8, encoders: {{a: {{name: mlp, width: {width}, depth: 3, dropout: 0.1}}, b: mlp}}}}
objective: clip
train: {{for: {steps} steps, batch: 32, microbatch: 16, lr: 0.01, warmup: 5 steps, layer_decay: 0.9}}
eval: {{every: 20 steps, best: retrieval/mean_recall, retrieval: {{query: a, candidates: b}}}}
checkpoint: {{every: 7 steps, keep: 2, keep_every: 14 steps}}
parallel: {{workers: 0}}
log: {{tensorboard: false}}
"""


def write_recipe(folder: Path, width: int = 16, steps: int = 60) -> Path:
    (folder / "pairs.py").write_text(DATA)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "pairs.py", width=width, steps=steps))
    return path


class Trial:
    """`wb pretrain RECIPE --run RUN --set ...`, in a process of its own; `before` is called in it first."""

    options: tuple[str, ...] = ()

    def __init__(self, recipe: Path, run: Path, *settings: str, before: Callable[[], None] | None = None) -> None:
        self.run, self.output = run, recipe.with_name(f"said.{time.monotonic_ns()}.txt")
        arguments = ["pretrain", str(recipe), "--run", str(run), *(a for s in settings for a in ("--set", s))]
        arguments += self.options
        self.process = start(arguments, self.output, self.output, before)

    def wait(self) -> tuple[int, str]:
        """(exit status, everything it said)"""
        self.process.join(120)
        assert self.process.exitcode is not None, f"still running after two minutes: {self.said}"
        return self.process.exitcode, self.said

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def step(self) -> int:
        return last_step(self.run)

    def wait_until(self, there: Callable[[], Any]) -> None:
        """Returns when it is there, or when the process has ended."""
        deadline = time.monotonic() + 60
        while not self.ended and not there() and time.monotonic() < deadline:
            time.sleep(0.0005)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def finish(recipe: Path, run: Path, *settings: str, before: Callable[[], None] | None = None) -> tuple[int, str]:
    """(exit status, everything it said) of a run that is left in peace."""
    return Trial(recipe, run, *settings, before=before).wait()


def left_in_peace(recipe: Path, kind: type[Trial] = Trial) -> Path:
    """The run of this recipe that nothing happens to."""
    run = recipe.parent / "whole"
    status, said = kind(recipe, run).wait()
    assert status == 0, said
    return run


def goes_on(recipe: Path, run: Path, whole: Path, *words: str, kind: type[Trial] = Trial) -> None:
    """The same command resumes it, says these words, and ends bitwise where the whole run did."""
    status, said = kind(recipe, run).wait()
    assert status == 0, said
    assert all(word in said for word in ("resuming from", *words)), said
    assert result(run) == result(whole)


def last_step(run: Path) -> int:
    records = read(run / "metrics.jsonl")
    return records[-1]["step"] if records else -1


def result(run: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What must not depend on a fault: every metric but the clock, and the files of the last checkpoint."""
    facts = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read(run / "metrics.jsonl")]
    newest = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    return facts, {path.name: path.read_bytes() for path in newest.iterdir()}


def assert_one_message(status: int, said: str, *words: str) -> None:
    """Status 1, one error, no traceback, and every one of these words in it."""
    assert status == 1, said
    assert "Traceback" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert all(word in errors[0] for word in words), errors[0]


# what `before` may do


def obey_permissions() -> None:
    """root may write everywhere; without CAP_DAC_OVERRIDE it may not."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    data[0] &= ~(1 << 1)
    assert libc.capset(header, data) == 0


def limit_files(size: int = 2**16) -> None:
    """Files may not grow over so many bytes: the kernel refuses in the middle of a write, as a full disk does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def poison() -> None:
    """Sample 77 of the data is no number."""
    os.environ["POISON"] = "77"
