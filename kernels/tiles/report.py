"""What the compiler makes of every configuration, with no GPU: `python -m kernels.tiles.report`, a few minutes the
first time. It fails if a kernel spills, takes more shared memory than there is, or leaves the tensor cores out.

Each entry of configs.TABLE is compiled ahead of time for its architecture, as the launches do, and read back with the
tools in Triton's wheel: registers and stack from `cuobjdump`, instructions from `nvdisasm`. The table is kept in
kernels/bench/kernels.md.

Thinned, as variants nest: SELF, PULL, WEIGHED and LIMITED only add to what is compiled without them, as does any kind
of positives to POSITIVE = NONE, with or without DISTINCT. Most variants are compiled with SELF alone, those called
limited with all. Entries other than
bfloat16's compile the variants that need most registers.

Trap: occupancy is what registers and shared memory allow, not speed; only `kernels.bench` on a GPU knows that.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import triton
from rich.console import Console
from rich.table import Table
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.language import constexpr
from triton.runtime.jit import JITFunction

from kernels.tiles import configs
from kernels.tiles.configs import DEFAULT, Config
from kernels.tiles.gradient import EACH, LOGSUM, MEAN, each_tiles, gradient_tiles
from kernels.tiles.khatri_rao import khatri_rao_gradient_tiles, khatri_rao_lse_tiles
from kernels.tiles.lse import lse_tiles
from kernels.tiles.sigmoid import sigmoid_tiles
from kernels.tiles.tile import ALL, NEGATIVES, POSITIVES

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
KEPT = Path(__file__).parent.parent / "bench/kernels.md"
DIMENSIONS = 768


class Multiprocessor(NamedTuple):
    """Says what a multiprocessor has (CUDA C++ Programming Guide, technical specifications per compute capability).

    Shared memory is in bytes; registers are 65536 on all.
    """

    shared: int
    shared_a_program: int
    warps: int


MULTIPROCESSORS = {
    80: Multiprocessor(167936, 166912, 64),
    86: Multiprocessor(102400, 101376, 48),
    90: Multiprocessor(233472, 232448, 64),
}


Constants = dict[str, int | bool | str | constexpr]


class Variant(NamedTuple):
    """Names one way in which a kernel is compiled."""

    kernel: str
    name: str
    function: JITFunction
    constants: Constants


def list_variants() -> list[Variant]:
    """Lists the variants that the losses launch, but for those that nest in others (see above)."""

    def lse(
        name: str, *, shifted: bool, pairs: constexpr = ALL, pull: bool = False, itself: bool = True, rich: bool = False
    ) -> Variant:
        constants = {"SHIFTED": shifted, "PAIRS": pairs, "PULL": pull}
        return Variant("lse", name, lse_tiles, constants | {"SELF": itself, "WEIGHED": rich, "LIMITED": rich})

    def gradient(
        name: str, positive: constexpr, *, shifted: bool = True, itself: bool = True, rich: bool = False
    ) -> Variant:
        constants = {"SHIFTED": shifted, "POSITIVE": positive, "DISTINCT": False}
        kernel = "each" if positive == EACH or rich else "gradient"
        return Variant(kernel, name, gradient_tiles, constants | {"SELF": itself, "WEIGHED": rich, "LIMITED": rich})

    return [
        lse("mean", shifted=True, pull=True, itself=False),
        lse("mean, self", shifted=True, pull=True),
        lse("mean, exact", shifted=False, pull=True),
        lse("mean, limited", shifted=True, pull=True, rich=True),
        lse("mean, limited, exact", shifted=False, pull=True, rich=True),
        lse("negatives", shifted=True, pairs=NEGATIVES),
        lse("negatives, exact", shifted=False, pairs=NEGATIVES),
        lse("positives", shifted=False, pairs=POSITIVES),
        gradient("mean", MEAN, itself=False),
        gradient("mean, self", MEAN),
        gradient("mean, exact", MEAN, shifted=False),
        gradient("mean, limited", MEAN, rich=True),
        gradient("mean, limited, exact", MEAN, shifted=False, rich=True),
        gradient("logsum", LOGSUM),
        gradient("logsum, exact", LOGSUM, shifted=False),
        gradient("logsum, limited, exact", LOGSUM, shifted=False, rich=True),
        Variant("each", "sums", each_tiles, {"SELF": True, "WEIGHED": True}),
        gradient("gradient", EACH),
        gradient("gradient, exact", EACH, shifted=False),
        gradient("gradient, limited, exact", EACH, shifted=False, rich=True),
        Variant("sigmoid", "sigmoid", sigmoid_tiles, {"SELF": False, "STORE": True}),
        Variant("sigmoid", "sigmoid, self", sigmoid_tiles, {"SELF": True, "STORE": True}),
        Variant("khatri_rao", "lse", khatri_rao_lse_tiles, {}),
        Variant("khatri_rao", "gradient", khatri_rao_gradient_tiles, {}),
    ]


MAIN = {("lse", "mean"), ("gradient", "mean"), ("sigmoid", "sigmoid")}
HEAVY = {
    ("lse", "mean, exact"), ("gradient", "logsum, exact"), ("each", "sums"), ("each", "gradient, exact"),
    ("each", "gradient, limited, exact"), ("sigmoid", "sigmoid, self"),
    ("khatri_rao", "lse"), ("khatri_rao", "gradient"),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Says what is compiled: a variant, with an entry of the table, for an architecture and a type of operands."""

    arch: int
    table: int
    """the entry's architecture: DEFAULT's are compiled for all"""
    kernel: str
    variant: str
    operands: str
    precision: str
    config: Config


