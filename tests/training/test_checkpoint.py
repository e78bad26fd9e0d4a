"""A checkpoint is whole or does not count."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.training import checkpoint, checkpoint_files
from workbench.training.checkpoint_files import DamagedCheckpoint, State
from workbench.training.metrics import Best
from workbench.training.optim import named_state


def trained() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    model, objective = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()])
    for _ in range(3):
        objective(model(torch.randn(8, 3))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, objective, optimizer


def everything(model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    both = checkpoint.under_names(model, objective)
    return dict(both.state_dict()) | named_state(optimizer, both)


def test_all_state_comes_back_bitwise(tmp_path: Path) -> None:
    before, after = trained(), trained()
    path = checkpoint.save(tmp_path, *before, State(3, Best("r/mean", 0.5, 2)))
    state = checkpoint.load(path, *after)
    assert state == State(3, Best("r/mean", 0.5, 2))
    a, b = everything(*before), everything(*after)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(name.endswith("exp_avg_sq") for name in a)


def test_files_are_readable_by_others_and_hold_no_pickle(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), State(1))
    assert {p.name for p in path.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "manifest.json",
    }
    assert (path / "model.safetensors").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("damage", ["truncated", "bit flip", "no manifest", "missing file", "half manifest"])
def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    good = checkpoint.save(tmp_path, *trained(), State(1))
    bad = checkpoint.save(tmp_path, *trained(), State(12))
    weights, manifest = bad / "model.safetensors", bad / "manifest.json"
    match damage:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-5])
        case "bit flip":
            content = bytearray(weights.read_bytes())
            content[-3] ^= 4
            weights.write_bytes(content)
        case "no manifest":
            manifest.unlink()
        case "missing file":
            (bad / "optimizer.safetensors").unlink()
        case _:
            manifest.write_text(manifest.read_text()[:20])
    found, complaints = checkpoint_files.newest(tmp_path)
    assert found == good
    assert len(complaints) == 1
    assert "step-12" in complaints[0]
    with pytest.raises(DamagedCheckpoint):
        checkpoint_files.verify(bad)


def test_an_interrupted_save_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = checkpoint.save(tmp_path, *trained(), State(1))
    monkeypatch.setattr(checkpoint, "_write_tensors", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, *trained(), State(2))
    assert checkpoint_files.newest(tmp_path) == (good, [])


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, *trained(), State(step))
    checkpoint_files.prune(tmp_path, 2, State(20, Best("x", 1.0, 5)))
    assert [p.name for p in checkpoint_files.saved(tmp_path)] == ["step-5", "step-15", "step-20"]


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), State(1))
    model, objective, optimizer = trained()
    with pytest.raises(ValueError, match="belongs to another model"):
        checkpoint.load(path, nn.Sequential(model, nn.Linear(4, 4)), objective, optimizer)


def test_a_tensor_that_the_model_lacks_is_refused_by_name(tmp_path: Path) -> None:
    model, objective, optimizer = trained()
    path = checkpoint.save(tmp_path, model, objective, optimizer, State(1))
    fewer = nn.Sequential(model[0])
    with pytest.raises(ValueError, match=r"belongs to another model: 5 tensors differ, such as model\.1\.bias"):
        checkpoint.load_weights(checkpoint.under_names(fewer, objective), path)


def test_the_manifest_names_every_file_but_the_state_and_its_size(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), State(1))
    manifest = json.loads((path / "manifest.json").read_text())
    assert {name: facts["bytes"] for name, facts in manifest.items()} == {
        p.name: p.stat().st_size for p in path.iterdir() if p.name not in ("manifest.json", "state.json")
    }


def test_damaged_checkpoints_that_the_run_has_passed_do_not_count_and_go(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20, 25):
        checkpoint.save(tmp_path, *trained(), State(step))
    checkpoint_files.prune(tmp_path, 2, State(20), keep_every=15, damaged={15, 25})
    assert [p.name for p in checkpoint_files.saved(tmp_path)] == ["step-10", "step-20", "step-25"]


def test_a_state_that_was_amended_is_whole_and_a_changed_one_is_not(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), State(3))
    manifest = json.loads((path / "manifest.json").read_text())
    checkpoint_files.amend(path, State(3, Best("r/mean", 0.25, 3)))
    checkpoint_files.verify(path)
    assert checkpoint_files.read_state(path).best == Best("r/mean", 0.25, 3)
    assert sorted(p.name for p in path.iterdir()) == sorted([*manifest, "manifest.json", "state.json"])
    state = (path / "state.json").read_text()
    for damaged in (state.replace("0.25", "0.75"), state[:-4], "", "[]"):
        (path / "state.json").write_text(damaged)
        with pytest.raises(DamagedCheckpoint, match=r"state\.json"):
            checkpoint_files.verify(path)


def test_the_state_of_a_version_that_listed_it_can_be_amended(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, *trained(), State(3))
    (path / "state.json").write_text('{"step": 3, "best": null}')
    manifest = json.loads((path / "manifest.json").read_text())
    digest = hashlib.blake2b((path / "state.json").read_bytes()).hexdigest()[:32]
    (path / "manifest.json").write_text(json.dumps(manifest | {"state.json": {"bytes": 25, "blake2b": digest}}))
    checkpoint_files.verify(path)
    checkpoint_files.amend(path, State(3, Best("r/mean", 0.25, 3)))
    checkpoint_files.verify(path)
