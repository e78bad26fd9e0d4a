"""A part of the training ids: drawn by the run's seed, whole ids, and the same part whatever else a recipe says."""

from pathlib import Path

import numpy as np
import pytest

from workbench.data.csv import CSV
from workbench.data.emoji import Emoji
from workbench.data.shards import Shards
from workbench.loading.draws import build_data
from workbench.loading.shares import Limit
from workbench.recipe.schema import load_recipe, parse_recipe


def keep(limit: int | str, ids: np.ndarray, seed: int = 0) -> set[int]:
    found = Limit.parse(limit)
    assert found
    return set(ids[found.keep(ids, seed)].tolist())


def test_ids_are_kept_whole_and_as_many_as_are_asked_for() -> None:
    ids = np.repeat(np.random.default_rng().permutation(40), np.random.default_rng().integers(1, 5, 40))
    limit = Limit.parse(7)
    assert limit
    rows = limit.keep(ids, 3)
    assert rows.tolist() == sorted(rows.tolist())
    assert len(set(ids[rows].tolist())) == 7
    assert set(rows.tolist()) == set(np.flatnonzero(np.isin(ids, ids[rows])).tolist())
    assert len(keep("25 %", ids)) == 10
    assert keep(40, ids) == set(ids.tolist())


def test_the_seed_draws_and_a_larger_limit_keeps_what_a_smaller_one_does() -> None:
    ids = np.arange(200)
    assert keep(20, ids, 1) == keep("10 %", ids[::-1], 1) != keep(20, ids, 2)
    assert keep(20, ids, 1) < keep(50, ids, 1)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (0, "limit: 0: write how many ids"),
        (-3, "limit: -3: write how many ids"),
        ("many", "limit: 'many': write how many ids"),
        ("0 %", "leaves nothing on one side"),
        (41, r"limit: 41 of 40 ids: set data.limit to a number between 1 and 40"),
        ("1 %", r"limit: 1 % of 40 ids: set data.limit"),
    ],
)
def test_what_leaves_nothing_or_asks_for_more_is_refused(limit: int | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep(limit, np.arange(40))


@pytest.mark.slow
def test_arms_of_one_seed_train_on_the_same_concepts() -> None:
    def concepts(name: str, seed: int, limit: str = "5 %") -> set[int]:
        data = build_data(load_recipe(name, (f"seed={seed}", f"data.limit={limit}")))
        assert isinstance(data, Emoji)
        return set(data._concept)

    ito = concepts("emoji_ito.yaml", 1)
    assert len(ito) == round(0.05 * len(concepts("emoji_ito.yaml", 1, "null")))
    assert ito == concepts("emoji_clip.yaml", 1) != concepts("emoji_ito.yaml", 2)


def test_samples_are_those_of_the_whole_set_and_other_splits_stay_whole() -> None:
    whole, some = Emoji(drawings="different"), Emoji(drawings="different", limit=30)
    some.draw_limit(5)
    some.draw_limit(6)  # the last one counts: nothing of an earlier draw is left
    other = Emoji(drawings="different", limit=30)
    other.draw_limit(6)
    assert some._concept == other._concept
    assert len(set(some._concept)) == 30
    for index in (0, len(some) - 1):
        mine = some.sample(index, np.random.default_rng(3))
        at = [i for i, concept in enumerate(whole._concept) if concept == mine.id]
        theirs = [whole.sample(i, np.random.default_rng(3)) for i in at]
        assert any(mine.inputs["text"] == t.inputs["text"] for t in theirs)
        assert any(mine.inputs["image"][0].tobytes() == t.inputs["image"][0].tobytes() for t in theirs)
    assert len(some.split("validation").items["image"]) == len(whole.split("validation").items["image"])


def test_a_table_keeps_rows_of_the_ids_that_are_left(tmp_path: Path) -> None:
    lines = ["a,b,film", *(f"{n},{n % 7},f{n // 3}" for n in range(60))]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    csv = {
        "name": "csv",
        "path": str(tmp_path / "x.csv"),
        "fields": {name: {"kind": "text", "from": name} for name in "ab"},
        "id": "film",
        "validation": "20 %",
        "limit": 4,
    }
    encoders = dict.fromkeys("ab", "open_clip")
    tree = {"name": "x", "data": csv, "model": {"dim": 8, "encoders": encoders}, "objective": "clip"}
    data = build_data(parse_recipe(tree | {"train": {"for": "2 steps", "batch": 4}}))
    assert isinstance(data, CSV)
    ids = [data.sample(i, np.random.default_rng(0)).id for i in range(len(data))]
    assert (len(data), len(set(ids))) == (12, 4)
    assert not set(ids) & set(data.split("validation").items["a"].ids.tolist())


def test_a_stream_has_no_limit() -> None:
    with pytest.raises(ValueError, match="streaming cannot tell which ids there are"):
        Shards(path="x.tar", streaming=True, samples=9, limit=3)
