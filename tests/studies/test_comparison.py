"""Comparisons of runs whose values are given: what is computed, what is said, what is refused, what is left out."""

import shutil
from pathlib import Path

import pytest
from fake_runs import METRIC, make_run

from workbench.errors import RunError
from workbench.studies.comparison import Comparison, compare
from workbench.studies.grouping import group_runs, read_runs
from workbench.studies.paired import Difference
from workbench.studies.run_facts import read_facts
from workbench.studies.wording import Metric, describe

CLIP = {"objective": {"name": "clip"}}


def compared(
    folder: Path, *metrics: str, at: str = "last", against: str | None = None, anyway: bool = False
) -> Comparison:
    assert at in ("last", "best")
    arms = group_runs(read_runs([folder])[0])
    return compare(arms, metrics, "best" if at == "best" else "last", against, anyway=anyway)


@pytest.fixture
def two_arms(tmp_path: Path) -> Path:
    """confu is above clip by .02, .03, .04 in three seeds at last; the seeds are ten times as far apart."""
    for seed, (level, more) in enumerate(((0.2, 0.02), (0.5, 0.03), (0.8, 0.04))):
        make_run(tmp_path / f"clip-seed{seed}", seed, [0.1, level + 0.1, level], **CLIP)
        make_run(tmp_path / f"confu-seed{seed}", seed, [0.1, 0.0, level + more])
    return tmp_path


def test_differences_are_taken_within_seeds(two_arms: Path) -> None:
    found = compared(two_arms)
    last, best = found.measured
    assert (last.metric.name, last.at, best.at) == (METRIC, "last", "best")
    arms = last.arms
    assert arms["clip"] is not None
    assert (arms["clip"].mean, arms["clip"].n) == (pytest.approx(0.5), 3)
    assert arms["clip"].se == pytest.approx(0.3 / 3**0.5)
    (contrast,) = last.contrasts
    assert (contrast.a, contrast.b, contrast.seeds, contrast.unpaired) == ("confu", "clip", (0, 1, 2), ())
    assert contrast.difference is not None
    assert contrast.difference.mean == pytest.approx(0.03)
    assert contrast.difference.se == pytest.approx(0.01 / 3**0.5)
    assert contrast.difference.half_width == pytest.approx(4.302653 * 0.01 / 3**0.5)  # t at two degrees of freedom
    assert last.sentences == ["confu beats clip by 3.00 ± 0.58 points (3 seeds; the interval excludes 0)"]
    # the best step is each run's own: clip's is the one before the last
    assert best.arms["clip"] is not None
    assert best.arms["clip"].mean == pytest.approx(0.6)
    assert best.sentences == ["clip beats confu by 7.00 ± 0.58 points (3 seeds; the interval excludes 0)"]
    assert any("chosen by this very metric" in note for note in found.notes)


def test_the_best_step_is_chosen_by_one_metric_and_read_by_another(tmp_path: Path) -> None:
    curves = {METRIC: [0.1, 0.9, 0.3], "synthetic/loss": [3.0, 2.0, 1.0]}
    for seed in (0, 1):
        make_run(tmp_path / f"clip-seed{seed}", seed, curves, **CLIP)
    found = compared(tmp_path, "synthetic/loss", at="best")
    assert [(one.at, one.values["clip"]) for one in found.measured] == [
        ("best", {0: 2.0, 1: 2.0}),
        ("last", {0: 1.0, 1: 1.0}),
    ]
    assert not any("very metric" in note for note in found.notes)


def test_a_decline_is_the_share_of_the_best_value_that_is_lost(tmp_path: Path) -> None:
    curves = {METRIC: [0.1, 0.8, 0.6], "synthetic/loss": [3.0, 2.0, 2.5], "synthetic/recovered": [0.1, 0.2, 0.4]}
    # the best step is that of the accuracy, at which nothing else need be best
    run = read_facts(make_run(tmp_path / "a", 0, curves))
    names = (METRIC, "synthetic/loss", "synthetic/recovered", "synthetic/none")
    assert [run.value(name, "decline") for name in names] == [pytest.approx(0.25), 0.25, -1.0, None]
    lost = read_facts(make_run(tmp_path / "b", 0, [0.5, float("nan")]))
    assert lost.explain_missing(METRIC, "decline") == f"its {METRIC} is nan"


