"""The kernels compile for GPUs that need not be here: nothing spills, shared memory suffices, tensor cores work.

The main variants are compiled here. All of them take minutes: `just kernel-report` fails where one does not pass, and
the table it keeps must be about the present configurations.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton", reason="the kernels are written in Triton, which is for Linux")

from kernels.forecast import published  # noqa: E402
from kernels.forecast.compiled import MULTIPROCESSORS, TOOLS, count_programs  # noqa: E402
from kernels.forecast.gpus import FORECAST  # noqa: E402
from kernels.tiles import configs, report  # noqa: E402

missing = [tool for tool in ("ptxas", "cuobjdump", "nvdisasm") if not (TOOLS / tool).is_file()]
needs_tools = pytest.mark.skipif(bool(missing), reason=f"Triton came without NVIDIA's {', '.join(missing)}")


def run_report(*arguments: str) -> subprocess.CompletedProcess[str]:
    # a process of its own: where TRITON_INTERPRET is set there is nothing to compile
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.tiles.report", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_tools
@pytest.mark.slow
def test_main_variants_compile_clean() -> None:
    ran = run_report("--quick")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("bf16") == len(FORECAST) * len(report.MAIN)
    # Three kernels have a forecast for two shapes each, whose columns are narrow enough to stand in one line
    assert ran.stdout.count(" ms (") == 2 * len(FORECAST) * len(report.MAIN)


def test_kept_table_is_about_the_current_configurations() -> None:
    lines = [line for line in report.KEPT.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    kept = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    named = [(row["arch"], row["operands"], row["kernel"], row["variant"], row["tile"]) for row in kept]
    assert named == [
        (str(job.arch), report.name_operands(job), job.kernel, job.variant, report.name_tile(job.config))
        for job in report.list_jobs()
    ], f"run `just kernel-report --keep` and commit {report.KEPT.name}"
    for row in kept:
        assert row["stack"] == row["local"] == "0", row
        assert (int(row["tensor"]) > 0) == (row["operands"] != "fp32 ieee"), row
        assert int(row["shared"]) <= MULTIPROCESSORS[int(row["arch"])].shared_a_program, row


def test_kept_forecasts_agree_with_arithmetic() -> None:
    rows = list(csv.DictReader(report.PREDICTED.open(newline="")))
    assert {row["gpu"] for row in rows} == {gpu.name for gpu in FORECAST.values()}
    assert {row["efficiency"] for row in rows} == {f"{published.EFFICIENCY:.3f}"}
    for row in rows:
        gpu = FORECAST[int(row["arch"])]
        bm, bn = (int(v) for v in row["tile"].split()[0].split("x")[:2])
        products = 2 if row["kernel"] == "guided" else 1
        if row["operands"] != "fp32 ieee":
            rate = gpu.tensor_rate(tf32=row["operands"] == "fp32 tf32")
            assert float(row["tensor_clocks"]) == pytest.approx(2 * bm * bn * int(row["d"]) * products / rate, rel=1e-3)
        # An exponential a logit at least
        assert float(row["special_clocks"]) >= bm * bn / gpu.special, row
        tiles = int(row["m"]) / bm * int(row["n"]) / bn
        ideal = tiles * float(row["clocks"]) / gpu.processors / gpu.clock
        assert float(row["seconds"]) == pytest.approx(ideal / published.EFFICIENCY, rel=2e-3)


def test_every_entry_of_the_table_is_compiled() -> None:
    compiled = {(job.table, job.kernel, 4 if job.operands == "fp32" else 2) for job in report.list_jobs()}
    assert compiled == {key for key in configs.TABLE if key[0] != configs.INTERPRETER}


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "warps", "expected"),
    [
        (90, 255, 106520, 4, 2),  # registers: 65536 // (256 * 32 * 4) = 2
        (90, 128, 0, 8, 2),
        (90, 129, 0, 8, 1),  # 136 registers a thread are given: 15 warps' worth, of which 12 come in fours
        (90, 32, 115712, 4, 2),  # shared: 2 * (115712 + 1024) = 233472
        (90, 32, 115713, 4, 1),
        (86, 32, 1024, 8, 6),  # 48 warps
    ],
)
def test_occupancy(arch: int, registers: int, shared: int, warps: int, expected: int) -> None:
    assert count_programs(arch, registers, shared, warps) == expected
