"""Whatever a data set raises is one message with its sample, and no worker outlives what it works for."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.errors import BadSample, DataLost
from workbench.loading.feed import Feed
from workbench.loading.stream import stream
from workbench.types import Batch, Modality, Sample

LENGTH = 16


class TwoWords(Exception):
    """Cannot be pickled: it is made of two arguments, and remembers one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)
        self.open = lambda: two


class Beyond(BaseException):
    """No Exception at all."""


class Numbers:
    """Sample i is i; sample 5 does what it is told."""

    modalities: Mapping[str, Modality] = {"x": Modality("vector", (1,))}

    def __init__(self, act: Callable[[], object], size: Callable[[], int] = lambda: LENGTH) -> None:
        self.act, self.size = act, size

    def __len__(self) -> int:
        return self.size()

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        found = self.act() if index == 5 else None
        if isinstance(found, Sample):
            return found
        return Sample({"x": [torch.tensor([float(index)])]}, index)

    def read(self, part: int) -> Iterator[int]:
        for i in range(part, LENGTH, 2):
            if i == 5:
                self.act()
            yield i

    def decode(self, raw: int, id: int, rng: np.random.Generator) -> Sample:
        return self.sample(raw, rng)


def raising(error: BaseException | type[BaseException]) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def read(data: Numbers, workers: int, transform: Callable[[torch.Tensor], torch.Tensor] = identity) -> list[Batch]:
    return list(islice(Feed({"x": transform}, 4, 3, workers=workers).load(data, 0), 4))


def no_children() -> bool:
    return not multiprocessing.active_children()


ERRORS = [
    KeyError("clip5"),
    RuntimeError("odd"),
    IndexError("odd"),
    TypeError("odd"),
    AssertionError(),
    StopIteration("odd"),
    SystemExit(3),
    MemoryError(),
    RecursionError("odd"),
    NotImplementedError("odd"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    ValueError("odd"),
    TwoWords("odd", "ly"),
    Beyond("odd"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_of_any_type_is_one_message_with_its_sample(error: BaseException, workers: int) -> None:
    said = rf"^sample 5 of the training data cannot be read: {type(error).__name__}.*\n(.*\n)*.*in act"
    with pytest.raises(ValueError, match=said) as raised:
        read(Numbers(raising(error)), workers)
    assert str(error) in str(raised.value)
    assert no_children()


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(5, "gone", "/a/b"), DataLost("/a/b is gone")], ids=["OSError", "DataLost"])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_system_says_of_a_file_needs_no_traceback(error: Exception, workers: int) -> None:
    with pytest.raises(ValueError, match=r"^sample 5 of the training data cannot be read: .*/a/b.*$") as raised:
        read(Numbers(raising(error)), workers)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_raises_is_named_with_its_sample(workers: int) -> None:
    def divide(x: torch.Tensor) -> torch.Tensor:
        return x / (0 if x.item() == 5 else 1) if x.item() != 5 else x.no_such_thing  # type: ignore[attr-defined]

    with pytest.raises(ValueError, match=r"^sample 5 of .*AttributeError: .*no_such_thing(.*\n)*.*in divide"):
        read(Numbers(lambda: None), workers, divide)
    assert no_children()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [KeyError("clip5"), Beyond("odd"), OSError("gone")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("place", ["read", "decode"])
def test_streaming_hands_over_what_is_raised(workers: int, error: BaseException, place: str) -> None:
    data = Numbers(raising(error))
    if place == "decode":
        data.read = lambda part: iter(range(part, LENGTH, 2))  # type: ignore[method-assign]
    batches = stream(data, Feed({"x": identity}, 2, 3, workers=workers), 0, 2, 1)
    with pytest.raises(ValueError, match=r"training data cannot be read: .*(clip5|odd|gone)"):
        list(islice(batches, 8))
    assert no_children()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (Sample({"x": [torch.zeros(1, requires_grad=True) * 1]}, 5), None),
        (Sample({"x": [torch.zeros(1)], "of no encoder": [object()]}, 5), None),
        (Sample({"x": [torch.zeros(1)]}, 5, {"genre": np.int64(2)}), None),  # type: ignore[dict-item]
        (Sample({"x": [torch.zeros(1)]}, 5, {"genre": [1, 2]}), r"^sample 5 .*target 'genre' is \[1, 2\].* one int"),  # type: ignore[dict-item]
        (Sample({"x": [torch.zeros(1)]}, "five"), r"^sample 5 .* its id is 'five'"),  # type: ignore[arg-type]
        (Sample({"x": ["five"]}, 5), r"^(sample 5|the batch) .*(str|five)"),
    ],
    ids=["gradient", "more", "label", "labels", "id", "type"],
)
def test_odd_samples_are_read_or_named(sample: Sample, said: str | None, workers: int) -> None:
    if said:
        with pytest.raises(ValueError, match=said):
            read(Numbers(lambda: sample), workers)
    else:
        batches = read(Numbers(lambda: sample), workers)
        assert sorted(int(i) for b in batches for i in b.ids) == list(range(LENGTH))
        for batch in batches:
            expected = torch.tensor([2 if i == 5 else -1 for i in batch.ids.tolist()])
            assert torch.equal(batch.targets.get("genre", torch.full((4,), -1)), expected) or not sample.targets
    assert no_children()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "value", "said"),
    [
        ((2,), 0.0, r"its x is 2, where the data declares 1: pad or cut it"),
        ((1,), float("-inf"), r"its x holds -inf"),
        ((1,), float("nan"), r"its x holds nan"),
    ],
)
def test_items_that_are_not_what_they_should_be_are_bad_samples(shape: tuple[int], value: float, said: str) -> None:
    data = Numbers(lambda: Sample({"x": [torch.full(shape, value)]}, 5))
    batches = read(data, 1)
    assert [s for b in batches for s in b.skipped] == [("sample 5", said)]
    assert 5 not in {int(i) for b in batches for i in b.ids}