@pytest.mark.slow
def test_everything_that_is_not_counted_is_named(two_arms: Path) -> None:
    make_run(two_arms / "clip-seed3", 3, [0.1, 0.2, 0.3], **CLIP)
    make_run(two_arms / "confu-seed4", 4, [0.1, 0.2, float("nan")])
    make_run(two_arms / "confu-seed5", 5, [0.1, 0.2], done=False)
    make_run(two_arms / "confu-seed6", 6, {"synthetic/loss": [1.0]})
    found = compared(two_arms)
    assert [contrast.seeds for contrast in found.measured[0].contrasts] == [(0, 1, 2)]
    said = "\n".join(found.left_out)
    assert "confu seed 4" in said
    assert "is nan" in said
    assert "confu-seed5): not finished: step 10" in said
    assert f"confu-seed6): {METRIC} was not measured; it has synthetic/loss" in said
    assert any("as the other arm lacks them" in note and "clip seed 3" in note for note in found.notes)


def test_one_seed_has_no_interval_and_none_says_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "clip-seed0", 0, [0.1], **CLIP)
    make_run(tmp_path / "confu-seed0", 0, [0.3])
    (said,) = compared(tmp_path).measured[0].sentences
    assert (
        said == "confu is above clip by 20.00 points on the one seed that they share: no interval exists for one seed"
    )
    make_run(tmp_path / "b" / "clip-seed1", 1, [0.1], **CLIP)
    (said,) = compare(group_runs(read_runs([tmp_path / "confu-seed0", tmp_path / "b"])[0])).measured[0].sentences
    assert said == "clip and confu share no seed: nothing can be said"


@pytest.mark.parametrize(
    ("name", "mean", "said"),
    [
        ("validation/mean_recall", 0.03, "a beats b by 3.00 ± 1.00 points"),
        ("synthetic/loss", 0.03, "b beats a by 0.030 ± 0.010 ("),
        ("retrieval/text_to_image_median_rank", -3.0, "a beats b by 3.000 ± 0.010 ("),
        ("gap/l2m", -0.2, "a beats b by 0.200 ± 0.010 ("),
        ("gap/probe_accuracy", -0.2, "b is above a by 20.00 ± 1.00 points"),
        ("gap/scale", 2.0, "a is above b by 2.000 ± 0.010 ("),
        ("min gap/scale", 2.0, "b beats a by 2.000 ± 0.010 ("),
        ("max own/loss", 2.0, "a beats b by 2.000 ± 0.010 ("),
    ],
)
def test_the_better_one_depends_on_the_metric(name: str, mean: float, said: str) -> None:
    found = describe(Metric.parse(name), "a", "b", Difference(mean, 0.01, mean - 0.02, mean + 0.02, 3))
    assert found.startswith(said)
    assert found.endswith("3 seeds; the interval excludes 0)")


def test_no_difference_found_says_how_large_one_could_be() -> None:
    found = describe(Metric.parse("eval/x/accuracy"), "a", "b", Difference(0.004, 0.005, -0.017, 0.025, 3))
    assert found == "no difference found between a and b, the interval is ± 2.10 points around +0.40 (3 seeds)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data__task": {"name": "xor", "bits": 4}}, "data: data.task.bits is 3 in"),
        ({"data__held_out": 100}, "data.held_out is 2000 in"),
        ({"eval__synthetic": {"name": "synthetic", "batches": 3}}, "evaluation: eval.synthetic.batches is 2 in"),
        ({"eval__best": "min synthetic/loss"}, "choice of the best step: eval.best is synthetic/accuracy in"),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(two_arms: Path, changes: dict[str, object], named: str) -> None:
    make_run(two_arms / "other-seed0", 0, [0.1, 0.2, 0.3], **changes)
    with pytest.raises(RunError, match="not comparable") as error:
        compared(two_arms)
    assert named in str(error.value)
    assert "--anyway" in str(error.value)
    found = compared(two_arms, METRIC, anyway=True)
    assert any(named in line for line in found.conflicts)


def test_an_arm_without_an_evaluator_has_no_value_and_is_no_conflict(tmp_path: Path) -> None:
    def make(arm: str, seed: int, samples: int | None) -> None:
        more = {} if samples is None else {"eval__held": {"name": "held_out_loss", "split": "test", "limit": samples}}
        values = {"held/loss": [0.5, len(arm) + seed]} if more else {METRIC: [0.1, 0.2]}
        make_run(tmp_path / f"{arm}{seed}", seed, values, train__lr=len(arm), **more)

    for seed in range(2):
        make("a", seed, None)  # the first, which all others were compared with
        make("bb", seed, 20)
        make("ccc", seed, 20)
    found = compared(tmp_path, "held/loss")
    assert found.conflicts == ()
    assert [None if arm is None else arm.n for arm in found.measured[0].arms.values()] == [None, 2, 2]
    assert sum("held/loss was not measured" in line for line in found.left_out) == 2
    make("dddd", 0, 30)
    with pytest.raises(RunError, match=r"evaluation: eval.held.limit is 20 in .*bb0 and 30 in .*dddd0"):
        compared(tmp_path, "held/loss")


