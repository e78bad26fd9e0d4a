"""What the compiler made of a kernel, read back from its cubin by the tools in Triton's wheel; no GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import triton

if TYPE_CHECKING:
    from triton.compiler import CompiledKernel

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


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
    100: Multiprocessor(233472, 232448, 64),
}


@dataclass(frozen=True)
class Usage:
    """Holds what a kernel takes of a multiprocessor, and its machine code."""

    registers: int
    stack: int
    shared: int
    """bytes"""
    local: int
    """loads and stores of local memory"""
    tensor: int
    """tensor-core instructions"""
    disassembly: str


def read_usage(kernel: CompiledKernel) -> Usage:
    """Reads registers, stack, shared memory and instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        disassembly = _output("nvdisasm", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    local, tensor = (
        len(re.findall(rf"\b(?:{names})\b", disassembly)) for names in ("LDL|STL", "HMMA|HGMMA|UTCHMMA|UTCQMMA")
    )
    return Usage(int(found[1]), int(found[2]), kernel.metadata.shared, local, tensor, disassembly)


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
