"""What all sources of samples share: captions that are shown, bad pairs, held-out splits; file patterns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_pairs import pair, picture

from workbench.errors import BadSample
from workbench.loading.captions import clean
from workbench.loading.fields import Pick
from workbench.loading.paths import braces, expand
from workbench.loading.samples import Samples
from workbench.types import Skipped

SAID = ["one", "two two", "three three three", "four"]


class Lists:
    """A table in memory."""

    beside: Mapping[str, int] = {}
    mixed: str | None = None
    files = None

    def __init__(self, pairs: list[tuple[bytes, list[Any]]], left_out: Sequence[Skipped] = ()) -> None:
        self.pairs, self.left_out = pairs, left_out

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return f"pair {index}"

    def root(self, index: int, column: str) -> str:
        return ""

    def cells(self, index: int, column: str) -> list[Any]:
        return [self.pairs[index][0]] if column == "image" else self.pairs[index][1]

    def filled(self, column: str) -> np.ndarray:
        return np.ones(len(self), bool)


class Memory(Samples):
    usual = {"image": "image", "text": "text"}  # noqa: RUF012

    def source(self, value: Any) -> Lists:
        return value

    def table(self, source: Lists) -> Lists:
        return source

    def absent(self, source: Lists) -> None:
        return None


def memory(train: Lists, held_out: Lists | None = None, **options: Any) -> Memory:
    said: dict[str, Any] = {"at_most": 2, "max_pixels": 1000} | options
    max_bad = said.pop("max_bad", 0.01)
    return Memory(train, validation=held_out, max_bad=max_bad, **pair(**said))  # type: ignore[arg-type]


@pytest.mark.parametrize(("pick", "expected"), [("first", SAID[:2]), ("longest", [SAID[2], SAID[1]])])
def test_captions_are_picked_as_asked(pick: Pick, expected: list[str]) -> None:
    data = memory(Lists([(picture(1), SAID)]), pick=pick)
    assert data.sample(0, np.random.default_rng()).inputs["text"] == expected


def test_random_captions_are_distinct_and_all_come_up() -> None:
    data = memory(Lists([(picture(1), SAID)]))
    seen = [data.sample(0, np.random.default_rng(i)).inputs["text"] for i in range(200)]
    assert all(len(set(texts)) == 2 for texts in seen)
    first = [texts[0] for texts in seen]
    assert all(20 < first.count(text) < 85 for text in SAID)  # 50 expected, standard deviation 6
    again = data.sample(0, np.random.default_rng(7)).inputs["text"]
    assert again == seen[7]


def test_fewer_captions_than_asked_are_what_there_is() -> None:
    sample = memory(Lists([(picture(1), ["only"])]), at_most=5, views=3).sample(0, np.random.default_rng())
    assert sample.inputs["text"] == ["only"]
    assert len(sample.inputs["image"]) == 3


def test_what_says_nothing_is_no_caption() -> None:
    assert clean([" a ", "", "  ", None, 3, float("nan"), "b\n"]) == ["a", "b"]
    for captions in ([], [None, " "]):
        with pytest.raises(BadSample, match=r"^pair 0: no caption$"):
            memory(Lists([(picture(1), captions)])).sample(0, np.random.default_rng())


def test_a_bad_picture_is_named() -> None:
    with pytest.raises(BadSample, match=r"^pair 0: 9 x 7 pixels are more than max_pixels=62"):
        memory(Lists([(picture(1), ["a"])]), max_pixels=62).sample(0, np.random.default_rng())
    with pytest.raises(BadSample, match=r"^pair 0: .*not a picture"):
        memory(Lists([(b"junk", ["a"])])).sample(0, np.random.default_rng())


def test_the_held_out_split_leaves_out_bad_pairs_and_says_which() -> None:
    pairs: list[tuple[bytes, list[Any]]] = [(picture(i), [f"{i}", f"also {i}"][: 1 + i % 2]) for i in range(12)]
    pairs[3] = (pairs[3][0][:40], ["cut"])
    pairs[7] = (pairs[7][0], [None])
    data = memory(Lists([]), Lists(pairs))
    split = data.split("validation")
    assert data.split("validation") is split
    levels = [image.getpixel((0, 0))[0] for image in split.items["image"].raw]
    assert levels == [i for i in range(12) if i not in (3, 7)]
    texts, ids = split.items["text"].raw, split.items["text"].ids.tolist()
    assert [int(text.split()[-1]) for text in texts] == [levels[i] for i in ids]
    assert split.items["image"].ids.tolist() == list(range(10))
    assert [s.name for s in data.skipped] == ["pair 3", "pair 7"]


def test_a_held_out_split_that_is_mostly_bad_is_refused() -> None:
    with pytest.raises(ValueError, match=r"12 bad samples among 12 are more than"):
        memory(Lists([]), Lists([(b"", ["a"])] * 12)).split("validation")
    with pytest.raises(ValueError, match=r"no usable sample; the first one is pair 0 \("):
        memory(Lists([]), Lists([(b"", ["a"])] * 2)).split("validation")
    with pytest.raises(ValueError, match=r"no split 'test': set data.splits.test"):
        memory(Lists([])).split("test")


def test_what_a_table_leaves_out_counts_too() -> None:
    left_out = [Skipped(f"row {i}", "not a pair") for i in range(11)]
    data = memory(Lists([(picture(1), ["a"])] * 3, left_out))
    with pytest.raises(ValueError, match=r"11 bad samples among 14"):
        len(data)
    data = memory(Lists([(picture(1), ["a"])] * 3, left_out), max_bad=11)
    assert len(data) == 3
    assert data.skipped == left_out


def test_braces_name_every_file() -> None:
    assert braces("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    assert braces("plain*.tar") == ["plain*.tar"]


def test_patterns_find_files_once_and_say_what_is_not_there(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "x00.tar", "x02.tar"):
        (tmp_path / name).touch()
    assert expand(f"{tmp_path}/?.tar") == ([f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"], [])
    found, absent = expand((f"{tmp_path}/x{{00..02}}.tar", f"{tmp_path}/x*.tar", f"{tmp_path}/none/*"))
    assert found == [f"{tmp_path}/x00.tar", f"{tmp_path}/x02.tar"]
    assert absent == [f"{tmp_path}/x01.tar", f"{tmp_path}/none/*"]