@pytest.mark.parametrize("key", ["limit", "noise"])
def test_a_share_of_the_data_is_drawn_by_the_seed_and_is_the_same_for_all_arms_of_one(tmp_path: Path, key: str) -> None:
    def make(arm: str, seed: int, fingerprint: str, share: str = "5 %") -> None:
        data = {"name": "emoji", "path": "/one/set", key: share}
        folder = tmp_path / f"{arm}{seed}"
        make_run(folder, seed, [0.1], fingerprint=fingerprint, data=data, train__lr=len(arm))

    for arm in ("a", "bb"):
        make(arm, 0, "of seed 0")
        make(arm, 1, "of seed 1")
    assert compared(tmp_path).conflicts == ()
    make("ccc", 0, "of seed 0")
    make("ccc", 1, "of another file")
    with pytest.raises(RunError, match=r"a1 \(of seed 1\) are not those of .*ccc1 \(of another file\)"):
        compared(tmp_path)
    shutil.rmtree(tmp_path / "ccc1")
    make("dddd", 1, "of seed 1", "6 %")
    with pytest.raises(RunError, match=rf"data: data.{key} is 5 % in .*a0 and 6 % in .*dddd1"):
        compared(tmp_path)


def test_the_same_data_elsewhere_and_other_data_in_the_same_place(tmp_path: Path) -> None:
    folder = {"name": "folder", "fields": {"image": {"kind": "image"}, "text": {"kind": "text"}}}

    def make(name: str, path: str, fingerprint: str | None, **more: object) -> None:
        make_run(
            tmp_path / name,
            0,
            [0.1],
            fingerprint=fingerprint,
            data={**folder, "path": path, **more},
            train__lr=len(name),
        )

    make("a", "/one/set", "aaa")
    make("bb", "/two/set", "aaa")
    assert compared(tmp_path).conflicts == ()
    make("ccc", "/one/set", "ccc")
    with pytest.raises(RunError, match=r"\(aaa\) are not those of .*ccc \(ccc\), by their fingerprints"):
        compared(tmp_path)
    (tmp_path / "ccc" / "data.json").unlink()
    assert compared(tmp_path).conflicts == ()
    make("dddd", "/three/set", None)
    with pytest.raises(RunError, match=r"data: data.path is /one/set in .*a and /three/set in .*dddd"):
        compared(tmp_path)


@pytest.mark.slow
def test_an_arm_or_metric_that_is_not_there(two_arms: Path) -> None:
    with pytest.raises(RunError, match="no arm 'cilp'; did you mean 'clip'"):
        compared(two_arms, against="cilp")
    with pytest.raises(
        RunError, match="no run was evaluated by 'synthetic/acuracy'; did you mean 'synthetic/accuracy'"
    ):
        compared(two_arms, "synthetic/acuracy")
    (two_arms / "only").mkdir()
    make_run(two_arms / "only" / "x", 0, [0.1], done=False)
    with pytest.raises(RunError, match=r"no run has a number to be compared by:\n.*x: not finished: step 0"):
        compared(two_arms / "only")


@pytest.mark.slow
def test_against_one_arm(two_arms: Path) -> None:
    make_run(two_arms / "third-seed0", 0, [0.1, 0.2, 0.3], train__lr=0.5)
    assert [(c.a, c.b) for c in compared(two_arms).measured[0].contrasts] == [
        ("confu", "clip"),
        ("third", "clip"),
        ("third", "confu"),
    ]
    assert [(c.a, c.b) for c in compared(two_arms, against="confu").measured[0].contrasts] == [
        ("clip", "confu"),
        ("third", "confu"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gap/l2m", -0.3456, "-0.346"),
        ("gap/l2m", 0.00123, "+0.0012"),  # two figures, where three decimals would leave one
        ("validation/mean_recall", 0.01234, "+1.23"),
        ("cost/samples_per_second", 12296.245, "+12,296"),
        ("cost/samples_per_second", -999.5, "-999.500"),
        ("validation/mean_recall", None, "-"),
    ],
)
def test_a_number_has_the_digits_that_can_be_read(name: str, value: float | None, said: str) -> None:
    assert Metric.parse(name).write(value, signed=True) == said
