"""Forecasts agree with arithmetic done by hand: of a program written here in machine code, and of products alone."""

from __future__ import annotations

from itertools import count

import pytest

pytest.importorskip("triton", reason="the kernels are written in Triton, which is for Linux")

from kernels.forecast import published
from kernels.forecast.cycles import IN_TURN, Bytes, count_bytes, ideal_seconds, time_tile
from kernels.forecast.gpus import A100, B200, H100, find_gpu
from kernels.forecast.machine_code import Execution, Tile, Work, count_tile

TILE = Tile(rows=64, columns=128, depth=64, warps=4, operand_bytes=2)
HGMMA = "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR12], R24 "


def write_code(*lines: str) -> str:
    """Writes lines as nvdisasm does; what ends with a colon is a label."""
    address = count(0, 16)
    body = (
        line if line.endswith(":") else f"        /*{next(address):04x}*/                   {line};" for line in lines
    )
    return "\n".join(["\t.section\t.text.k", ".text.k:", *body, "", "\t.section\t.nv.info"])


def make_kernel(*, peeled: int = 0, within: int = 1, optional: int = 40, skip: bool = False) -> str:
    """Writes a kernel with a tile loop, a product loop in it, and a branch around `optional` instructions."""
    return write_code(
        "MOV R1, c[0x0][0x28] ", "@P0 EXIT ",
        ".L_tiles:", "LDG.E R2, [R2] ", *(["@P3 BRA `(.L_next) "] if skip else []), *[HGMMA] * peeled,
        ".L_product:", "UTMALDG.2D [UR8], [UR12] ", *[HGMMA] * within, "@P1 BRA `(.L_product) ",
        "@P2 BRA `(.L_common) ", *["ISETP.NE.AND P4, PT, R1, R2, PT "] * optional,
        ".L_common:", "BRA.DIV UR4, `(.L_apart) ", "MUFU.EX2 R8, R8 ", "FADD R9, R9, R8 ", "FADD R9, R9, R8 ",
        ".L_next:", "@P5 EXIT ", "BRA `(.L_tiles) ",
        ".L_apart:", *["SHFL.BFLY PT, R1, R2, 0x1, 0x1f "] * 99, "BRA `(.L_common) ",
    )  # fmt: skip


def test_counts_what_the_common_tile_executes() -> None:
    executed = count_tile(make_kernel(), TILE)
    # 64 of depth by 16: four turns of the product loop
    assert executed.trips == 4
    assert executed.product.instructions == {"UTMALDG.2D": 16, "HGMMA.64x128x16.F32.BF16": 16, "BRA": 16}
    assert executed.rest.instructions == {
        "LDG.E": 4, "BRA": 8, "BRA.DIV": 4, "MUFU.EX2": 4, "FADD": 8, "EXIT": 4,
    }  # fmt: skip
    assert executed.whole.flops == TILE.flops == 2 * 64 * 128 * 64
    assert executed.whole.product_reads == 4 * (64 + 128) * 16 * 2
    assert not executed.skips


@pytest.mark.parametrize(("peeled", "within", "trips"), [(0, 2, 2), (0, 4, 1), (2, 1, 2), (1, 3, 1)])
def test_trips_follow_from_the_flops(peeled: int, within: int, trips: int) -> None:
    executed = count_tile(make_kernel(peeled=peeled, within=within), TILE)
    assert (executed.trips, executed.whole.flops) == (trips, TILE.flops)


def test_code_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="of another tile or depth"):
        count_tile(make_kernel(within=3), TILE)
    with pytest.raises(ValueError, match="no loop with a matrix product"):
        count_tile(write_code("FADD R1, R1, R2 ", "EXIT "), TILE)


def test_tiles_without_a_product_are_seen() -> None:
    assert count_tile(make_kernel(skip=True), TILE).skips


@pytest.mark.parametrize(
    ("name", "tile", "flops"),
    [
        ("HMMA.16816.F32.BF16 R4, R8, R2, R4 ", Tile(64, 64, 16, 4, 2), 2 * 16 * 8 * 16 * 4),
        ("HMMA.1688.F32.TF32 R4, R8, R2, R4 ", Tile(64, 64, 16, 4, 4, tf32=True), 2 * 16 * 8 * 8 * 4),
        ("UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8] ", Tile(128, 128, 64, 4, 2), 2 * 128 * 128 * 16),
        ("FFMA R4, R8, R2, R4 ", Tile(64, 64, 16, 4, 4), 2 * 32 * 4),
    ],
)
def test_instructions_name_their_flops(name: str, tile: Tile, flops: int) -> None:
    body = [name, "@P1 BRA `(.L_a) ", "@P0 BRA `(.L_t) ", "EXIT "]
    executed = count_tile(write_code(".L_t:", "MOV R1, R2 ", ".L_a:", *body), tile)
    assert executed.trips == tile.flops // flops


