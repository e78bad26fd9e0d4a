"""Memory is linear in the number of rows, counted tensor by tensor, and once as the process sees it."""

from __future__ import annotations

import subprocess
import sys
import weakref
from functools import partial

import pytest
import torch
from loss_arguments import Inside
from torch.nn.functional import normalize

import kernels
import kernels.chunked.logits
import kernels.chunked.small

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")


class Live(Inside):
    """Counts the bytes of all live tensors that operators return, and remembers the most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.storages = set()

    def release(self, key, size):
        self.storages.discard(key)
        self.now -= size

    def seen(self, func, result):
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.storages:
                    self.storages.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.release, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)


def peak(
    loss: str, n: int, num_ids: int, backend: str = "chunked", prefixes: list[int] | None = None, **options: float
) -> int:
    x, y = (normalize(torch.randn(n, 4), dim=1).requires_grad_() for _ in range(2))
    t, ids = torch.tensor(10.0, requires_grad=True), torch.arange(n) % num_ids
    with Live() as live:
        infonce, sigmoid = kernels.multi_positive_infonce, kernels.multi_positive_sigmoid
        if prefixes:
            infonce, sigmoid = (partial(kernels.matryoshka, f, prefixes=prefixes) for f in (infonce, sigmoid))
        if loss == "contrast_lse":
            value = torch.cat(kernels.contrast_lse(x, y, t, backend=backend)).sum()
        elif loss == "sigmoid":
            value = sigmoid(x, y, t, -1.0, ids, ids, backend=backend)
        else:
            value = infonce(x, y, t, ids, ids, positives=loss, backend=backend, **options)
        value.backward()
    return live.peak


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("positives", ["two each", "half of all"])
def test_peak_is_linear(loss, positives, monkeypatch):
    monkeypatch.setattr(kernels.chunked.small, "CELLS", 0)  # up to 2^20 logits are kept as they are, 4 MiB
    monkeypatch.setattr(kernels.chunked.logits, "CELLS", 2**12)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_ROWS", 4)
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 2**13)
    small, large = (peak(loss, n, n // 2 if positives == "two each" else 2) for n in (256, 512))
    assert large < 2.1 * small
    assert large < 512 * 512 * 4 / 2  # bytes of half a matrix of logits


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"loss": "each", "label_smoothing": 0.1}, {"loss": "sigmoid"}])
def test_peak_with_prefixes_is_linear(options, monkeypatch):
    """The chunks of 4 rows of three prefixes, and what is kept of the whole alone."""
    monkeypatch.setattr(kernels.chunked.logits, "CELLS", 2**12)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_ROWS", 4)
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 2**13)
    small, large = (peak(n=n, num_ids=n // 2, prefixes=[1, 2, 4], **options) for n in (256, 512))
    assert large < 2.1 * small
    assert large < 512 * 512 * 4 / 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"false_negative_margin": 0.0}])
def test_peak_with_features_is_linear(options, monkeypatch):
    monkeypatch.setattr(kernels.chunked.logits, "CELLS", 2**12)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_ROWS", 4)
    monkeypatch.setattr(kernels.chunked.logits, "KEPT_CELLS", 2**13)
    for loss in ("mean", "each"):
        small, large = (peak(loss, n, n // 2, **options) for n in (256, 512))
        assert large < 2.1 * small
        assert large < 512 * 512 * 4 / 2


def test_the_count_sees_a_matrix():
    assert peak("mean", 512, 256, backend="reference") > 3 * 512 * 512 * 4


@pytest.mark.slow
def test_peak_of_the_process():
    """8192 x 8192 float32 logits are 256 MiB, and the dense loss holds several; here a quarter of one is kept."""
    program = """
import resource, torch, kernels, kernels.chunked.logits
kernels.chunked.logits.KEPT_CELLS = 2**24
torch.set_num_threads(1)
def loss(n):
    x, y = (torch.nn.functional.normalize(torch.randn(n, 8), dim=1).requires_grad_() for _ in range(2))
    kernels.multi_positive_infonce(x, y, 10.0, torch.arange(n) // 2, torch.arange(n) // 2).backward()
loss(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss(8192)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)
    assert int(done.stdout) < 128 * 1024  # KiB
