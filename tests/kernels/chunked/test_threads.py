"""Chunks on several threads: the bits of one thread, sums in their order, errors at the caller, nothing left behind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from loss_arguments import assert_equal, random_arguments, run

import kernels
import kernels.chunked.logits
import kernels.chunked.positives
from kernels.chunked.threads import Stopped, Turns, _Crew, _idle, run_each, run_on_threads

LOSSES = ("mean", "logsum", "each", "sigmoid", "contrast_lse")
ROWS = [slice(i, i + 1) for i in range(12)]


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernels.chunked.logits, "WORTH_THREADS", 0)
    monkeypatch.setattr(kernels.chunked.logits, "MIN_COLUMNS", 9)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("few", [0, 16])
def test_the_bits_are_those_of_one_thread(loss, few, small_chunks, monkeypatch):
    monkeypatch.setattr(kernels.chunked.positives, "FEW", few)
    p = random_arguments(torch.seed() % 2**31, 31, 23, 4, 10.0, num_ids=5).to(torch.float32)
    three = run(loss, p, backend="chunked")
    torch.set_num_threads(1)
    one = run(loss, p, backend="chunked")
    assert all(torch.equal(three[name], one[name]) for name in one)
    assert_equal(three, run(loss, p.to(torch.float64), backend="reference"), 1e-4)


@pytest.mark.parametrize(("loss", "symmetric"), [("each", True), ("mean", False), ("sigmoid", None)])
def test_the_bits_of_prefixes(loss, symmetric, small_chunks):
    options = {"prefixes": [2, 3, 4]} | ({} if symmetric is None else {"symmetric": symmetric})
    p = random_arguments(torch.seed() % 2**31, 31, 23, 4, 10.0, num_ids=5, backend="chunked", **options)
    three = run(loss, p.to(torch.float32))
    torch.set_num_threads(1)
    assert all(torch.equal(three[name], one) for name, one in run(loss, p.to(torch.float32)).items())


@pytest.mark.parametrize("positives", ["mean", "each"])
def test_the_bits_of_rows_alone(positives, small_chunks):
    p = random_arguments(torch.seed() % 2**31, 31, 23, 4, 10.0, num_ids=5, symmetric=False).to(torch.float32)
    three = run(positives, p, backend="chunked")
    torch.set_num_threads(1)
    assert all(torch.equal(three[name], one) for name, one in run(positives, p, backend="chunked").items())


def test_torch_has_one_thread_inside_and_what_it_had_outside():
    inside, begun = [], []

    def work(rows: slice) -> None:
        inside.append((torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()))
        time.sleep(0.002)

    run_on_threads(lambda: run_each(ROWS, work, Turns()), 2)
    assert {found[:2] for found in inside} == {(1, False)}
    assert len({found[2] for found in inside} - {threading.get_ident()}) == 2
    new = threading.Thread(target=lambda: begun.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert [torch.get_num_threads(), *begun] == [3, 3]


def test_the_threads_of_one_crew_are_kept_and_no_others():
    crews, begun = list[_Crew](), threading.active_count()
    for _ in range(3):
        run_on_threads(lambda: run_each(ROWS, lambda rows: None, Turns()), 3)
        crews += _idle
    assert len(crews) == 3
    assert len({id(crew) for crew in crews}) == 1
    assert threading.active_count() <= max(begun, 1) + 3
    with pytest.raises(ZeroDivisionError):
        run_on_threads(lambda: run_each(ROWS, lambda rows: 1 / 0, Turns()), 3)
    assert _idle == []


def test_sums_are_formed_in_the_order_of_the_rows():
    turns, order = Turns(), []

    def work(rows: slice) -> None:
        time.sleep(0.004 if rows.start % 3 == 0 else 0.0)  # others are ready long before
        with turns.take(rows, "sum"):
            order.append(rows.start)

    run_on_threads(lambda: run_each(ROWS, work, turns), 3)
    assert order == [rows.start for rows in ROWS]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_chunk_reaches_the_caller(threads):
    torch.set_num_threads(threads)
    turns, begun = Turns(), []

    def work(rows: slice) -> None:
        begun.append(rows.start)
        if rows.start == 4:
            time.sleep(0.01)  # until the others wait for these rows
            raise ValueError("no such row")
        with turns.take(rows, "sum"):
            pass

    with pytest.raises(ValueError, match="no such row"):
        run_on_threads(lambda: run_each(ROWS, work, turns), 3)
    assert len(begun) < len(ROWS)


def test_an_interrupted_caller_waits_for_no_more_than_the_chunks_at_work(monkeypatch):
    begun, submit = [], _Crew.submit

    def work(rows: slice) -> None:
        begun.append(rows.start)
        time.sleep(0.02)

    class Interrupted:
        def result(self) -> None:
            time.sleep(0.01)
            raise KeyboardInterrupt

    def submit_and_interrupt(crew: _Crew, function: Callable[[], object]) -> object:
        future = submit(crew, function)
        return Interrupted() if function.__name__ == "lead" else future

    monkeypatch.setattr(_Crew, "submit", submit_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_on_threads(lambda: run_each(ROWS, work, Turns()), 3)
    assert 0 < len(begun) < len(ROWS)


def test_a_chunk_that_an_interrupt_leaves_keeps_no_other_waiting(monkeypatch):
    asked, left, submit, turns = itertools.count(), threading.Event(), _Crew.submit, Turns()

    class Interrupt:
        def is_set(self) -> bool:
            if next(asked) == 2:  # a thread has taken a chunk; meanwhile others take those after it
                time.sleep(0.05)
                left.set()
            return left.is_set()

        set = left.set

    def submit_and_interrupt(crew: _Crew, function: Callable[[], object]) -> object:
        crew.interrupted = Interrupt()
        return submit(crew, function)

    def work(rows: slice) -> None:
        with turns.take(rows, "sum"):
            pass

    monkeypatch.setattr(_Crew, "submit", submit_and_interrupt)
    with ThreadPoolExecutor(1) as caller:
        done = caller.submit(run_on_threads, lambda: run_each(ROWS, work, turns), 3)
        try:
            assert isinstance(done.exception(timeout=5), Stopped)
        finally:
            turns.break_off()  # or a failure here would never end


def test_a_loss_is_computed_while_python_ends(monkeypatch):
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(_Crew, "submit", refuse)
    assert run_on_threads(lambda: 5, 3) == 5


@pytest.mark.slow
def test_inference_mode_and_several_callers(small_chunks):
    torch.set_num_threads(2)
    p = random_arguments(3, 31, 23, 4, 10.0, num_ids=5)
    with torch.inference_mode():
        x = p.x.clone()
        value = kernels.multi_positive_infonce(x, p.y, p.scale, p.x_ids, p.y_ids, backend="chunked")
    with ThreadPoolExecutor(2) as callers:
        results = [callers.submit(run, "mean", p, backend="chunked") for _ in range(2)]
        values = [result.result()["value"] for result in results]
    torch.testing.assert_close(torch.stack(values), value.expand(2))
