"""Forecasts of whole steps count what the floor of a workload counts, and find their kernels among those measured."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton, which is for Linux")

from kernels.bench import predicted
from kernels.bench.measuring import Runner
from kernels.bench.workload import PRODUCTS, Workload
from kernels.forecast.gpus import H100
from kernels.forecast.published import EFFICIENCY
from kernels.tiles import report


def test_passes_and_products_are_the_floor() -> None:
    variants = {(v.kernel, v.name) for v in report.list_variants()}
    for loss, modes in predicted.PASSES.items():
        for mode, passes in modes.items():
            assert set(passes) <= variants
            # 2 MND a pass, and as much for each of two products of a gradient
            assert 2 * len(passes) + (4 if mode == "full" else 0) == PRODUCTS[loss][mode]


def test_products_of_the_library_take_their_flops_over_the_rate() -> None:
    part = predicted._forecast_products(Workload("infonce", 65536, 768, dtype="bfloat16"), H100)
    assert part["seconds"][0] == pytest.approx(4 * 65536**2 * 768 / H100.flops / EFFICIENCY)
    # With few dimensions reading G is what takes the time
    part = predicted._forecast_products(Workload("infonce", 65536, 64, dtype="bfloat16"), H100)
    assert (part["bound"], part["seconds"][0]) == ("memory", pytest.approx(4 * 65536**2 / H100.memory / EFFICIENCY))


def test_kernels_are_found_by_name_and_the_librarys_are_added_up() -> None:
    times = [("lse_tiles", 1.0), ("nvjet_sm90_tst_128x256", 2.0), ("sm90_xmma_gemm_bf16", 3.0), ("lse_tiles", 0.5)]
    assert predicted.sum_by_kernel(times) == {"lse_tiles": 1.5, predicted.PRODUCTS: 5.0}


def test_a_device_without_rates_is_named() -> None:
    runner = Runner("cpu")
    with pytest.raises(NotImplementedError, match="no rates are kept for"):
        predicted.predict(runner, {"loss": "infonce", "n": 8, "d": 8, "positives": 1, "dtype": "bfloat16"}, "full", {})