@pytest.mark.parametrize("gpu", [A100, H100, B200])
def test_products_alone_take_their_flops_over_the_rate(gpu) -> None:
    m, n, d = 4096, 8192, 768
    tile = Tile(128, 128, d, 4, 2)
    executed = Execution(Work({"HMMA.16816.F32": 1}, float(tile.flops)), Work(), 1, False)
    cycles = time_tile(executed, tile, gpu, Bytes(0.0, 0.0), programs=2)
    assert cycles.bound == "tensor"
    assert ideal_seconds(cycles, tile, m, n, gpu) == pytest.approx(2 * m * n * d / gpu.flops)
    # The data sheets' numbers: 312, 989.4 and 2250 TFLOP/s
    assert gpu.flops / 1e12 == pytest.approx({80: 312, 90: 989.4, 100: 2250}[gpu.arch], rel=2e-3)


def test_time_grows_with_rows_and_columns() -> None:
    executed = count_tile(make_kernel(), TILE)

    def seconds(m: int, n: int) -> float:
        moved = count_bytes(TILE, n, 8, stores=True)
        return ideal_seconds(time_tile(executed, TILE, H100, moved, 2), TILE, m, n, H100)

    assert seconds(2**16, 2**17) == pytest.approx(2 * seconds(2**16, 2**16), rel=1e-3)
    assert seconds(2**17, 2**16) == pytest.approx(2 * seconds(2**16, 2**16))


def test_programs_overlap_up_to_the_widest_pipe() -> None:
    # One warp instruction of 32 exponentials takes two clocks of a pipe of 16; product: 100 clocks, rest: 60
    tile = Tile(64, 64, 100 * H100.tensor // (2 * 64 * 64), 4, 2)
    executed = Execution(Work({"HGMMA": 1}, float(100 * H100.tensor)), Work({"MUFU.EX2": 30}), 1, False)
    alone, two, three = (time_tile(executed, tile, H100, Bytes(0.0, 0.0), programs) for programs in (1, 2, 3))
    assert (alone.total, alone.bound) == (160.0, IN_TURN)
    assert (two.total, two.bound) == (three.total, three.bound) == (100.0, "tensor")
    assert two.pipes["special"] == 60.0


def test_each_pipe_has_its_rate() -> None:
    work = Work({"FADD": 8, "FADD2": 8, "ISETP.GT.AND": 8, "LDS.128": 8, "LDSM.16.M88.4": 8, "SHFL.BFLY": 8, "NOP": 8})
    moved = Bytes(l2=5120.0, memory=H100.memory / H100.clock)
    pipes = time_tile(Execution(Work(), work, 0, False), TILE, H100, moved, 9).pipes
    assert pipes == {
        "tensor": 0.0, "special": 0.0, "fp32": 8 * 32 / 128 + 16 * 32 / 128, "integer": 8 * 32 / 64,
        "shared": 8 * 4 + 8 * 4 + 8, "issue": 7 * 8 / 4, "l2": 132.0, "memory": pytest.approx(132.0),
    }  # fmt: skip


def test_bytes_of_a_tile() -> None:
    tile = Tile(128, 64, 768, 4, 2)
    moved = count_bytes(tile, 6400, 8, stores=True)
    assert moved.l2 == (128 + 64) * 768 * 2 + 128 * 64 * 2
    assert moved.memory == 64 * 768 * 2 / 8 + 128 * 768 * 2 / 100 + 128 * 64 * 2


def test_efficiency_is_what_others_published() -> None:
    siglip, memeff, liger = published.PUBLISHED
    assert siglip.efficiency == pytest.approx((6 * 65536**2 * 768 / 989.4e12 + 4 * 65536**2 / 4e12) / 46.9e-3, rel=1e-3)
    assert memeff.efficiency == pytest.approx(10 * 65536**2 * 512 / 312e12 / 201e-3, rel=2e-3)
    assert liger.efficiency == pytest.approx(701 / 989.4, rel=1e-3)
    likely, shortest, longest = published.estimate(1.0)
    assert shortest < likely < longest
    assert (shortest, longest) == pytest.approx((989.4 / 738, 1 / memeff.efficiency), rel=1e-3)


def test_gpus_are_found_by_the_names_that_torch_has() -> None:
    names = {
        "NVIDIA H200": "H200",
        "NVIDIA GH200 480GB": "GH200",
        "NVIDIA A100-SXM4-80GB": "A100",
        "NVIDIA B200": "B200",
    }
    for device, name in names.items():
        gpu = find_gpu(device)
        assert gpu is not None
        assert gpu.name == name
    assert find_gpu("NVIDIA H100 PCIe") is None
    assert find_gpu("NVIDIA H100 NVL") is None
    small = find_gpu("NVIDIA A100-SXM4-40GB")
    assert small is not None
    assert small.memory == 1.555e12
    assert find_gpu("NVIDIA GeForce RTX 4090") is None
