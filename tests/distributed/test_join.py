"""Who is alone, who joins others, and what is said where others are promised that cannot be found."""

import pytest
import torch.distributed as dist

from workbench.distributed.processes import Parallel, device

NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_constructing_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    parallel = Parallel()
    assert not dist.is_initialized()
    assert (parallel.world, parallel.rank, parallel.group, parallel.device) == (1, 0, None, device())


def test_a_rank_without_an_address_names_what_starts_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"RANK=1 is set without MASTER_ADDR, MASTER_PORT, so.*--nproc N.*torchrun"):
        Parallel.join()


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"},
    ],
)
def test_tasks_of_srun_are_refused(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"of 4 that srun started.*--nproc N` or torchrun"):
        Parallel.join()


def test_a_batch_script_of_slurm_may_train_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert Parallel.join().world == 1
