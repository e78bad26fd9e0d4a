"""What is refused, with the numbers and the remedy in the message; annotations hold; the package stands alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import kernels
from kernels import dispatch

X, Y = torch.randn(4, 3), torch.randn(6, 3)
X_IDS, Y_IDS = torch.arange(4), torch.arange(6)


def infonce(x=X, y=Y, scale=1.0, x_ids=X_IDS, y_ids=Y_IDS, **options):
    return kernels.multi_positive_infonce(x, y, scale, x_ids, y_ids, **options)


def sigmoid(x=X, y=Y, scale=1.0, bias=0.0, x_ids=X_IDS, y_ids=Y_IDS, **options):
    return kernels.multi_positive_sigmoid(x, y, scale, bias, x_ids, y_ids, **options)


def lse(x=X, y=Y, scale=1.0, **options):
    return kernels.contrast_lse(x, y, scale, **options)


ANY = [infonce, sigmoid, lse]
WITH_IDS = [infonce, sigmoid]


@pytest.mark.parametrize("function", ANY)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": torch.randn(4, 2, 3)}, r"x has shape \[4, 2, 3\].*flatten"),
        ({"y": torch.randn(6)}, r"y has shape \[6\]"),
        ({"x": torch.ones(4, 3, dtype=torch.int64)}, r"x is torch.int64.*\.float\(\)"),
        (
            {"x": torch.ones(4, 3, dtype=torch.complex64)},
            r"x is torch.complex64.*float16, bfloat16, float32 or",
        ),
        ({"y": torch.ones(6, 3).to(torch.float8_e4m3fn)}, r"y is torch.float8_e4m3fn.*\.float\(\)"),
        ({"x": torch.ones(0, 3)}, r"x has shape \[0, 3\].*nothing to contrast.*skip"),
        ({"y": torch.ones(0, 3)}, r"y has shape \[0, 3\].*nothing to contrast"),
        ({"y": torch.ones(0, 3), "group": object()}, r"y has shape \[0, 3\].*nothing to contrast"),
        ({"x": torch.ones(4, 0), "y": torch.ones(6, 0)}, r"x has shape \[4, 0\].*nothing to contrast"),
        ({"x": torch.ones(0, 0), "group": object()}, r"x has shape \[0, 0\].*nothing to contrast"),
        ({"y": torch.randn(6, 5)}, r"x has 3 dimensions and y has 5"),
        ({"y": torch.empty(6, 3, device="meta")}, r"x is on cpu and y on meta"),
        ({"scale": torch.ones(2)}, r"scale has shape \[2\].*\[\] or \[1\]"),
        ({"scale": torch.ones(1, 1)}, r"scale has shape \[1, 1\]"),
        ({"backend": "cuda"}, r"'cuda'.*'auto', 'reference', 'chunked', 'triton'"),
    ],
)
def test_rows_scale_and_backend(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(**options)


@pytest.mark.parametrize("function", ANY)
@pytest.mark.parametrize(
    ("installed", "interpreted", "dtype", "message"),
    [
        (False, True, torch.float32, r"needs the package triton.*`pip install triton`.*backend='auto'"),
        (True, False, torch.float32, r"x is on cpu.*backend='auto'.*TRITON_INTERPRET=1"),
        (True, True, torch.float64, r"float32, but x or y is torch.float64.*x\.float\(\).*backend='chunked'"),
    ],
)
def test_where_triton_cannot_run(function, installed, interpreted, dtype, message, monkeypatch):
    monkeypatch.setattr(dispatch, "HAS_TRITON", installed)
    monkeypatch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    with pytest.raises(ValueError, match=message):
        function(y=Y.to(dtype), backend="triton")


@pytest.mark.parametrize("function", WITH_IDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_ids": torch.arange(5)}, r"x_ids has shape \[5\], but x has 4 rows"),
        ({"y_ids": torch.arange(6)[:, None]}, r"y_ids has shape \[6, 1\], but y has 6 rows"),
        ({"x_ids": torch.arange(4.0)}, r"x_ids is torch.float32.*integers"),
        ({"y_ids": torch.ones(6, dtype=torch.bool)}, r"y_ids is torch.bool.*integers"),
        ({"x_ids": torch.empty(4, dtype=torch.int64, device="meta")}, r"x_ids is on meta and x on cpu"),
        ({"x_weight": torch.ones(3)}, r"x_weight has shape \[3\], but x has 4 rows"),
        ({"y_weight": torch.tensor([1, 1, 1, -0.5, 1, 1])}, r"y_weight.*-0\.5.*>= 0"),
        ({"x_weight": torch.tensor([1, torch.nan, 1, 1])}, r"x_weight.*nan.*>= 0"),
        ({"x_weight": torch.ones(4, requires_grad=True)}, r"x_weight requires a gradient.*detach"),
        ({"exclude_self": True, "x_offset": 3}, r"x has 4 rows, x_offset is 3 and y has 6 rows"),
        ({"exclude_self": True, "x_offset": -1}, r"x_offset is -1"),
    ],
)
def test_ids_weights_and_self(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(**options)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (infonce, {"positives": "median"}, r"'median'.*'mean', 'logsum' or 'each'"),
        (sigmoid, {"bias": torch.zeros(3)}, r"bias has shape \[3\]"),
        (lse, {"exclude": "ids"}, r"'ids'.*'none', 'self' or 'group'"),
        (lse, {"exclude": "group", "x_ids": X_IDS}, r"exclude='group'.*x_ids and y_ids"),
        (lse, {"exclude": "group", "x_ids": X_IDS, "y_ids": X_IDS}, r"y_ids has shape \[4\], but y has 6 rows"),
        (lse, {"exclude": "self", "x_offset": 5}, r"x_offset is 5"),
    ],
)
def test_options_of_one_function(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(**options)


@pytest.mark.parametrize("function", WITH_IDS)
def test_not_a_number_is_not_hidden(function):
    x = X.clone()
    x[1, 1] = torch.nan
    for backend in ("reference", "chunked"):
        assert function(x=x, backend=backend).isnan()


@pytest.mark.slow
def test_the_package_is_ours_and_stands_alone():
    """It imports and computes with torch and nothing else: no other dependency of the program, no other package of it.

    The test has a process of its own, because an operator may be registered only once.
    """
    assert kernels.OWNER == "multimodal-workbench"
    program = """
