"""What a tile costs on each part of a multiprocessor, which part is the narrowest, and how long a launch should take.

 1. Each instruction is a charge on a pipe: tensor cores by FLOPs, special functions (exp2, log2, reciprocals), float32,
    integers (with comparisons and selections), shared memory (with shuffles and what tensor cores read of it), and all
    of them on the schedulers that issue them. L2 and memory are charged by bytes, a multiprocessor's share of them.
 2. A tile is two phases: its product, and what follows it. A program does one after the other, so that alone it takes
    the widest pipe of the first and the widest of the second.
 3. P programs on a multiprocessor overlap: a tile takes the larger of its widest pipe over both phases, which all of
    them share, and of the two phases in turn divided by P.
 4. Launches take tiles times that over the multiprocessors' clocks, divided by the one factor of
    kernels.forecast.published.

Left out on purpose: latencies, bank conflicts, clocks below boost, the last wave, launches. All of them, and whatever
else is wrong here, are in that factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kernels.forecast.gpus import Gpu
from kernels.forecast.machine_code import Execution, Tile, Work

PIPES = ("tensor", "special", "fp32", "integer", "shared", "issue", "l2", "memory")
"""the parts that a tile is charged on"""
IN_TURN = "phases in turn"
"""what binds where too few programs overlap"""

FP32 = {"FADD": 1, "FMUL": 1, "FFMA": 1, "FADD2": 2, "FMUL2": 2, "FFMA2": 2, "HFMA2": 1}
"""results a thread"""
INTEGER = {
    "BMSK", "F2FP", "FCHK", "FMNMX", "FMNMX3", "FSEL", "FSET", "FSETP", "I2FP", "IABS", "IADD", "IADD3", "IMAD",
    "IMNMX", "ISETP", "LEA", "LOP3", "P2R", "PLOP3", "PRMT", "R2P", "SEL", "SGXT", "SHF", "VIADD", "VIADDMNMX",
    "VIMNMX", "VIMNMX3",
}  # fmt: skip
SPECIAL = {"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV"}
SHARED = {"LDS", "STS", "LDSM", "STSM", "LDGSTS", "SHFL", "LDG", "STG", "LDL", "STL", "ATOMS", "REDUX"}


class Bytes(NamedTuple):
    """Holds what a tile moves, in bytes."""

    l2: float
    """that its operands and results pass through L2"""
    memory: float
    """that memory sees of it"""


@dataclass(frozen=True)
class Cycles:
    """Holds the clocks of a multiprocessor that a tile takes on each pipe, and altogether."""

    pipes: dict[str, float]
    total: float
    bound: str
    """the pipe that is the narrowest, or IN_TURN"""


def count_bytes(tile: Tile, columns: int, group: int, *, stores: bool) -> Bytes:
    """Counts what a tile of a launch with so many columns moves; stores: its results are a matrix as large as the tile.

    `group` row tiles run side by side and share the columns' features, and a row's features come once for all columns.
    """
    row_bytes, column_bytes = (n * tile.depth * tile.operand_bytes for n in (tile.rows, tile.columns))
    results = tile.rows * tile.columns * tile.operand_bytes if stores else 0
    operands = column_bytes / group + row_bytes * min(tile.columns / columns, 1.0)
    return Bytes(row_bytes + column_bytes + results, operands + results)


def _charge(work: Work, gpu: Gpu, tile: Tile) -> dict[str, float]:
    """Returns the clocks that some work takes on each pipe."""
    clocks: dict[str, float] = dict.fromkeys(PIPES, 0.0)
    tensor = False
    for name, count in work.instructions.items():
        kind, *rest = name.split(".")
        tensor = tensor or kind in ("HGMMA", "HMMA", "UTCHMMA")
        clocks["issue"] += count / gpu.issued
        if kind in FP32:
            clocks["fp32"] += count * 32 * FP32[kind] / gpu.fp32
        elif kind in SPECIAL:
            clocks["special"] += count * 32 / gpu.special
        elif kind in SHARED:
            clocks["shared"] += count * _count_words(kind, rest) * 128 / gpu.shared
        elif kind in INTEGER:
            clocks["integer"] += count * 32 / gpu.integer
    clocks["shared"] += work.product_reads / gpu.shared
    if tensor:
        clocks["tensor"] = work.flops / gpu.tensor_rate(tf32=tile.tf32)
    return clocks


def _count_words(kind: str, modifiers: list[str]) -> int:
    """Counts how many times 128 bytes a warp instruction moves in shared memory: 1, 2 or 4."""
    if kind in ("LDSM", "STSM"):  # so many matrices of 128 bytes
        return next((int(m) for m in modifiers if m in ("2", "4")), 1)
    return next((width // 32 for width in (128, 64) if str(width) in modifiers), 1)


def time_tile(executed: Execution, tile: Tile, gpu: Gpu, moved: Bytes, programs: int) -> Cycles:
    """Returns what a tile takes where `programs` of its kind share a multiprocessor."""
    product, rest = _charge(executed.product, gpu, tile), _charge(executed.rest, gpu, tile)
    # Operands are loaded for the product; results are stored after it, but asynchronously
    product["l2"] = moved.l2 * gpu.processors / gpu.l2
    product["memory"] = moved.memory * gpu.processors * gpu.clock / gpu.memory
    pipes = {pipe: product[pipe] + rest[pipe] for pipe in PIPES}
    bound = max(pipes, key=pipes.__getitem__)
    in_turn = (max(product.values()) + max(rest.values())) / max(programs, 1)
    return Cycles(pipes, max(pipes[bound], in_turn), bound if pipes[bound] >= in_turn else IN_TURN)


def ideal_seconds(cycles: Cycles, tile: Tile, rows: int, columns: int, gpu: Gpu) -> float:
    """Returns how long rows x columns take by tiles, with no loss but those of time_tile."""
    tiles = rows / tile.rows * (columns / tile.columns)
    return tiles * cycles.total / (gpu.processors * gpu.clock)
