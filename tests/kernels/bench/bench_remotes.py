"""The tests of the benchmark share a clock that they set, a remote without a process, and a plan of a few turns."""

from __future__ import annotations

from kernels.bench.compare import Plan
from kernels.bench.measuring import Runner
from kernels.bench.tuning import GPU_METHODS
from kernels.bench.worker import Failed

ABOUT = {"device": "a cpu", "torch": "2", "triton": "3", "threads": 1}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Here:
    """Stands for a remote, without a process."""

    def __init__(self, overrides=None):
        self.runner, self.overrides, self.closed = Runner("cpu"), overrides or {}, False

    def call(self, method, timeout, /, **arguments):
        assert not self.closed
        if method in self.overrides:
            return self.overrides[method](**arguments)
        try:
            if method in GPU_METHODS:
                return GPU_METHODS[method](self.runner, **arguments)
            return getattr(self.runner, method)(**arguments)
        except (ImportError, ValueError, RuntimeError, MemoryError) as error:
            raise Failed(str(error)) from error

    def close(self):
        self.closed = True


PLAN = Plan("cpu", ("full",), rounds=3, error_rows=8)
