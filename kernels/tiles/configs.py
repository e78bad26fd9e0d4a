"""Which tile sizes each kernel runs with, by architecture and operand width; never tuned at run time, so that the same
shapes give the same bits in every run.

`python -m kernels.tiles.report` compiles every entry for its architecture, with no GPU, and shows registers, spills and
shared memory; `python -m kernels.bench.gpu` times alternatives on a GPU and prints a new table.

Trap: a configuration that compiles may still not launch: shared memory is limited to 163 KiB on sm_80, 227 KiB on sm_90
(CUDA C++ Programming Guide, table of technical specifications per compute capability) and 99 KiB on sm_86 and sm_89.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KERNELS = ("lse", "gradient", "each", "guided", "sigmoid", "khatri_rao")
"""each: its sums, its gradient, and all that has log-weights, hardness or limits, which takes more registers than
others; guided: log-sum-exps and gradients with a guide, which hold two products at a time"""
DEFAULT, INTERPRETER = 0, -1
"""what stands for an architecture: any that is not in the table, and Triton's interpreter"""


@dataclass(frozen=True)
class Config:
    """Holds the sizes of a kernel's tiles, rows block_m x columns block_n x depth block_k, and how it is launched."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group: int = 8
    """row tiles that run side by side"""
    programs: int = 0
    """programs per multiprocessor, each going through many tiles; 0 for one program a tile"""
    strips: int = 2
    """of columns, 2 or 4: how a tile's logits are gone through once they are there; more take fewer registers"""


_SMALL = {2: Config(64, 64, 64, 4, 3), 4: Config(64, 64, 16, 4, 3, strips=4)}
_NARROW = Config(64, 32, 16, 4, 3)
"""for float32 products of three, which spill in 64 x 64 on sm_86 and in this on sm_90, both with Triton 3.9; and for
two products at a time, which spill in 64 x 64 on sm_90"""
_TINY = Config(32, 32, 32, 4, 1, group=2)

# Compiled, not timed: the largest tiles of which two programs fit on a multiprocessor, so that the exponentials of one
# overlap the products of the other. 128 x 256 with 8 warps is one program and spills in `gradient` and `sigmoid`.
# float32: one entry serves ieee, which has no tensor cores and spills with larger tiles, and tf32.
TABLE: dict[tuple[int, str, int], Config] = {
    **{(DEFAULT, kernel, size): _SMALL[size] for kernel in KERNELS for size in (2, 4)},
    **{(DEFAULT, kernel, 4): _NARROW for kernel in ("guided", "khatri_rao")},
    **{(INTERPRETER, kernel, size): _TINY for kernel in KERNELS for size in (2, 4)},
    (80, "lse", 2): Config(128, 64, 64, 4, 3, strips=4),
    (80, "gradient", 2): Config(128, 64, 64, 4, 3, strips=4),
    (80, "each", 2): Config(128, 64, 64, 4, 3, strips=4),
    (80, "guided", 2): Config(64, 64, 64, 4, 3),
    (80, "sigmoid", 2): Config(128, 64, 64, 4, 3, strips=4),
    (80, "khatri_rao", 2): Config(128, 64, 64, 8, 3),
    (90, "lse", 2): Config(128, 128, 64, 4, 3, strips=4),
    (90, "gradient", 2): Config(128, 128, 64, 4, 3, strips=4),
    (90, "each", 2): Config(128, 128, 64, 8, 3, strips=4),
    (90, "guided", 2): Config(128, 64, 64, 8, 3),
    (90, "sigmoid", 2): Config(128, 128, 64, 4, 3, strips=4),
    (90, "khatri_rao", 2): Config(128, 128, 64, 8, 3),
    **{(arch, kernel, 4): _SMALL[4] for arch in (80, 90) for kernel in KERNELS},
    (80, "khatri_rao", 4): _NARROW,
    **{(arch, "guided", 4): _NARROW for arch in (80, 90)},
}

_overrides: dict[str, Config] = {}


def choose(kernel: str, arch: int, element_bytes: int, m: int, n: int, processors: int) -> Config:
    """Chooses the table's entry, or a small tile where large ones would leave multiprocessors idle.

    arch: 10 * major + minor, or INTERPRETER; m, n: rows and columns of one launch; processors: multiprocessors.
    """
    if kernel in _overrides:
        return _overrides[kernel]
    config = TABLE.get((arch, kernel, element_bytes)) or TABLE[DEFAULT, kernel, element_bytes]
    tiles = -(-m // config.block_m) * -(-n // config.block_n)
    small = arch == INTERPRETER or element_bytes == 4  # as they are
    return config if small or tiles >= processors else TABLE[DEFAULT, kernel, element_bytes]


@contextmanager
def override(kernel: str, config: Config) -> Iterator[None]:
    """Runs a kernel with another configuration, for sweeps and tests."""
    before = dict(_overrides)
    _overrides[kernel] = config
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)
