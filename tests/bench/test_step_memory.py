"""Memory of a step with a micro-batch: linear in the batch, by a bound that is counted from shapes."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import kernels.chunked.logits
from workbench.bench import memory


@pytest.mark.slow
def test_a_micro_batch_bounds_what_a_step_needs() -> None:
    """Counted: what is held for the whole batch, and chunks of logits; measured: what encoding a micro-batch needs.

    The whole batch holds its bytes, and in float32 the rows of images, texts and fused views a few times over: as they
    leave the model, concatenated, in the accumulation of a loss, each with a gradient.
    """
    batch, microbatch = 6144, 256
    rows = (memory.VIEWS + 1 + memory.VIEWS) * memory.DIM * 4
    linear = memory.VIEWS * 3 * memory.SIZE**2 + memory.LENGTH * 8 + 2 * 5 * rows
    kept = 2**24  # not 2**26: all logits of this batch would nearly be kept, and nothing be seen
    chunks = 4 * (kept + 2 * kernels.chunked.logits.MIN_ROWS * memory.VIEWS * batch)
    keep_less = f"import kernels.chunked.logits as logits; logits.KEPT_CELLS = {kept}"
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=exec, initargs=(keep_less,)) as pool:
        points = [pool.submit(memory.measure, "ito", *point) for point in ((microbatch, None), (batch, microbatch))]
    encoding, found = (point.result() for point in points)
    bound = encoding.step_mib + (batch * linear + chunks) / 2**20
    print(f"{found.step_mib:.0f} MiB, bound {bound:.0f}")
    assert found.step_mib < bound
    assert bound < 4 * (memory.VIEWS * batch) ** 2 / 2**20 / 2, "half a matrix of logits"
    assert 0 < found.loss_share < 1


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["confu", "confu_chain"])
def test_three_modalities_take_a_step(objective: str) -> None:
    found = memory.measure(objective, 96, 32)
    assert (found.objective, found.batch, found.microbatch) == (objective, 96, 32)
    assert found.seconds > 0
    assert 0 < found.loss_share < 1


@pytest.mark.slow
def test_the_command_writes_a_table_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory, "measure_alone", lambda *point: memory.Measured(*point, 70.0 + point[1], 900.0 + point[1], 4.0, 0.25)
    )
    out = tmp_path / "m.csv"
    done = CliRunner().invoke(memory.main, ["--out", str(out), "--largest", "2048"])
    assert done.exit_code == 0, done.output
    lines = out.read_text().splitlines()
    assert lines[0] == "objective,batch,microbatch,step_mib,process_mib,seconds,loss_share"
    assert lines[1:] == [
        f"{objective},{point}.0,4.0,0.25"
        for objective in ("ito", "confu", "confu_chain")
        for point in ("512,,582.0,1412", "2048,,2118.0,2948", "2048,512,2118.0,2948")
    ]
    assert "| confu | 2048 | 512 | 2,118 | 2.88 | 4.0 | 25% |" in done.stdout
    assert min(Image.open(out.with_suffix(".png")).size) > 300
