"""Which workloads are measured, by whom and how long."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.bench.compare import Plan
from kernels.bench.providers import Provider
from kernels.bench.resident import RESETTABLE
from kernels.bench.workload import Workload

CPU_SIZES, LARGE = (2048, 4096, 8192), 16384
CPU_DIMS = (64, 512)
CPU_LOSSES = {"infonce": 1, "sigmoid": 1, "each rows": 2}
"""with how many positives a row: one is all that most packages can compute, and `each` differs from the rest by two"""
CPU_PLAN = Plan("cpu", ("full",), rounds=5, enough=4.0, one_process=RESETTABLE.exists())
GPU_PLAN = Plan(
    "cuda", ("forward", "full"), rounds=3, least=0.3, enough=5.0, error_rows=4096, patience=90.0, one_process=True
)

Workloads = list[tuple[Workload, list[Provider]]]


def list_cpu_workloads(
    sizes: Sequence[int], dims: Sequence[int], providers: list[Provider], losses: Sequence[str] = tuple(CPU_LOSSES)
) -> Workloads:
    """Lists what is measured on a CPU."""
    return [(Workload(loss, n, d, CPU_LOSSES[loss]), providers) for loss in losses for d in dims for n in sizes]


def list_gpu_workloads(providers: list[Provider]) -> Workloads:
    """Lists what is measured on a GPU, the most telling first, as time may run out.

    32768 rows with two positives are 16384 samples of two views.
    """
    triton = [p for p in providers if p.name == "triton"]
    shapes = [
        ("infonce", 32768, 768, 1, providers),
        ("infonce", 65536, 768, 1, providers),
        ("sigmoid", 32768, 768, 1, providers),
        ("infonce", 32768, 512, 2, providers),
        ("sigmoid", 65536, 768, 4, providers),
        ("infonce", 65536, 768, 4, providers),
        ("infonce", 131072, 512, 1, providers),
        ("infonce", 262144, 768, 1, triton),
        ("sigmoid", 65536, 768, 1, providers),
        ("sigmoid", 131072, 768, 1, triton),
    ]
    return [(Workload(loss, n, d, positives, "bfloat16"), who) for loss, n, d, positives, who in shapes if who]