def list_jobs(*, quick: bool = False) -> Iterator[Job]:
    """Yields everything that the report compiles, or with `quick` the main variants of bfloat16."""
    for arch, table, operands, precision, wanted in (
        (90, 90, "bf16", "ieee", None),
        (80, 80, "bf16", "ieee", None),
        (90, 90, "fp16", "ieee", MAIN),
        (90, 90, "fp32", "ieee", HEAVY),
        (90, 90, "fp32", "tf32", HEAVY),
        (80, 80, "fp32", "ieee", HEAVY),
        (80, 80, "fp32", "tf32", HEAVY),
        (86, DEFAULT, "bf16", "ieee", HEAVY),
        (90, DEFAULT, "bf16", "ieee", HEAVY),
        (86, DEFAULT, "fp32", "ieee", HEAVY),
    ):
        if quick and (operands != "bf16" or table == DEFAULT):
            continue
        for v in list_variants():
            if (v.kernel, v.name) in (MAIN if quick else wanted or {(v.kernel, v.name)}):
                config = configs.TABLE[table, v.kernel, 4 if operands == "fp32" else 2]
                yield Job(arch, table, v.kernel, v.name, operands, precision, config)


@dataclass(frozen=True)
class Row:
    """Holds what the compiler made of a job; `fails` says what is wrong with it, "" if nothing."""

    arch: int
    operands: str
    kernel: str
    variant: str
    tile: str
    registers: int
    stack: int
    local: int
    """loads and stores of local memory"""
    shared: int
    tensor: int
    """tensor-core instructions"""
    programs: int
    """those that fit on a multiprocessor"""
    fails: str


