"""Without a GPU the Triton kernels run in Triton's interpreter, which is asked for before triton is imported.

With `pytest -n 2` the workers share the cores: each takes its part of the threads, and so do the processes it starts.
"""

import os
import random
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Fresh draws, whose seed is printed; parameters in float64, as a scale made in float32 would be rounded."""
    seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(seed)
    print("seed", seed)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
