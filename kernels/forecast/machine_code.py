"""Counts what a kernel executes for one tile, from its disassembly: `nvdisasm` of a cubin, no GPU.

 1. The instructions are cut into blocks at labels and branches, and the blocks are the nodes of a graph.
 2. Loops are the strongly connected parts of that graph; without the edges to their heads, loops within loops appear.
 3. The tile loop is the outermost loop with a matrix product. What is skipped in most tiles (positives, absent rows,
    the diagonal) stands behind branches, so the path that counts is the one with all of the product and otherwise the
    fewest instructions.
 4. Product loops are the loops with a matrix product inside it. How often they run follows from the FLOPs of a tile
    and those of an iteration, which instructions name in their shapes, whatever was peeled or unrolled.

Traps
- The shortest path is the common tile of large batches with few positives. Where ids lie so that every tile may hold
  positives, tiles cost more than is counted here.
- A loop that is neither of the two counts once: a wait that spins on a barrier has no number of its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:(@!?\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
LABEL = re.compile(r"^(\.[\w.]+):")
TARGET = re.compile(r"`\((\.[\w.]+)\)")
WIDTHS = {"128": 16, "64": 8, "U16": 2, "U8": 1}
"""modifiers of stores, and bytes of a thread; 4 where there is none"""
SHAPE = re.compile(r"\.(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True)
class Tile:
    """Says what a program computes in one tile, as instructions do not name all of it."""

    rows: int
    columns: int
    depth: int
    """of the product: the dimensions of the features"""
    warps: int
    operand_bytes: int
    tf32: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.columns * self.depth


@dataclass
class Work:
    """Holds what all warps of a program execute together: instructions by name, and products by FLOPs."""

    instructions: Counter[str] = field(default_factory=Counter)
    """warp instructions, by mnemonic"""
    flops: float = 0.0
    """of matrix products"""
    product_reads: float = 0.0
    """bytes of shared memory that tensor cores read by themselves"""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.instructions + other.instructions,
            self.flops + other.flops,
            self.product_reads + other.product_reads,
        )

    def __mul__(self, times: float) -> Work:
        return Work(
            Counter({name: count * times for name, count in self.instructions.items()}),
            self.flops * times,
            self.product_reads * times,
        )

    @property
    def count(self) -> float:
        return sum(self.instructions.values())


@dataclass
class Block:
    """Holds instructions that run one after the other, and the numbers of the blocks that may follow."""

    work: Work
    follow: list[int] = field(default_factory=list)


def _count_stored_bytes(work: Work) -> float:
    """Counts the bytes that instructions write to memory, those of TMA as infinitely many: they name no size."""
    stored = 0.0
    for name, count in work.instructions.items():
        kind, *modifiers = name.split(".")
        if kind in ("UTMASTG", "UBLKCP"):
            return math.inf
        if kind == "STG":
            stored += count * 32 * next((size for name, size in WIDTHS.items() if name in modifiers), 4)
    return stored


@dataclass(frozen=True)
class Execution:
    """Holds the work of a tile: of its product loop, and of all the rest."""

    product: Work
    rest: Work
    trips: int
    """of the product loop; 0 where it is unrolled"""
    skips: bool
    """whether tiles may pass without their product, as in passes over positives alone"""

    @property
    def whole(self) -> Work:
        return self.product + self.rest

    def stores_matrix(self, tile: Tile) -> bool:
        """Says whether a tile's results go to memory, and not only sums of its rows and columns."""
        return _count_stored_bytes(self.rest) >= tile.rows * tile.columns * tile.operand_bytes