def compile_job(job: Job) -> CompiledKernel:
    """Compiles a kernel as the launches in kernels.tiles.launch have it compiled."""
    (variant,) = (v for v in list_variants() if (v.kernel, v.name) == (job.kernel, job.variant))
    config, names = job.config, variant.function.arg_names
    constants: Constants = variant.constants | {
        "D": DIMENSIONS, "BM": config.block_m, "BN": config.block_n, "BK": config.block_k, "GROUP": config.group,
        "STRIPS": config.strips, "PRECISION": job.precision, "TMA": job.arch >= 90, "UPCAST": False,
    }  # fmt: skip
    signature = {name: "constexpr" if name in constants else _type(name, job) for name in names}
    return triton.compile(
        ASTSource(
            variant.function,
            signature,
            constexprs={(names.index(name),): value for name, value in constants.items() if name in names},
            attrs={(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if signature[name][0] == "*"},
        ),
        target=GPUTarget("cuda", job.arch, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )


def _type(name: str, job: Job) -> str:
    """Returns the type of a kernel's argument, as a launch would find it."""
    c = job.config
    g = f"1,{c.block_m},{c.block_n}" if job.kernel == "khatri_rao" else f"{c.block_m},{c.block_n // c.strips}"
    block = {"x": f"{c.block_m},{c.block_k}", "y": f"{c.block_n},{c.block_k}", "g": g}.get(name)
    if block is not None and job.arch >= 90:
        return f"tensordesc<{job.operands}[{block}]>"
    if block is not None or name == "z":
        return f"*{job.operands}"
    if name in ("start", "stop", "M", "N", "x_offset"):
        return "i32"
    return "*i32" if name in ("x_key", "y_key", "needed", "exact") else "*fp32"


def read(job: Job) -> Row:
    """Compiles a job and reads registers, stack, shared memory and instructions from its machine code."""
    kernel = compile_job(job)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        sass = _output("nvdisasm", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    registers, stack = int(found[1]), int(found[2])
    count = {op: len(re.findall(rf"\b{op}\b", sass)) for op in ("LDL", "STL", "HMMA", "HGMMA")}
    local = count["LDL"] + count["STL"]
    tensor = count["HGMMA" if job.arch >= 90 else "HMMA"]
    shared = kernel.metadata.shared
    # the small entries also run where shared memory is least
    limit = MULTIPROCESSORS[86 if job.table == DEFAULT else job.arch].shared_a_program
    fails = ", ".join(
        what
        for what, wrong in (
            (f"stack {stack}", stack > 0),
            (f"{local} local", local > 0),
            (f"shared > {limit}", shared > limit),
            ("no tensor cores", tensor == 0 and not (job.operands == "fp32" and job.precision == "ieee")),
        )
        if wrong
    )
    fit = count_programs(job.arch, registers, shared, job.config.warps)
    return Row(
        job.arch, name_operands(job), job.kernel, job.variant, name_tile(job.config),
        registers, stack, local, shared, tensor, fit, fails,
    )  # fmt: skip


def name_operands(job: Job) -> str:
    """Names the operands' type, and for float32 how its products are formed."""
    return f"fp32 {job.precision}" if job.operands == "fp32" else job.operands


def name_tile(c: Config) -> str:
    """Names a configuration in a cell of the table."""
    return f"{c.block_m}x{c.block_n}x{c.block_k} w{c.warps} s{c.stages} /{c.strips}"


def count_programs(arch: int, registers: int, shared: int, warps: int) -> int:
    """Counts the programs that fit on a multiprocessor.

    Registers go to warps by 256, warps by 4, and a program takes 1 KiB of shared memory for the system (CUDA occupancy
    calculator).
    """
    has = MULTIPROCESSORS[arch]
    a_warp = -(-registers * 32 // 256) * 256
    return min(65536 // a_warp // 4 * 4 // warps, has.shared // (shared + 1024), has.warps // warps)


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def write_markdown(rows: list[Row]) -> str:
    """Writes the table that is kept."""
    names = [field.name for field in fields(Row) if field.name != "fails"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(str(v) for v in astuple(row)[:-1])} |" for row in rows]
    return "\n".join((
        f"What Triton {triton.__version__} makes of kernels/tiles/configs.py, D = {DIMENSIONS}: "
        "`python -m kernels.tiles.report --keep`.",
        "Tile: rows x columns x depth, warps, stages, /strips. Shared memory in bytes; programs: that fit on a",
        "multiprocessor. float32 in ieee precision has no tensor-core instructions.",
        "", *lines, "",
    ))  # fmt: skip


def draw_table(rows: list[Row]) -> Table:
    """Draws the table for a terminal, what fails in red."""
    shown = Table(title=f"Triton {triton.__version__}, D = {DIMENSIONS}", header_style="bold")
    for field in fields(Row):
        shown.add_column(field.name, justify="right" if field.type == "int" and field.name != "arch" else "left")
    before = None
    for row in rows:
        if before and (before.arch, before.operands) != (row.arch, row.operands):
            shown.add_section()
        shown.add_row(*(str(v) for v in astuple(row)), style="red" if row.fails else None)
        before = row
    return shown


def main() -> int:
    """Compiles everything and prints the table; returns 1 where a kernel fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="bfloat16's main variants only: under half a minute")
    parser.add_argument("--keep", action="store_true", help=f"write {KEPT.name}")
    arguments = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set, which leaves nothing to compile: unset it")
    if arguments.quick and arguments.keep:
        parser.error("the kept table is the whole one: leave out --quick or --keep")
    # processes, as a compilation holds the interpreter's lock; spawned, as a fork would inherit the compiler's threads
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(read, list_jobs(quick=arguments.quick)))
    Console(width=None if sys.stdout.isatty() else 160).print(draw_table(rows))
    if arguments.keep:
        KEPT.write_text(write_markdown(rows))
    return int(any(row.fails for row in rows))


if __name__ == "__main__":
    sys.exit(main())
