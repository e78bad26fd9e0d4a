"""A field that training takes from other samples: never one of the same id, drawn anew, a pure function of the draw."""

from pathlib import Path

import numpy as np
import pytest

from workbench.data.csv import CSV
from workbench.data.emoji import Emoji
from workbench.data.shards import Shards
from workbench.errors import BadSample
from workbench.loading.fields import Fields

FIELDS = {"text": {"from": "text"}, "other": {"kind": "text", "from": "text", "shuffle": True}}


def table(folder: Path, ids: str, **more: object) -> CSV:
    file = folder / "rows.csv"
    file.write_text("id,text\n" + "".join(f"{id},t{row} of {id}\n" for row, id in enumerate(ids)))
    return CSV(path=str(file), fields=Fields.parse(FIELDS), id="id", **more)  # type: ignore[arg-type]


def test_it_is_of_another_id_drawn_anew_and_of_nothing_but_the_generator(tmp_path: Path) -> None:
    data = table(tmp_path, "aabbbc")
    seen = set()
    for index in range(len(data)):
        for seed in range(20):
            sample, again = (data.sample(index, np.random.default_rng(seed)) for _ in range(2))
            assert sample.inputs == again.inputs
            (own,), (other,) = sample.inputs["text"], sample.inputs["other"]
            assert own.startswith(f"t{index} ")
            assert own[-1] != other[-1]
            seen.add((index, other))
    assert len(seen) == sum(6 - "aabbbc".count(id) for id in "aabbbc")  # each row of another id comes up


def test_other_fields_and_their_draws_are_as_without_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("name,alt\n" + "".join(f"n{i},a{i}\n" for i in range(5)))
    texts = {"text": {"from": ["name", "alt"]}, "second": {"kind": "text", "from": ["alt", "name"]}}
    plain = CSV(path=str(file), fields=Fields.parse(texts))
    other = {"kind": "text", "from": "name", "shuffle": True}
    more = CSV(path=str(file), fields=Fields.parse({**texts, "other": other}))
    for index in range(5):
        a, b = (data.sample(index, np.random.default_rng(index)) for data in (plain, more))
        assert a.inputs.items() <= b.inputs.items()


def test_held_out_rows_have_their_own(tmp_path: Path) -> None:
    split = table(tmp_path, "abcdefgh", validation="50 %").split("validation")
    assert list(split.items["text"].raw) == list(split.items["other"].raw)


def test_where_there_is_no_other_sample_it_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="no sample of another id"):
        table(tmp_path, "aaa").sample(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"fields.other: shuffle draws a sample each time, and keep"):
        table(tmp_path, "abc", keep=True)
    with pytest.raises(ValueError, match=r"drop fields.other.shuffle, or streaming"):
        Shards(path="x-*.tar", fields=Fields.parse(FIELDS), streaming=True, samples=10)


@pytest.mark.slow
def test_emoji_give_the_name_of_another_concept() -> None:
    plain, data = Emoji(captions_from="name", limit=3), Emoji(captions_from="name", limit=3, shuffled=True)
    names = {plain.sample(i, np.random.default_rng(0)).inputs["text"][0] for i in range(len(plain))}
    for index in range(len(data)):
        others = set()
        for seed in range(12):
            a, b = (x.sample(index, np.random.default_rng(seed)).inputs for x in (plain, data))
            assert a["text"] == b["text"]
            others.add(b["shuffled"][0])
        assert others == names - {a["text"][0]}
