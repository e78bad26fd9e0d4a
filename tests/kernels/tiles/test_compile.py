"""The kernels compile for GPUs that need not be here: nothing spills, shared memory suffices, tensor cores work.

The main variants are compiled here. All of them take minutes: `just kernel-report` fails where one does not pass, and
the table it keeps must be about the present configurations.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton", reason="the kernels are written in Triton, which is for Linux")

from kernels.tiles import configs, report  # noqa: E402

missing = [tool for tool in ("ptxas", "cuobjdump", "nvdisasm") if not (report.TOOLS / tool).is_file()]
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
    assert ran.stdout.count("bf16") == 2 * len(report.MAIN)


def test_kept_table_is_about_the_current_configurations() -> None:
    rows = [line.strip("| ").split(" | ") for line in report.KEPT.read_text().splitlines() if line.startswith("| ")]
    kept = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    named = [(row["arch"], row["operands"], row["kernel"], row["variant"], row["tile"]) for row in kept]
    assert named == [
        (str(job.arch), report.name_operands(job), job.kernel, job.variant, report.name_tile(job.config))
        for job in report.list_jobs()
    ], f"run `just kernel-report --keep` and commit {report.KEPT.name}"
    for row in kept:
        assert row["stack"] == row["local"] == "0", row
        assert (int(row["tensor"]) > 0) == (row["operands"] != "fp32 ieee"), row
        assert int(row["shared"]) <= report.MULTIPROCESSORS[int(row["arch"])].shared_a_program, row


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
    assert report.count_programs(arch, registers, shared, warps) == expected
