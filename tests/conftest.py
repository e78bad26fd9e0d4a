"""Without a GPU the Triton kernels run in Triton's interpreter, which is asked for before triton is imported.

With `pytest -n 2` the workers share the cores: each takes its part of the threads, and so do the processes it starts.
The process that only hands out tests to the workers needs no torch, and does not import it.
"""

import gc
import os
import random
import sys
from collections.abc import Iterator

import pytest

# a module is compiled once, not by each of the hundred processes that tests start
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Settle a process that runs tests before any test module is imported."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        torch.set_num_threads(threads)


def pytest_collection() -> None:
    """Importing makes a million objects that stay: looking for garbage among them, again and again, finds none."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, each worker with files of its own: xdist gives each an equal part of this list.

    Who is done takes from the end of another's part, where the tests are short.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in slow))}
    parts: list[pytest.Item] = []
    for worker in range(workers):
        parts += [item for item in slow if files[item.path] % workers == worker]
        room = max(0, (worker + 1) * len(items) // workers - len(parts))
        parts, quick = parts + quick[:room], quick[room:]
    if workers:
        items[:] = parts + quick


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Fresh draws, whose seed is printed; parameters in float64, as a scale made in float32 would be rounded."""
    import torch

    seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(seed)
    print("seed", seed)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_new_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the code spawns are forked from a server that has torch; spawned, each imports for seconds."""
    import multiprocessing.context

    from forked import server, start_worker

    from workbench.studies import side_by_side

    monkeypatch.setattr(side_by_side._Worker, "_start", start_worker)
    monkeypatch.setitem(multiprocessing.context._concrete_contexts, "spawn", server)  # type: ignore[attr-defined]
