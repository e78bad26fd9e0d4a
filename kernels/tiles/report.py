"""What the compiler makes of every configuration, with no GPU: `python -m kernels.tiles.report`, a few minutes the
first time. It fails if a kernel spills, takes more shared memory than there is, or leaves the tensor cores out.

Each entry of configs.TABLE is compiled ahead of time for its architecture, as the launches do, and read back with the
tools in Triton's wheel: registers and stack from `cuobjdump`, instructions from `nvdisasm`. What a tile executes gives
a forecast of the time (kernels.forecast). The table is kept in kernels/bench/kernels.md, forecasts in predicted.csv.

Thinned, as variants nest: SELF, PULL, WEIGHED, HARD and LIMITED only add to what is compiled without them, as does any
kind of positives to POSITIVE = NONE, with or without DISTINCT. Most variants are compiled with SELF alone, those called
limited and those of the kernel `guided` with all. Entries other than bfloat16's compile the variants that need most
registers.

Trap: occupancy is what registers and shared memory allow, and a forecast is arithmetic; only `kernels.bench.gpu` on a
GPU knows the speed, and prints the one beside the other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import triton
from rich.console import Console
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.language import constexpr
from triton.runtime.jit import JITFunction

from kernels.forecast.compiled import MULTIPROCESSORS, Usage, count_programs, read_usage
from kernels.forecast.cycles import Cycles, count_bytes, ideal_seconds, time_tile
from kernels.forecast.gpus import FORECAST, Gpu
from kernels.forecast.machine_code import Tile, count_tile
from kernels.forecast.published import estimate
from kernels.tiles import configs
from kernels.tiles.configs import DEFAULT, Config
from kernels.tiles.gradient import EACH, LOGSUM, MEAN, each_tiles, gradient_tiles
from kernels.tiles.khatri_rao import khatri_rao_gradient_tiles, khatri_rao_lse_tiles
from kernels.tiles.lse import lse_tiles
from kernels.tiles.report_rows import DIMENSIONS, SHAPES, Forecast, Row, draw_table, write_csv, write_markdown
from kernels.tiles.sigmoid import sigmoid_tiles
from kernels.tiles.tile import ALL, NEGATIVES, POSITIVES

KEPT = Path(__file__).parent.parent / "bench/kernels.md"
PREDICTED = KEPT.with_name("predicted.csv")


Constants = dict[str, int | bool | str | constexpr]


class Variant(NamedTuple):
    """Names one way in which a kernel is compiled."""

    kernel: str
    name: str
    function: JITFunction
    constants: Constants


def list_variants() -> list[Variant]:
    """Lists the variants that the losses launch, but for those that nest in others (see above)."""

    def judging(*, itself: bool, rich: bool, guide: int) -> Constants:
        return {"SELF": itself, "WEIGHED": rich, "HARD": rich, "LIMITED": rich or guide > 0, "GUIDE": guide}

    def lse(
        name: str, *, shifted: bool, pairs: constexpr = ALL, pull: bool = False, itself: bool = True,
        rich: bool = False, guide: int = 0, rows_of: str | None = None,
    ) -> Variant:  # fmt: skip
        constants = {"SHIFTED": shifted, "PAIRS": pairs, "PULL": pull, "ROWS_ONLY": rows_of is not None}
        # Where only rows count, log-sum-exps are formed in the tiles of the gradient that they become
        kernel = "guided" if guide else rows_of or ("each" if rich else "lse")
        return Variant(kernel, name, lse_tiles, constants | judging(itself=itself, rich=rich, guide=guide))

    def gradient(
        name: str, positive: constexpr, *, shifted: bool = True, itself: bool = True, rich: bool = False,
        guide: int = 0, near: bool = False,
    ) -> Variant:  # fmt: skip
        constants = {"SHIFTED": shifted, "POSITIVE": positive, "DISTINCT": False, "NEAR": near}
        kernel = "guided" if guide else "each" if positive == EACH or rich else "gradient"
        return Variant(kernel, name, gradient_tiles, constants | judging(itself=itself, rich=rich, guide=guide))

    return [
        lse("mean", shifted=True, pull=True, itself=False),
        lse("mean, self", shifted=True, pull=True),
        lse("mean, exact", shifted=False, pull=True),
        lse("sums, mean, limited", shifted=True, pull=True, rich=True),
        lse("sums, mean, limited, exact", shifted=False, pull=True, rich=True),
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
        lse("rows, sums, mean", shifted=True, pull=True, rows_of="gradient"),
        lse("rows, sums, mean, exact", shifted=False, pull=True, rows_of="gradient"),
        gradient("rows, mean, positives", MEAN, near=True),
        gradient("rows, logsum, positives", LOGSUM, near=True),
        lse("rows, sums", shifted=True, pairs=NEGATIVES, rows_of="each"),
        lse("rows, sums, mean, limited", shifted=True, pull=True, rich=True, rows_of="each"),
        gradient("rows, positives", EACH, near=True),
        gradient("rows, positives, limited", EACH, rich=True, near=True),
        lse("sums, mean", shifted=True, pull=True, rich=True, guide=DIMENSIONS),
        lse("sums, mean, exact", shifted=False, pull=True, rich=True, guide=DIMENSIONS),
        gradient("gradient, logsum, exact", LOGSUM, shifted=False, rich=True, guide=DIMENSIONS),
        gradient("gradient, each", EACH, rich=True, guide=DIMENSIONS),
        gradient("gradient, each, exact", EACH, shifted=False, rich=True, guide=DIMENSIONS),
        lse("rows, sums, mean", shifted=True, pull=True, rich=True, guide=DIMENSIONS, rows_of="each"),
        Variant("sigmoid", "sigmoid", sigmoid_tiles, {"SELF": False, "STORE": True}),
        Variant("sigmoid", "sigmoid, self", sigmoid_tiles, {"SELF": True, "STORE": True}),
        Variant("khatri_rao", "lse", khatri_rao_lse_tiles, {}),
        Variant("khatri_rao", "gradient", khatri_rao_gradient_tiles, {}),
    ]


MAIN = {("lse", "mean"), ("gradient", "mean"), ("sigmoid", "sigmoid")}
HEAVY = {
    ("lse", "mean, exact"), ("gradient", "logsum, exact"), ("each", "sums"), ("each", "gradient, exact"),
    ("each", "gradient, limited, exact"), ("each", "sums, mean, limited, exact"), ("guided", "sums, mean, exact"),
    ("guided", "gradient, each, exact"), ("sigmoid", "sigmoid, self"), ("khatri_rao", "lse"),
    ("khatri_rao", "gradient"),
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
    dimensions: int = DIMENSIONS
    shapes: tuple[tuple[int, int], ...] = SHAPES
    """rows x columns of the forecasts"""


def find_variant(job: Job) -> Variant:
    """Finds the variant that a job compiles."""
    (variant,) = (v for v in list_variants() if (v.kernel, v.name) == (job.kernel, job.variant))
    return variant


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
        (100, DEFAULT, "bf16", "ieee", MAIN),
        (86, DEFAULT, "bf16", "ieee", HEAVY),
        (90, DEFAULT, "bf16", "ieee", HEAVY),
        (86, DEFAULT, "fp32", "ieee", HEAVY),
    ):
        if quick and (operands != "bf16" or arch not in FORECAST or (table == DEFAULT and arch != 100)):
            continue
        for v in list_variants():
            if (v.kernel, v.name) in (MAIN if quick else wanted or {(v.kernel, v.name)}):
                config = configs.TABLE[table, v.kernel, 4 if operands == "fp32" else 2]
                yield Job(arch, table, v.kernel, v.name, operands, precision, config)


def compile_job(job: Job) -> CompiledKernel:
    """Compiles a kernel as the launches in kernels.tiles.launch have it compiled."""
    variant, config = find_variant(job), job.config
    names = variant.function.arg_names
    constants: Constants = variant.constants | {
        "D": job.dimensions, "BM": config.block_m, "BN": config.block_n, "BK": config.block_k, "GROUP": config.group,
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
    a, b = f"{c.block_m},{c.block_k}", f"{c.block_n},{c.block_k}"
    block = {"x": a, "y": b, "x_guide": a, "y_guide": b, "g": g}.get(name)
    if block is not None and job.arch >= 90:
        return f"tensordesc<{job.operands}[{block}]>"
    if block is not None or name == "z":
        return f"*{job.operands}"
    if name in ("start", "stop", "M", "N"):
        return "i32"
    return "*i32" if name in ("x_key", "y_key", "itself", "needed", "exact") else "*fp32"


def read(job: Job) -> Row:
    """Compiles a job, reads registers, stack, shared memory and instructions from its machine code, and forecasts."""
    usage = read_usage(compile_job(job))
    # the small entries also run where shared memory is least
    limit = MULTIPROCESSORS[86 if job.table == DEFAULT else job.arch].shared_a_program
    fails = ", ".join(
        what
        for what, wrong in (
            (f"stack {usage.stack}", usage.stack > 0),
            (f"{usage.local} local", usage.local > 0),
            (f"shared > {limit}", usage.shared > limit),
            ("no tensor cores", usage.tensor == 0 and not (job.operands == "fp32" and job.precision == "ieee")),
        )
        if wrong
    )
    fit = count_programs(job.arch, usage.registers, usage.shared, job.config.warps)
    return Row(
        job.arch, name_operands(job), job.kernel, job.variant, name_tile(job.config), usage.registers, usage.stack,
        usage.local, usage.shared, usage.tensor, fit, forecast(job, usage, fit), fails,
    )  # fmt: skip


def forecast(job: Job, usage: Usage, programs: int, gpu: Gpu | None = None) -> Forecast | None:
    """Forecasts how long a job's kernel takes for each of SHAPES, on this GPU or that of the job's architecture.

    None where no GPU is known, where the kernel cannot run, where tiles may pass without a product, or where fewer
    exponentials are found than logits.
    """
    gpu, c = gpu or FORECAST.get(job.arch), job.config
    if gpu is None or programs == 0:
        return None
    variant = find_variant(job)
    depth = job.dimensions * (2 if variant.constants.get("GUIDE") else 1)
    size = 4 if job.operands == "fp32" else 2
    tile = Tile(c.block_m, c.block_n, depth, c.warps, size, tf32=job.precision == "tf32")
    executed = count_tile(usage.disassembly, tile)
    # What is launched along positives alone meets a band of tiles, whose width only the ids know
    if executed.skips or variant.constants.get("NEAR"):
        return None
    stores = executed.stores_matrix(tile)

    def time(m: int, n: int) -> Cycles:
        return time_tile(executed, tile, gpu, count_bytes(tile, n, c.group, stores=stores), programs)

    cycles = time(*job.shapes[0])
    # Every logit takes an exponential; float32 without tensor cores on sm_80 is laid out in another way, and misread
    if cycles.pipes["special"] < c.block_m * c.block_n / gpu.special:
        return None
    seconds = tuple(estimate(ideal_seconds(time(m, n), tile, m, n, gpu)) for m, n in job.shapes)
    return Forecast(gpu.name, cycles.pipes, cycles.total, cycles.bound, seconds)


def name_operands(job: Job) -> str:
    """Names the operands' type, and for float32 how its products are formed."""
    return f"fp32 {job.precision}" if job.operands == "fp32" else job.operands


def name_tile(c: Config) -> str:
    """Names a configuration in a cell of the table."""
    return f"{c.block_m}x{c.block_n}x{c.block_k} w{c.warps} s{c.stages} /{c.strips}"


def main() -> int:
    """Compiles everything and prints the table; returns 1 where a kernel fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="bfloat16's main variants only: under half a minute")
    kept = f"write {KEPT.name} and {PREDICTED.name}, with --quick that alone"
    parser.add_argument("--keep", action="store_true", help=kept)
    arguments = parser.parse_args()
    if knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set, which leaves nothing to compile: unset it")
    # processes, as a compilation holds the interpreter's lock; spawned, as a fork would inherit the compiler's threads
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(read, list_jobs(quick=arguments.quick)))
    Console(width=None if sys.stdout.isatty() else 220).print(draw_table(rows))
    if arguments.keep:
        write_csv(rows, PREDICTED)
        if not arguments.quick:  # whose table is the whole one
            KEPT.write_text(write_markdown(rows))
    return int(any(row.fails for row in rows))


if __name__ == "__main__":
    sys.exit(main())
