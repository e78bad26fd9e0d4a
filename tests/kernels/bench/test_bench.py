"""The benchmark measures what it says and compares like with like, on tiny workloads."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import types
from dataclasses import replace

import forked
import pytest
import torch
from bench_remotes import ABOUT, PLAN, Clock, Here
from loss_arguments import assert_equal
from torch import Tensor

from kernels.bench import cases, table, worker
from kernels.bench.compare import compare
from kernels.bench.measuring import Runner
from kernels.bench.plot import COLORS, plot
from kernels.bench.providers import PROVIDERS, Provider, named
from kernels.bench.resident import RESETTABLE
from kernels.bench.session import Deadline
from kernels.bench.tuning import LOSSES, check
from kernels.bench.worker import Failed, Worker
from kernels.bench.workload import Ceilings, Workload

pytestmark = pytest.mark.slow


# --- workloads and providers


AGREEING = [
    (name, loss, positives)
    for name, provider in PROVIDERS.items()
    for loss in ("infonce", "sigmoid", "each rows")
    for positives in (1, 2)
    if name not in ("compile", "open_clip chunked") and provider.covers(Workload(loss, 24, 10, positives), "cpu")
]


@pytest.mark.parametrize(("name", "loss", "positives"), AGREEING)
def test_providers_agree_on_value_and_gradients(name, loss, positives):
    """All providers are asked for the same number, as an unlike one would be compared unfairly."""
    provider, workload = PROVIDERS[name], Workload(loss, 24, 10, positives)
    if name.startswith("pml"):
        pytest.importorskip("pytorch_metric_learning")
    if name.startswith("st "):
        pytest.importorskip("sentence_transformers")
    seed = random.randrange(2**31)
    inputs = workload.inputs("cpu", seed)
    z = inputs.leaves()
    value = provider.build(workload, "cpu")(z)
    value.backward()
    exact = dict(zip(("value", "x", "y"), workload.exact(inputs), strict=True))
    assert_equal({"value": value.detach(), "x": z.x.grad, "y": z.y.grad}, exact, 2e-5, seed)


def test_peers_are_asked_for_the_textbook_gradient(monkeypatch):
    """memeff and inf-cl need CUDA to run, so only what they are called with is looked at."""
    asked = {}

    def clip(temperature, **options):
        asked["memeff"] = {"temperature": temperature, **options}
        return lambda x, y: None

    def one_direction(q, k, **options):
        asked.setdefault("inf_cl", []).append((q, k))
        return torch.nn.functional.cross_entropy(q @ k.T.float(), torch.arange(len(q)))

    monkeypatch.setitem(sys.modules, "memeff", types.SimpleNamespace(MemoryEfficientCLIPLoss=clip))
    monkeypatch.setitem(sys.modules, "inf_cl", types.SimpleNamespace(cal_inf_loss=one_direction))
    workload = Workload("infonce", 6, 256)
    inputs = workload.inputs("cpu")
    PROVIDERS["memeff"].build(workload, "cuda")(inputs)
    assert asked["memeff"] == {"temperature": 1 / inputs.scale.item(), "normalized_inputs": True, "stable": False}
    value = PROVIDERS["inf-cl"].build(workload, "cuda")(inputs)
    assert len(asked["inf_cl"]) == 2
    assert value.item() == pytest.approx(workload.exact(inputs)[0].item(), rel=1e-3)


def test_inputs_repeat_ids_and_are_unit_rows():
    z = Workload("infonce", 12, 7, positives=3).inputs("cpu")
    assert z.ids.bincount().tolist() == [3, 3, 3, 3]
    assert torch.allclose(z.x.norm(dim=1), torch.ones(12))
    cos = z.x @ z.y.T
    same = z.ids[:, None] == z.ids
    assert cos[same].mean() > cos[~same].mean() + 0.2


@pytest.mark.parametrize(
    ("loss", "mode", "factor"),
    [("infonce", "full", 8), ("sigmoid", "full", 6), ("each rows", "full", 6), ("infonce", "forward", 2)],
)
def test_floor(loss, mode, factor):
    workload = Workload(loss, 1000, 64)
    assert workload.floor(mode, Ceilings(1e9, 1e20)) == pytest.approx(factor * 1000 * 1000 * 64 / 1e9)
    passes = 2 if mode == "full" else 1
    assert workload.floor(mode, Ceilings(1e20, 1e6)) == pytest.approx(passes * 2 * 1000 * 64 * 4 / 1e6)


def test_problems_and_names_are_checked():
    with pytest.raises(ValueError, match="n = 7 is no multiple"):
        Workload("infonce", 7, 4, positives=2)
    with pytest.raises(ValueError, match="one of infonce, each, each rows, sigmoid"):
        Workload("triplet", 8, 4)
    with pytest.raises(ValueError, match="no provider is called 'flash'"):
        named(["flash"])
    assert COLORS.keys() == PROVIDERS.keys()


# --- measuring


def test_errors_are_those_of_the_loss(monkeypatch):
    def off(workload, device):
        loss = PROVIDERS["dense"].build(workload, device)
        return lambda z: loss(z) * 1.25

    monkeypatch.setitem(PROVIDERS, "off", Provider("off", off, ("infonce",)))
    runner = Runner("cpu")
    runner.prepare("off", {"loss": "infonce", "n": 32, "d": 8})
    value, gradient = runner.errors(16)
    exact = runner.workload.of_size(16).exact(runner.workload.of_size(16).inputs("cpu"))[0].item()
    assert value == pytest.approx(0.25 * exact, rel=1e-4)
    assert gradient == pytest.approx(0.25, rel=1e-4)


@pytest.mark.skipif(not RESETTABLE.exists(), reason="the peak of a process cannot be reset here")
def test_peak_memory_counts_what_a_run_takes_and_forgets(monkeypatch):
    mib = 64

    def hungry(workload, device):
        return lambda z: torch.ones(mib * 2**18 if len(z.x) == 8 else 1).sum() * 0 + z.x.sum()

    monkeypatch.setitem(PROVIDERS, "hungry", Provider("hungry", hungry, ("infonce",)))
    runner = Runner("cpu")
    runner.prepare("hungry", {"loss": "infonce", "n": 8, "d": 4})
    monkeypatch.setattr("kernels.bench.measuring.WARM_ROWS", 4)
    assert [mib * 0.9 < runner.peak("full") < mib * 1.3 for _ in range(2)] == [True, True]


def test_what_does_not_fit_is_not_tried():
    runner = Runner("cpu")
    with pytest.raises(MemoryError, match="needs at least"):
        runner.prepare("pml NTXent", {"loss": "infonce", "n": 65536, "d": 4})


@pytest.mark.parametrize("loss", LOSSES)
def test_check_sees_a_wrong_gradient(loss, monkeypatch):
    rows = check(Runner("cpu"), "chunked", loss, "float32", (23, 41, 9))
    assert [row["ok"] for row in rows] == [True, True], rows
    right = Tensor.backward

    def wrong(value, *args):
        right(value * (1.02 if value.dtype == torch.float32 else 1.0), *args)

    monkeypatch.setattr(Tensor, "backward", wrong)
    assert [row["ok"] for row in check(Runner("cpu"), "chunked", loss, "float32", (23, 41, 9))] == [False, False]


# --- comparing


def test_comparison_has_rows_and_reasons(tmp_path):
    workloads = [(Workload("infonce", n, 8, 2), named(["chunked", "dense", "memeff"])) for n in (16, 32)]
    broken = Provider("broken", lambda workload, device: 1 / 0, ("infonce",))
    remotes = []

    def open_remote():
        remotes.append(
            Here({"prepare": lambda **asked: prepare(remotes, **asked), "ceilings": lambda dtype: [1e12, 1e11]})
        )
        return remotes[-1]

    def prepare(remotes, provider, workload):
        if provider == "broken":
            raise Failed("out of memory")
        return remotes[-1].runner.prepare(provider, workload)

    out = tmp_path / "results.csv"
    result = compare(
        [(workload, [*providers, broken]) for workload, providers in workloads],
        open_remote,
        PLAN,
        ABOUT,
        done=lambda rows: table.append(out, rows),
    )
    assert [(row["provider"], row["n"]) for row in result.rows] == [
        (p, n) for n in (16, 32) for p in ("chunked", "dense")
    ]
    assert result.list_reasons() == ["broken: out of memory (16 x 8, 32 x 8)"]
    assert all(remote.closed for remote in remotes)
    read = table.read(out)
    assert [row["provider"] for row in read] == ["chunked", "dense"] * 2
    for row in read:
        assert row.keys() == table.COLUMNS.keys()
        assert row["seconds_20"] <= row["seconds"] <= row["seconds_80"]
        assert row["gradient_error"] < 1e-4
        assert row["repeats"] == 3


class Timed:
    """Stands for a remote, on a clock that the test sets. Its ceilings rise, as when another load ends."""

    def __init__(self, clock, order):
        self.clock, self.order, self.name = clock, order, "ceilings"

    def call(self, method, timeout, /, **asked):
        if method == "prepare":
            self.name = asked["provider"]
            return ""
        if method in ("time", "ceilings"):
            self.order.append(self.name)
        if method == "time":
            self.clock.now += 10
        rising = 1e9 * self.order.count("ceilings")
        return {"peak": 1.0, "errors": [0.0, 0.0], "time": [0.1], "ceilings": [rising, 1e20]}[method]

    def close(self):
        pass


def test_turns_are_interleaved_and_end_with_the_time():
    clock, order = Clock(), []
    deadline = Deadline(35.0, clock)
    workloads = [(Workload("infonce", n, 8), named(["chunked", "dense"])) for n in (16, 32)]
    result = compare(workloads, lambda: Timed(clock, order), PLAN, ABOUT, left=deadline.left)
    assert order == ["ceilings", "chunked", "dense", "ceilings", "chunked", "dense", "ceilings"]
    assert [row["repeats"] for row in result.rows] == [2, 2]
    assert [row["floor_seconds"] for row in result.rows] == [
        pytest.approx(8 * 16 * 16 * 8 / 3e9)
    ] * 2  # the best of three
    assert result.unreached == ["infonce, N = 32, D = 8, float32"]


@pytest.mark.slow
def test_a_process_that_fails_crashes_or_hangs_is_one_line():
    worker = Worker("cpu", 1)
    try:
        with pytest.raises(Failed, match=r"is not installed \(pip install"):
            worker.call("prepare", 60.0, provider="inf-cl", workload={"loss": "infonce", "n": 8, "d": 256})
        assert worker.call("about", 60.0)["torch"] == torch.__version__
        with pytest.raises(Failed, match="no answer to ceilings within 0 s"):
            worker.call("ceilings", 0.01, dtype="float32")
    finally:
        worker.close()
    worker = Worker("cpu", 1)
    worker._process.kill()
    try:
        with pytest.raises(Failed, match="ended with exit code -9"):
            worker.call("about", 60.0)
    finally:
        worker.close()


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("date,seconds\n1,2\n")
    with pytest.raises(ValueError, match="move it away"):
        table.append(path, [])


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.3456, "12.3 s"), (0.0123456, "12.3 ms"), (4.2e-5, "42.0 µs"), (0.5, "500 ms")]
)
def test_duration(seconds, text):
    assert table.duration(seconds) == text


def test_plot_draws_nothing_from_nothing(tmp_path):
    plot([], tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


class Forked:
    """Takes the place of Popen in a Worker; the real one is tested above."""

    def __init__(self, command, *, stderr, **_):
        (stdin, to), (back, stdout) = os.pipe(), os.pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=self.serve, args=(command, stdin, stdout, stderr.fileno())
        )
        self.process.start()
        os.close(stdin)
        os.close(stdout)
        self.stdin, self.stdout = os.fdopen(to, "w"), os.fdopen(back)
        self.kill = self.process.kill

    def serve(self, command, *streams):
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.argv = os.fdopen(0), command[2:]
        worker.serve()

    def wait(self):
        self.process.join()
        return self.process.exitcode


def fork_workers():
    """Called before the command; a round has each provider's turn."""
    cases.CPU_PLAN = replace(cases.CPU_PLAN, rounds=1)
    worker.subprocess = types.SimpleNamespace(Popen=Forked, PIPE=None)


@pytest.mark.slow
def test_the_command(tmp_path):
    """The command runs end to end, with a process for everything that is measured."""
    words = ["--sizes", "64", "--dim", "16", "--threads", "1", "--losses", "infonce,sigmoid"]
    words += ["--providers", "chunked,dense,open_clip chunked", "--out", str(tmp_path / "results.csv")]
    done = forked.run(words, fork_workers, "kernels.bench")
    assert done.returncode == 0, done.stderr
    assert "No GPU here" in done.stdout
    assert "open_clip chunked: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    rows = table.read(tmp_path / "results.csv")
    assert {(row["provider"], row["n"]) for row in rows} >= {("chunked", 64), ("dense", 64)}
    assert (tmp_path / "plot.png").exists()
