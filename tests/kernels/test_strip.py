"""Each rank has its strip of the rows and all columns: the value is the whole loss, x.grad the strip's gradient, and
the ranks' y.grad, scale.grad and bias.grad add up to the whole's, which the reference computes in float64."""

from __future__ import annotations

import itertools
import os
import random
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec

import pytest
import torch
import torch.distributed as dist
from loss_arguments import assert_equal, random_arguments, run
from several import spawn

import kernels
import kernels.chunked.positives

pytestmark = pytest.mark.slow

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
ROWS_ONLY = ("mean of rows", "logsum of rows", "each of rows")
N = 19
BACKENDS = {"chunked": (torch.float64, 1e-12), "reference": (torch.float64, 1e-12)}
"""with the type each is tested in, and how close the strips must come to the whole"""
if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    BACKENDS["triton"] = (torch.float32, 1e-5)


def cases(world: int, seed: int):
    """Yields losses of rows and columns, or of rows alone, with and without self pairs and weights, on strips of
    unequal length, one of them empty: every case on two processes, of Triton's a fresh half, as its interpreter takes
    most of the time; a fresh quarter of all on four."""
    lengths = [[12, 7], [19, 0], [8, 11]] if world == 2 else [[3, 9, 0, 7]]
    combinations = list(itertools.product(LOSSES, [False, True], [False, True], BACKENDS))
    combinations += itertools.product(ROWS_ONLY, [False, True], [False, True], BACKENDS)
    draw = random.Random(seed)
    if world > 2:
        combinations = draw.sample(combinations, len(combinations) // 4)
    else:
        combinations = [case for case in combinations if case[-1] != "triton" or draw.random() < 0.5]
    for k, (loss, exclude_self, weighted, backend) in enumerate(combinations):
        yield k, loss, exclude_self, weighted, backend, lengths[k % len(lengths)]


def options_of(loss, exclude_self, weighted, backend, draw):
    if loss == "contrast_lse":
        exclude = "self" if exclude_self else ("group" if weighted else "none")
        return {"exclude": exclude, "backend": backend}
    options = {"exclude_self": exclude_self, "backend": backend}
    if loss in ROWS_ONLY:
        options["symmetric"] = False
    if backend != "triton" and torch.rand((), generator=draw) < 0.4:
        options["prefixes"] = {4: 0.5, 2: 1.5} if weighted else {1: 0.5, 3: 1.0}
    if weighted:
        weights = (torch.randint(0, 4, (N,), generator=draw) * 0.5 for _ in range(2))
        options |= dict(zip(("x_weight", "y_weight"), weights, strict=True))
    if loss != "sigmoid" and (weighted or exclude_self):
        options |= {"x_log_weight": torch.randn(N, generator=draw), "y_log_weight": torch.randn(N, generator=draw)}
        options |= {"label_smoothing": 0.2} if weighted else {"false_negative_margin": 0.1}
        options |= {"hardness": 2.0} if weighted and exclude_self else {}
    return options


def strip_of(p, options, rows):
    """Cuts one rank's arguments out of the whole."""
    cut = {k: v[rows] if k in ("x_weight", "x_log_weight") else v for k, v in options.items()}
    return replace(p, x=p.x[rows], x_ids=p.x_ids[rows], options={**cut, "x_offset": rows.start})


def problem(seed, k, loss, exclude_self, weighted, backend):
    draw = torch.Generator().manual_seed(seed + k)
    p = random_arguments(seed + k, N, N, 4, 9.0, num_ids=3)
    if k % 6 == 1:  # one positive each: plain CLIP on the rank that has all rows, and not on the one that has none
        ids = torch.randperm(N, generator=draw)
        p = replace(p, x_ids=ids, y_ids=ids)
    if (
        loss == "contrast_lse" and weighted and not exclude_self
    ):  # exclude="group" leaves some columns with no row at all
        p = replace(p, x_ids=torch.zeros_like(p.x_ids))
    return p.to(BACKENDS[backend][0]), options_of(loss, exclude_self, weighted, backend, draw)


def worker(rank, world, seed, folder):
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    results = []
    for k, loss, exclude_self, weighted, backend, lengths in cases(world, seed):
        p, options = problem(seed, k, loss, exclude_self, weighted, backend)
        start = sum(lengths[:rank])
        kernels.chunked.positives.FEW = 0 if (k + rank) % 2 else 16  # ranks may differ in how they take their positives
        strip = strip_of(p, options, slice(start, start + lengths[rank]))
        if loss == "contrast_lse":
            results.append(run_lse(strip, start))
        else:
            results.append(run(loss.split()[0], strip, upstream=-1.5, group=dist.group.WORLD))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def run_lse(p, start, group=True):
    """Differentiates sum_i f_i row_i + sum_j g_j column_j, with f cut like the rows."""
    x, y, scale = (v.detach().requires_grad_() for v in (p.x, p.y, p.scale))
    group = dist.group.WORLD if group else None
    row, column = kernels.contrast_lse(x, y, scale, x_ids=p.x_ids, y_ids=p.y_ids, group=group, **p.options)
    f, g = torch.randn(2, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(p.x.dtype)
    rows, columns = (v.masked_fill(v.isneginf(), 0.0) for v in (row, column))
    ((f[start : start + len(x)] * rows).sum() + (g * columns).sum()).backward()
    return {"row": row.detach(), "column": column.detach(), "x": x.grad, "y": y.grad, "scale": scale.grad}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("world", [2, 4])
def test_strips_equal_the_whole(world, tmp_path):
    seed = torch.seed() % 2**31
    spawn(world, worker, world, seed, tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for k, loss, exclude_self, weighted, backend, lengths in cases(world, seed):
        p, options = problem(seed, k, loss, exclude_self, weighted, backend)
        whole = strip_of(p.to(torch.float64), options | {"backend": "reference"}, slice(0, N))
        if loss == "contrast_lse":
            want = run_lse(whole, 0, group=False)
            same, cut = ["column"], ["row", "x"]
        else:
            want = run(loss.split()[0], whole, upstream=-1.5)
            same, cut = ["value"], ["x"]
        got = {name: torch.cat([r[k][name] for r in ranks]) for name in cut}
        got |= {name: torch.stack([r[k][name] for r in ranks]).sum(0) for name in want if name not in same + cut}
        note = f"seed {seed}, {loss}, exclude_self {exclude_self}, weighted {weighted}, {backend}, strips {lengths}"
        for r in ranks:
            assert_equal({**got, **{name: r[k][name] for name in same}}, want, BACKENDS[backend][1], note)
