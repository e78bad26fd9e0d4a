"""What is said of answers: words that follow from numbers, and pictures that can be drawn of them."""

import math

from workbench.studies.synergy.questions import Answer, Question
from workbench.studies.synergy.report import as_json, draw, presets, sentences, table
from workbench.studies.synergy.usable import Interval

NOTHING = Interval(0.0, 0.0, 0.01)


def answer(
    target: str, first: str, second: str, summed: Interval, gain: Interval, exact: dict[str, float] | None = None
) -> Answer:
    fused = Interval(*(a + b for a, b in zip(summed, gain, strict=True)))
    single = {first: NOTHING, second: Interval(0.4, 0.3, 0.5)}
    return Answer(Question(target, first, second), 4000, 7, 64, single, summed, fused, gain, exact)


ONE = Interval(1.0, 0.9, 1.1)
FUSE = answer("c", "a", "b", ONE, Interval(0.5, 0.4, 0.6), {"a": 0.0, "b": 0.4, "fused": 1.5})
PAIRS = answer("c", "a", "d", ONE, Interval(0.0, -0.01, 0.02))
UNSURE = answer("a", "b", "c", ONE, Interval(0.1, 0.0, 0.2))


def test_json_has_the_gain_of_the_pair_that_gains_most_and_all_pairs() -> None:
    found = as_json([PAIRS, UNSURE, FUSE])
    assert list(found) == ["c", "a"]  # in the order in which they were asked
    told = found["c"]
    assert isinstance(told, dict)
    assert told["gain"] == {"mean": 0.5, "low": 0.4, "high": 0.6, "pair": "a+b"}
    assert told["word"] == "fuse"
    assert set(told["summed"]) == {"a+d", "a+b"}
    assert told["pairs"]["a+d"]["word"] == "pairs are enough"
    assert told["pairs"]["a+b"]["exact"]["fused"] == 1.5
    assert told["pairs"]["a+d"]["left_out"] == 7
    assert told["pairs"]["a+b"]["shared"] == NOTHING._asdict()


def test_each_word_is_a_sentence_with_its_numbers() -> None:
    (fuse,) = sentences([FUSE])
    assert fuse.startswith("c: fuse. a+b fused tell 0.40 to 0.60 nats of it that no sum of their scores tells (a gain")
    assert fuse.endswith("matters from 0.15 on).")
    assert list(sentences([PAIRS])) == ["c: pairs are enough. Fusing adds at most 0.02 nats, below 0.10."]
    (unsure,) = sentences([UNSURE])
    assert unsure.startswith(
        "a: cannot tell with 4,000 samples. b+c gain 0.00 to 0.20 nats, and 0.11 would matter; about"
    )


def test_where_nothing_is_and_where_no_room_is_left_is_said() -> None:
    (nothing,) = sentences([answer("c", "a", "b", NOTHING, NOTHING)])
    assert nothing == (
        "c: pairs are enough, as the critics find nothing to use, fused or not: at most 0.02 nats. A dependence that "
        "takes a trained tower to see is not found so: ask again of what `wb embed` writes of your own towers."
    )
    full = math.log(64) - 0.1
    (said,) = sentences([answer("c", "a", "b", Interval(full, full - 0.1, full + 0.05), Interval(0, -0.02, 0.02))])
    assert said.endswith("the sum is near the ceiling ln B, and a larger --batch may show more.")


def test_presets_follow_the_words_and_the_chain_needs_a_fourth_field() -> None:
    def cells(answers: list[Answer]) -> list[str]:
        drawn = presets(answers)
        return [f"{a} {b}" for a, b in zip(drawn.columns[0].cells, drawn.columns[2].cells, strict=True)]

    assert cells([FUSE, PAIRS]) == ["clip, siglip, hub yes", "confu, symile yes", "confu_chain yes"]
    assert cells([PAIRS])[1] == "confu, symile nothing more to use"
    assert cells([UNSURE]) == ["clip, siglip, hub yes", "confu, symile perhaps"]


def test_a_table_and_a_picture_are_made_also_of_partly_known_exact_values() -> None:
    drawn = table([FUSE, PAIRS])
    assert list(drawn.columns[-2].cells) == ["-", "-"]
    assert [len(axes.patches) for axes in draw([FUSE, PAIRS], "$t$itle").axes] == [8]
