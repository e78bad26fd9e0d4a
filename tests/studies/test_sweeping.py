"""A sweep is trained: what is kept, what goes on, what is named, and how its arms are summed up."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_sweeps import SWEEP, train_here, write_sweep

from workbench.errors import RecipeError
from workbench.recipe.schema import load_recipe
from workbench.runs.folder import read_recipe
from workbench.runs.train import train
from workbench.studies import sweeping
from workbench.studies.room import choose_at_once, plan, refuse_hopeless
from workbench.studies.sweep import read_sweep
from workbench.studies.sweeping import RunResult, Swept, find_state, train_sweep
from workbench.training.checkpoint_files import saved
from workbench.training.metrics import read


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "train_all", train_here)


def swept(folder: Path, text: str = SWEEP, *, fresh: bool = False) -> tuple[Swept, list[str], list[str]]:
    """Train a sweep; returns what came of it, what was said, and which runs were trained now."""
    said, done = list[str](), list[RunResult]()
    sweep = read_sweep(write_sweep(folder, text))
    found = train_sweep(sweep, folder / "r", jobs=1, fresh=fresh, say=said.append, on_done=done.append)
    return found, said, [run.run.name for run in done]


def facts(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read(run / "metrics.jsonl")]


@pytest.mark.slow
def test_runs_are_ordinary_runs_paired_by_their_seed_and_done_ones_are_kept(tmp_path: Path) -> None:
    found, said, trained = swept(tmp_path)
    assert trained == ["clip-seed0", "confu-seed0", "clip-seed1", "confu-seed1"]
    assert not said
    assert found.finished
    assert not found.failed
    alone = tmp_path / "alone"
    train(load_recipe(tmp_path / "small.yaml", ("objective=clip", "seed=1")), alone)
    assert facts(tmp_path / "r" / "clip-seed1") == facts(alone)
    assert read_recipe(tmp_path / "r" / "clip-seed1").name == "it/clip-seed1"
    losses = [run.metrics["eval/synthetic/loss"] for run in found.runs if run.arm == "confu"]
    assert found.metric == "eval/synthetic/loss"
    assert found.arms["confu"].mean == statistics.fmean(losses)
    assert found.arms["confu"].se == pytest.approx(abs(losses[0] - losses[1]) / 2)
    assert (found.arms["clip"].n, found.arms["clip"].overrides) == (2, {"objective": "clip"})
    assert json.loads(json.dumps(found.as_dict()))["arms"]["clip"]["n"] == 2
    best = [min(r["eval/synthetic/loss"] for r in facts(run.run) if "eval/synthetic/loss" in r) for run in found.runs]
    assert [run.best.value for run in found.runs if run.best] == best

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*") if path.name != ".lock"}
    again, _, trained = swept(tmp_path, SWEEP.replace("seeds: 2", "seeds: [1, 0]"))
    assert not trained
    assert {run.run.name: run.metrics for run in again.runs} == {run.run.name: run.metrics for run in found.runs}
    kept = {path: path.stat().st_mtime_ns for path in before if path.name not in ("sweep.yaml", "r")}
    assert kept.items() <= before.items()


@pytest.mark.slow
def test_what_was_begun_goes_on_and_ends_bitwise_where_it_would_have(tmp_path: Path) -> None:
    (run,) = read_sweep(write_sweep(tmp_path, "name: it\nbase: small.yaml\nseeds: [5]\n")).runs(tmp_path / "r")
    whole = tmp_path / "whole"
    train(run.recipe, whole)
    train(run.recipe, run.folder)
    (run.folder / "DONE").unlink()
    for step in saved(run.folder / "checkpoints")[1:]:
        (step / "model.safetensors").unlink()
    assert find_state(run)[0] == "begun"
    found, _, trained = swept(tmp_path, "name: it\nbase: small.yaml\nseeds: [5]\n")
    assert trained == ["base-seed5"]
    assert found.finished
    assert facts(run.folder) == facts(whole)
    weights = [(saved(path / "checkpoints")[-1] / "model.safetensors").read_bytes() for path in (run.folder, whole)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_is_named_with_its_own_message(tmp_path: Path) -> None:
    text = SWEEP.replace("confu: {}", f"broken: {{objective: '{tmp_path}/astray.py:Broken'}}")
    found, _, trained = swept(tmp_path, text)
    assert trained == ["clip-seed0", "broken-seed0", "clip-seed1", "broken-seed1"]
    assert [run.state for run in found.runs] == ["done", "failed"] * 2
    assert [run.error for run in found.failed] == ["the loss went astray\nand more of it"] * 2
    assert (found.arms["clip"].n, found.arms["broken"].n) == (2, 0)
    _, _, trained = swept(tmp_path, text)
    assert trained == ["broken-seed0", "broken-seed1"]


@pytest.mark.slow
def test_a_sweep_that_changed_keeps_what_is_the_same_and_names_the_rest(tmp_path: Path) -> None:
    swept(tmp_path)
    text = SWEEP.replace("clip: {objective: clip}", "clip: {objective: clip, train.lr: 0.5}").replace(
        "seeds: 2", "seeds: 3"
    )
    found, said, trained = swept(tmp_path, text + "set: {checkpoint.keep: 3, parallel.timeout: 5 minutes}\n")
    assert trained == ["clip-seed2", "confu-seed2"]
    assert [run.state for run in found.runs] == ["differs", "done", "differs", "done", "done", "done"]
    assert [line.partition(":")[0] for line in said] == ["clip-seed0 is left out", "clip-seed1 is left out"]
    assert all("train.lr: 0.001 -> 0.5" in line and "--fresh" in line for line in said)
    assert (found.arms["clip"].n, found.arms["confu"].n) == (1, 3), "runs of two recipes must not be mixed"
    found, said, trained = swept(tmp_path, text, fresh=True)
    assert trained == ["clip-seed0", "clip-seed1"]
    assert found.finished
    assert len(list((tmp_path / "r").glob("clip-seed0.*/DONE"))) == 1
    longer, said, trained = swept(tmp_path, text + "set: {train.for: 3 steps}\n")
    assert not trained, "a longer training from the end of a shorter one is another training"
    assert {run.state for run in longer.runs} == {"differs"}
    _, said, _ = swept(tmp_path, "name: it\nbase: small.yaml\narms: {confu: {}}\nseeds: 3\n")
    assert "3 more runs, which this sweep does not ask for: clip-seed0, clip-seed1, clip-seed2" in said[0]


def test_what_can_be_known_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    text = "name: it\nbase: small.yaml\narms: {clip: {objective: clip}, gram: {objective: comm, model.fusion: null}}\n"
    with pytest.raises(RecipeError, match="arm gram: "):
        swept(tmp_path, text)
    assert not list((tmp_path / "r").glob("clip-*"))
    runs = read_sweep(
        write_sweep(tmp_path, SWEEP.replace("base: small", "set: {data: {name: csv, path: no.csv}}\nbase: small"))
    )
    with pytest.raises((RecipeError, ValueError), match="arm clip"):
        refuse_hopeless(runs.runs(tmp_path / "r"))


def test_a_file_of_ones_own_is_no_copy(tmp_path: Path) -> None:
    sweep = read_sweep(write_sweep(tmp_path))
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    with pytest.raises(ValueError, match="a file of your own"):
        train_sweep(sweep, tmp_path)
    assert (tmp_path / "sweep.yaml").read_text() == SWEEP
    assert read_sweep(tmp_path).folder == Path("runs/it")


def test_so_many_at_once_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.studies import room

    runs, said = read_sweep(write_sweep(tmp_path)).runs(tmp_path / "r"), list[str]()
    monkeypatch.setattr(room, "list_gpus", list)
    monkeypatch.setattr(room, "count_cores", lambda: 3)
    each = room.GIB + room.PROCESS
    for free, wanted, most in ((10 * each, None, 3), (10 * each, 9, 4), (2.5 * each, None, 2), (0.5 * each, 2, 1)):
        monkeypatch.setattr(room, "free_memory", lambda free=free: int(free))
        assert choose_at_once(runs, wanted, said.append) == most
    assert len(said) == 2
    assert "3 runs at once would need 5.3 GiB, and 4.5 GiB are free: 2 at once" in said[0]


@pytest.mark.slow
def test_a_plan_knows_runs_hours_and_disk(tmp_path: Path) -> None:
    runs = read_sweep(write_sweep(tmp_path)).runs(tmp_path / "r")
    train(runs[0].recipe, runs[0].folder)
    newest = saved(runs[0].folder / "checkpoints")[-1]
    tensors = {what: load_file(newest / f"{what}.safetensors") for what in ("model", "optimizer")}
    weights = sum(x.nbytes for x in tensors["model"].values())
    moments = sum(x.nbytes for x in tensors["optimizer"].values() if x.numel() > 1)
    (found, one) = (plan(runs, [60.0, 120.0, None, None], 2, tmp_path), plan(runs[:1], [1.0], 1, tmp_path))
    assert (found.runs, found.done, found.at_once) == (4, 2, 2)
    assert found.hours == pytest.approx((60 + 120) / 2 / 3600)
    assert one.disk == pytest.approx(3 * (weights + moments), rel=0.05)  # keep: 2, and the best