import sys
for name in ("workbench", "synthetic", "jaxtyping", "einops", "rich", "numpy", "triton", "open_clip"):
    sys.modules[name] = None  # an import of it fails
import torch
import kernels
x, ids = torch.randn(4, 3, requires_grad=True), torch.arange(4)
kernels.multi_positive_infonce(x, x, 1.0, ids, ids).backward()
assert x.grad.isfinite().all()
try:
    kernels.contrast_lse(x, x, 1.0, backend="triton")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "not installed: `pip install triton`" in done.stdout


@pytest.mark.slow
def test_annotations_hold():
    """Shapes and dtypes in the signatures are checked while each loss runs in both backends."""
    program = """
import builtins, jaxtyping
import torch
for name in ("Bool", "Float", "Int64", "Integer"):
    setattr(builtins, name, getattr(jaxtyping, name))  # the package imports them for type checkers only
builtins.ProcessGroup = torch.distributed.ProcessGroup
# not what torch calls: it reads the annotations of operators itself, and its contexts are no classes of ours
modules = ("checks", "chunked", "dispatch", "distributed", "means", "problem", "reference")
with jaxtyping.install_import_hook([f"kernels.{name}" for name in modules], "beartype.beartype"):
    import kernels, kernels.chunked.losses
x, y = (torch.randn(n, 3, requires_grad=True) for n in (7, 9))
x_ids, y_ids, w = torch.arange(7) // 2, torch.arange(9) // 2, torch.arange(7) % 3
for backend in ("reference", "chunked"):
    for positives in ("mean", "logsum", "each"):
        for exclude_self in (False, True):
            options = dict(exclude_self=exclude_self, x_weight=w, backend=backend)
            kernels.multi_positive_infonce(x, y, 2.0, x_ids, y_ids, positives=positives, **options).backward()
            kernels.multi_positive_sigmoid(x, y, 2.0, torch.zeros(1), x_ids, y_ids, **options).backward()
    kernels.multi_positive_infonce(x, x, torch.tensor(2.0), x_ids * 9 + w, x_ids * 9 + w, backend=backend).backward()
    for exclude in ("none", "self", "group"):
        lse = kernels.contrast_lse(x, y, torch.ones(1), exclude=exclude, x_ids=x_ids, y_ids=y_ids, backend=backend)
        torch.cat(lse).sum().backward()
wrong = (
    lambda: kernels.reference.multi_positive_infonce(x, y, 2.0, y_ids, x_ids),
    lambda: kernels.chunked.positives.Positives(x, y, None),
    lambda: kernels.problem.Problem(x=x, y=y, scale=x),
)
for call in wrong:
    try:
        call()
    except jaxtyping.TypeCheckError:
        print("checked")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["checked"] * 3