def count_tile(disassembly: str, tile: Tile) -> Execution:
    """Counts what a program executes for one tile. Raises ValueError where no product of the tile's size is found."""
    blocks = cut_blocks(disassembly, tile)
    everything = set(range(len(blocks)))
    outermost = _find_product_loops(everything, None, blocks)
    if not outermost:
        raise ValueError("the machine code has no loop with a matrix product: give a kernel that multiplies by tiles")
    head, loop = max(outermost, key=lambda found: _count_flops(found[1], blocks))
    products = _find_product_loops(loop, head, blocks)
    if not products:
        whole = _run_once(loop, head, blocks, set())
        if whole.flops >= tile.flops:
            return Execution(Work(), whole, 0, False)
        head, loop, products = 0, everything, outermost
    iteration = sum((_run_once(inner, start, blocks, set()) for start, inner in products), Work())
    starts = {start for start, _ in products}
    rest = _run_once(loop, head, blocks, starts)
    # Of float32 products, whose instructions also serve what follows, only those in the loop belong to the product
    peeled = rest.flops if _has_tensor_cores(iteration) else 0.0
    trips = (tile.flops - peeled) / iteration.flops
    if trips <= 0 or abs(trips - round(trips)) > 1e-6:
        raise ValueError(
            f"a tile of {tile.flops} FLOPs is not {peeled:.0f} and a whole number of times {iteration.flops:.0f}: "
            "the machine code is of another tile or depth"
        )
    skips = head > 0 and _goes_round(head, loop - set().union(*(inner for _, inner in products)), blocks)
    return Execution(iteration * round(trips), rest, round(trips), skips)


def cut_blocks(disassembly: str, tile: Tile) -> list[Block]:
    """Cuts a disassembly's code into blocks, the entry first; `follow` holds what each may go on to."""
    pieces, names = _split_at_labels(disassembly)
    blocks = []
    for number, lines in enumerate(pieces):
        block = Block(Work())
        falls_through = True
        for guard, name, operands in lines:
            block.work += _weigh(name, operands, tile)
            target = TARGET.search(operands)
            always = not guard and (target is None or not operands[: target.start()].strip(" ,"))
            if name.startswith("BRA") and target and target[1] in names and not name.startswith("BRA.DIV"):
                block.follow.append(names[target[1]])
                falls_through = not always
            elif name == "EXIT" and not guard:
                falls_through = False
        if falls_through and number + 1 < len(pieces):
            block.follow.append(number + 1)
        blocks.append(block)
    return blocks


def _split_at_labels(disassembly: str) -> tuple[list[list[tuple[str, str, str]]], dict[str, int]]:
    """Returns (guard, name, operands) of instructions by block, and the block that each label names."""
    pieces: list[list[tuple[str, str, str]]] = [[]]
    names: dict[str, int] = {}
    inside = ended = False
    for line in disassembly.splitlines():
        if label := LABEL.match(line):
            inside = inside or label[1].startswith(".text.")
            if inside and pieces[-1]:
                pieces.append([])
            if inside:
                names[label[1]] = len(pieces) - 1
        elif line.startswith(("\t.section", "//-----")) and inside and pieces[-1]:
            break
        elif inside and (found := INSTRUCTION.match(line)):
            if ended:
                pieces.append([])
            pieces[-1].append((found[1] or "", found[2], found[3]))
        # A branch ends a block whatever follows it
        ended = bool(inside and pieces[-1] and pieces[-1][-1][1].startswith(("BRA", "EXIT")))
    return [piece for piece in pieces if piece], names


def _weigh(name: str, operands: str, tile: Tile) -> Work:
    """Returns the work of one instruction, executed by all warps of the program."""
    counted = Counter({name: tile.warps})
    kind, shape = name.split(".")[0], SHAPE.search(name)
    if kind == "HGMMA" and shape:
        # Four warps together; m x n x k. A comes from shared memory, too, where the first operand describes it
        m, n, k = (int(v) for v in shape.groups())
        groups = tile.warps / 4
        a = m if re.match(r"\w+, gdesc", operands) else 0
        return Work(counted, 2 * m * n * k * groups, (a + n) * k * tile.operand_bytes * groups)
    if kind == "UTCHMMA":
        # One thread for the whole program. The shape is in a descriptor: all of a tile's rows and columns, as far as
        # an instruction reaches, and 32 bytes of depth
        m, n, k = min(tile.rows, 128), min(tile.columns, 256), 32 // tile.operand_bytes
        return Work(Counter({name: 1}), 2 * m * n * k, (m + n) * k * tile.operand_bytes)
    if kind == "HMMA":
        # 16816 is 16 x 8 x 16
        digits = name.split(".")[1]
        return Work(counted, 2 * int(digits[:2]) * int(digits[2]) * int(digits[3:]) * tile.warps)
    if kind in ("FFMA", "FFMA2") and tile.operand_bytes == 4 and not tile.tf32:
        return Work(counted, 2 * 32 * tile.warps * (2 if kind == "FFMA2" else 1))
    return Work(counted)