def test_undeclared_shapes_that_differ_are_named_with_their_samples() -> None:
    data = Numbers(lambda: Sample({"x": [torch.zeros(3, 7)]}, 5))
    data.modalities = {"x": Modality("vector")}
    with pytest.raises(ValueError, match=r"^'x' of sample \d+ is (1|3 x 7), of sample \d+ (3 x 7|1): a modality needs"):
        read(data, 1)


def test_a_length_that_cannot_be_said_ends_the_reading() -> None:
    with pytest.raises(KeyError, match="length"):
        read(Numbers(lambda: None, raising(KeyError("length"))), 2)  # type: ignore[arg-type]
    calls: list[int] = []

    def once() -> int:
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("length")
        return LENGTH

    with pytest.raises(ValueError, match=r"^sample 5 .*KeyError: 'length'"):  # asked for a stand-in
        read(Numbers(raising(BadSample("a", "b")), once), 1)
    assert no_children()


@pytest.mark.slow
def test_a_worker_that_does_not_end_is_killed_when_it_has_had_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.loading.workers.stop_workers.__defaults__", (0.2,))
    batches = Feed({"x": identity}, 1, 3, workers=2).load(Numbers(lambda: time.sleep(1000)), 0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    started = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert no_children()
    assert time.monotonic() - started < 60  # and not a thousand


@pytest.mark.slow
def test_python_ends_though_somebody_holds_the_batches(tmp_path: Path) -> None:
    """As an exception in the training loop does, by its traceback."""
    script = tmp_path / "main.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_workers import Feed, Numbers, identity\n"
        "batches = Feed({'x': identity}, 4, 3, workers=2).load(Numbers(lambda: None), 0)\n"
        "next(batches)\n"
        "raise KeyError('in the loop')\n"
    )
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("KeyError: 'in the loop'")
