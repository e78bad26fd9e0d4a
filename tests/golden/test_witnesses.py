"""Runs that the version before the rooms (0.1.0, commit 5f7c1a4) left halfway: whatever is rebuilt, they must resume.

Each folder of `runs/` holds a checkpoint at step 8 of 12 (ITO: 3 of 6) and the metrics of the whole run as that version
computed them; `csv` has no checkpoint, but a recipe with keys that are said otherwise now, and begins again. The trap:
a witness is never renewed. A change that breaks one breaks users' runs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from forked import fork_ranks, wb

import workbench
from workbench.recipe.schema import load_recipe
from workbench.runs.inference import evaluate_run
from workbench.runs.train import train

RUNS = Path(__file__).parent / "runs"
PROCESSES = {"ddp2": 2, "fsdp": 2, "hybrid": 4}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_clock(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith("time/")}


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a witness."""
    return Path(shutil.copytree(RUNS / request.param, tmp_path / request.param))


def started_at(run: Path) -> int:
    return max(int(path.name[5:]) for path in (run / "checkpoints").iterdir())


def assert_it_went_on_as_then(run: Path, started: int, said: str) -> None:
    assert f"step-{started} (step {started}" in said
    then, now = lines(RUNS / run.name / "metrics.jsonl"), lines(run / "metrics.jsonl")
    assert [line["step"] for line in now] == [line["step"] for line in then]
    for before, after in zip(then, now, strict=True):
        if before["step"] > started:  # other processors round the last digits otherwise
            then_known = {name: after[name] for name in before}  # a later version may record more
            assert without_clock(then_known) == pytest.approx(without_clock(before), rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["one", "ito"], indirect=True)
def test_a_run_of_the_version_before_goes_on_as_it_would_have(run: Path) -> None:
    started, said = started_at(run), list[str]()
    assert train(load_recipe(run / "recipe.yaml"), run, say=said.append).finished
    assert_it_went_on_as_then(run, started, "\n".join(said))


@pytest.mark.slow
@pytest.mark.parametrize("run", ["csv"], indirect=True)
def test_a_recipe_in_the_words_of_the_version_before_trains_as_it_did(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures with one or two captions, in a list: the same order, choice, augmentation and losses."""
    monkeypatch.chdir(RUNS.parent)
    train(load_recipe(run / "recipe.yaml"), tmp_path / "again")
    then, now = (lines(folder / "metrics.jsonl") for folder in (run, tmp_path / "again"))
    assert [line["step"] for line in now] == [line["step"] for line in then]
    for before, after in zip(then, now, strict=True):
        known = {name: after[name] for name in before}
        assert without_clock(known) == pytest.approx(without_clock(before), rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run", PROCESSES, indirect=True)
def test_a_run_of_several_processes_goes_on_as_it_would_have(run: Path) -> None:
    started = started_at(run)
    words = ("pretrain", str(run / "recipe.yaml"), "--run", str(run), "--nproc", str(PROCESSES[run.name]))
    result = wb(*words, before=fork_ranks)
    assert result.returncode == 0, result.stderr
    assert_it_went_on_as_then(run, started, result.stderr)


@pytest.mark.parametrize("run", ["one", "fsdp", "hybrid"], indirect=True)
def test_it_is_evaluated_however_its_weights_were_divided(run: Path) -> None:
    step, metrics = evaluate_run(run)
    assert step == 8
    assert metrics["synthetic/chance"] == 0.125
    assert metrics["synthetic/floor"] < metrics["synthetic/loss"]


@pytest.mark.parametrize("run", ["one"], indirect=True)
def test_its_best_checkpoint_gives_the_value_that_made_it_the_best(run: Path) -> None:
    step, metrics = evaluate_run(run, "best")
    state = json.loads((run / "checkpoints" / "step-8" / "state.json").read_text())
    assert (step, metrics["synthetic/accuracy"]) == (state["best"]["step"], state["best"]["value"])


@pytest.mark.parametrize("run", ["ito"], indirect=True)
def test_it_is_loaded(run: Path) -> None:
    texts = workbench.load(run).encode_text(["a red heart", "a cat"])
    assert texts.shape == (2, 16)
    assert texts.norm(dim=1).tolist() == pytest.approx([1, 1])