def _has_tensor_cores(work: Work) -> bool:
    return any(name.startswith(("HGMMA", "HMMA", "UTCHMMA")) for name in work.instructions)


def _reach(start: int, inside: set[int], step: Callable[[int], Iterable[int]]) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for after in step(waiting.pop()):
            if after in inside and after not in seen:
                seen.add(after)
                waiting.append(after)
    return seen


def _find_loops(inside: set[int], blocks: list[Block], head: int | None = None) -> list[tuple[int, set[int]]]:
    """Returns (head, blocks) of the loops among some blocks, not counting edges to `head`, whose loop they are."""

    def forward(b: int) -> list[int]:
        return [c for c in blocks[b].follow if c in inside and c != head]

    before: dict[int, list[int]] = {b: [] for b in inside}
    for b in inside:
        for c in forward(b):
            before[c].append(b)
    loops, left = [], set(inside)
    for b in sorted(inside):
        if b not in left:
            continue
        loop = _reach(b, inside, forward) & _reach(b, inside, before.__getitem__)
        left -= loop
        if len(loop) > 1 or b in forward(b):
            entered = {c for p, block in enumerate(blocks) if p not in loop for c in block.follow if c in loop}
            loops.append((min(entered or loop), loop))
    return loops


def _find_product_loops(inside: set[int], head: int | None, blocks: list[Block]) -> list[tuple[int, set[int]]]:
    return [found for found in _find_loops(inside, blocks, head) if _count_flops(found[1], blocks)]


def _goes_round(head: int, inside: set[int], blocks: list[Block]) -> bool:
    """Says whether a path within some blocks leads from `head` back to it."""
    return any(head in blocks[b].follow for b in _reach(head, inside, lambda b: blocks[b].follow))


def _count_flops(loop: set[int], blocks: list[Block]) -> float:
    return sum(blocks[b].work.flops for b in loop)


def _run_once(inside: set[int], head: int, blocks: list[Block], products: set[int]) -> Work:
    """Returns the work on the path from `head` with the most FLOPs and then the fewest instructions, back to it or out.

    products: heads of loops that the path has to go through and that are counted elsewhere.
    """
    inner = {h: loop for h, loop in _find_loops(inside, blocks, head) if h != head}
    loop_of = {b: h for h, loop in inner.items() for b in loop}
    best: dict[int, tuple[tuple[int, float, float], Work]] = {}

    def work_of(node: int) -> Work:
        if node in products:
            return Work()
        return _run_once(inner[node], node, blocks, set()) if node in inner else blocks[node].work

    def after(node: int) -> list[int]:
        ways = {c for b in inner.get(node, {node}) for c in blocks[b].follow if c in inside and c != head}
        return sorted({loop_of.get(c, c) for c in ways} - {node})

    # From the ends to the head; without edges to the head and with loops as one node, there is no circle
    for node in _sort_after(head, after):
        ways = [best[c] for c in after(node)]
        (passed, _, _), rest = max(ways, key=lambda way: way[0]) if ways else ((0, 0.0, 0.0), Work())
        total = work_of(node) + rest
        best[node] = (passed + (node in products), total.flops, -total.count), total
    return best[head][1]


def _sort_after(head: int, after: Callable[[int], list[int]]) -> list[int]:
    """Returns what `head` leads to, everything after what it leads to, and `head` last."""
    order: list[int] = []
    seen: set[int] = set()
    stack = [(head, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(c, False) for c in after(node)]
    return order
