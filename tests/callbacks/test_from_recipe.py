"""Callbacks of a recipe: they look on, change no number, and what goes wrong in one is told under its name."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from small_engines import built

from workbench.build import build_parts
from workbench.callbacks.from_recipe import FromRecipe
from workbench.callbacks.optional._tracker import Tracker, name_run
from workbench.engine import Engine
from workbench.errors import RankLost
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.runs.train import train
from workbench.training.metrics import Record, read

OWN = '''
import json, random
import torch

class Notes:
    """Writes down what it saw, and draws random numbers as it does."""

    def __init__(self, *, file: str, fail_at: int | None = None):
        self.file, self.fail_at = file, fail_at

    def on_start(self, engine):
        self.note(engine, "start")

    def on_step(self, engine, logs):
        torch.rand(3), random.random()
        if engine.step == self.fail_at:
            raise KeyError("no such field")
        self.note(engine, f"{float(logs['loss']):.4f}")

    def note(self, engine, what):
        with open(self.file, "a") as file:
            file.write(json.dumps([engine.step, what, str(engine.folder), engine.recipe["name"]]) + "\\n")
'''


@pytest.fixture
def small(tmp_path: Path) -> Any:
    """A recipe of 4 steps, saved every 2, with these callbacks."""
    (tmp_path / "notes.py").write_text(OWN)

    def recipe(callbacks: object = None, steps: int = 4) -> Recipe:
        return parse_recipe(
            {
                "name": "x",
                "data": {"name": "synthetic", "task": "xor", "samples": 64},
                "model": {"dim": 4, "encoders": dict.fromkeys("abc", "mlp"), "fusion": {"name": "mlp", "dropout": 0.1}},
                "objective": "confu",
                "train": {"for": f"{steps} steps", "schedule": {"for": "4 steps"}, "batch": 16},
                "eval": {"every": "2 steps", "synthetic": {"batches": 2, "samples": 32}},
                "checkpoint": {"every": "2 steps"},
                "parallel": {"workers": 0},
                "log": {"tensorboard": False},
                "callbacks": callbacks,
            }
        )

    return recipe


def notes(folder: Path, **more: object) -> dict[str, object]:
    return {"notes": {"name": f"{folder}/notes.py:Notes", "file": str(folder / "notes.jsonl"), **more}}


def losses(run: Path) -> list[float]:
    return [record["train/loss"] for record in read(run / "metrics.jsonl") if "train/loss" in record]


@pytest.mark.slow
def test_it_sees_every_step_and_a_resume_may_bring_or_drop_it(small: Any, tmp_path: Path) -> None:
    train(small(), tmp_path / "without")
    train(small(steps=2), tmp_path / "run")
    train(small(notes(tmp_path), steps=3), tmp_path / "run")
    train(small(), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "without")
    seen = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    expected = f"{losses(tmp_path / 'run')[2]:.4f}"
    assert seen == [[2, "start", str(tmp_path / "run"), "x"], [3, expected, str(tmp_path / "run"), "x"]]


@pytest.mark.slow
def test_what_it_raises_names_it_and_the_run_goes_on_without_it(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        train(small(notes(tmp_path, fail_at=3)), tmp_path / "run")
    said = str(error.value)
    assert f"callback '{tmp_path}/notes.py:Notes' has failed in on_step at step 3: KeyError: 'no such field'" in said
    assert "--set callbacks.notes=null" in said
    assert 'raise KeyError("no such field")' in said
    assert train(small(), tmp_path / "run").finished


@pytest.mark.slow
def test_sys_exit_ends_no_run_without_a_word(small: Any, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(
        "import sys\nfrom workbench.objectives.clip import CLIP\n\n"
        "class Leaves:\n    def on_step(self, engine, logs):\n        sys.exit(0)\n\n"
        "class Loss(CLIP):\n    def forward(self, z, pool):\n        sys.exit(3)\n"
    )
    with pytest.raises(ValueError, match=r"callback '.*leaves.py:Leaves' has failed in on_step at step 1: SystemExit"):
        train(small({"leaves": {"name": f"{tmp_path}/leaves.py:Leaves"}}), None)
    tree: Any = small().as_dict() | {"objective": f"{tmp_path}/leaves.py:Loss", "eval": {"start": False}}
    with pytest.raises(ValueError, match=r"at step 0 code that the training called has ended the program: SystemExit"):
        train(parse_recipe(tree), None)


def test_settings_that_it_refuses_are_told_before_anything_is_read(small: Any, tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(
        "class Picky:\n    def __init__(self, *, often: int = 0):\n        if not often:\n"
        "            raise ValueError('often: write a number above 0')\n    def on_end(self, engine): ...\n"
    )
    with pytest.raises(ValueError, match=r"picky.py:Picky': often: write a number above 0"):
        build_parts(small([f"{tmp_path}/picky.py:Picky"]))
    build_parts(small([f"{tmp_path}/picky.py:Picky"]), training=False)  # whoever evaluates a run needs no callbacks


class Service:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Record]] = []
        self.how: list[object] = []

    def log(self, values: Record, /, *, step: int) -> None:
        self.sent.append((step, values))

    def finish(self, *, exit_code: int = 0) -> None:
        self.how.append(exit_code)


class Sends(Tracker):
    def __init__(self) -> None:
        super().__init__("torch")
        self.service = Service()

    def open(self, engine: Engine) -> Service:
        self.service.how += name_run(engine)
        return self.service


def test_a_tracker_sends_every_record_once(small: Any, tmp_path: Path) -> None:
    sends = Sends()
    sent = sends.service
    recipe = small().model_copy(update={"name": "study/clip-seed3"})
    train(recipe, tmp_path / "clip-seed3", callbacks=[sends])
    records = read(tmp_path / "clip-seed3/metrics.jsonl")
    assert sent.sent == [(r["step"], {k: v for k, v in r.items() if k != "step"}) for r in records]
    assert sent.how == ["study", "clip-seed3", "clip", 0]


def test_a_tracker_tells_of_a_training_that_failed(small: Any, tmp_path: Path) -> None:
    sends = Sends()
    with pytest.raises(ValueError, match="no such field"):
        train(small(notes(tmp_path, fail_at=2)), callbacks=[sends])
    assert sends.service.how == ["x", "x", None, 1]


def test_only_the_first_process_sends(small: Any) -> None:
    class Elsewhere:
        """An engine as another process has it."""

        class parallel:  # noqa: N801
            rank = 1

    sends: Any = Sends()
    sends.on_start(Elsewhere())
    sends.on_exit(Elsewhere())
    assert sends.service.how == []


def test_a_package_that_is_missing_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("none_such", "a_folder"):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "a_folder").mkdir(exist_ok=True)  # as trackers leave one behind where they ran
        with pytest.raises(ValueError, match=rf"pip install 'multimodal-workbench\[{name}\]'"):
            Tracker(name)


def test_what_another_process_caused_keeps_its_type() -> None:
    class Waits:
        def on_start(self, engine: object) -> None:
            raise RankLost("gone")

    with pytest.raises(RankLost):
        FromRecipe("waits", "waits.py:Waits", Waits()).on_start(built()[1])


def test_what_it_does_with_a_record_is_told_under_its_name_too() -> None:
    class Hears:
        def on_start(self, engine: Engine) -> None:
            engine.metrics.listeners.append(lambda record: record["none/such"])

    engine = built()[1]
    FromRecipe("hears", "hears.py:Hears", Hears()).on_start(engine)
    with pytest.raises(ValueError, match=r"callback 'hears.py:Hears' has failed in a listener at step 0: KeyError"):
        engine.metrics.record(0, 0, {"x": 1.0})


@pytest.mark.slow
def test_wandb_keeps_a_resumed_run_as_one(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip("wandb")
    train(small("wandb", steps=2), tmp_path / "run")
    train(small("wandb"), tmp_path / "run")
    found = sorted((tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb"))
    (name,) = {file.name for file in found}
    assert name == f"run-{(tmp_path / 'run/wandb/id.txt').read_text().strip()}.wandb"
    assert [step for file in found for step in _steps_sent(file)] == [0, 1, 2, 3, 4]


def _steps_sent(file: Path) -> list[int]:
    """Read the steps of the metrics in a file of W&B: records of protobuf in blocks, as LevelDB's log has them."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports] an extra

    content, at, steps, record = file.read_bytes(), 7, list[int](), b""
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # no header fits into the rest of a block
            at += 2**15 - at % 2**15
            continue
        _, length, part = struct.unpack_from("<IHB", content, at)
        record = content[at + 7 : at + 7 + length] if part in (1, 2) else record + content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            parsed: Any = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            steps += [parsed.history.step.num] if parsed.HasField("history") else []
    return steps


@pytest.mark.slow
def test_trackio_keeps_a_resumed_run_as_one(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when the package is imported
    pytest.importorskip("trackio")
    train(small("trackio", steps=2), tmp_path / "run")
    train(small("trackio"), tmp_path / "run")
    assert capsys.readouterr().out == ""
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports] an extra

    sent = SQLiteStorage.get_logs("run", "run")
    assert [entry["step"] for entry in sent] == [0, 1, 2, 2, 3, 4, 4]  # evaluations are records of their own
    assert [entry["train/loss"] for entry in sent if "train/loss" in entry] == pytest.approx(losses(tmp_path / "run"))
