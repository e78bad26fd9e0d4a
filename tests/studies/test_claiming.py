"""`wb claim`: its file, its registration, and its seeds, with runs whose values are given instead of trained."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_runs import METRIC, WITNESS, make_run
from json_keys import assert_keys

from workbench.cli import cli
from workbench.errors import RecipeError, RunError
from workbench.studies.claim import Claim, read_claim
from workbench.studies.claiming import Ruling, prove
from workbench.studies.kept_values import Value, keep, read_kept
from workbench.studies.registration import make_digest, register
from workbench.studies.sweep_runs import SweepRun
from workbench.studies.sweeping import RunResult, read_result

SWEEP = f"""
name: xor
base: {WITNESS}
seeds: [3, 1]
arms: {{clip: {{objective: clip}}, confu: {{}}, blind: {{train.lr: 1e-9}}, other: {{objective.lambda: 0.4}}}}
"""
CLAIM = f"""
claim: fusion is needed for xor
source: arXiv 2511.21331, section 4
sweep: sweep.yaml
endpoint: {{metric: eval/{METRIC}, at: last}}
contrast: {{a: confu, b: clip, expect: greater, margin: 0.1}}
controls: {{positive: [{{a: confu, b: blind, expect: greater}}]}}
alpha: 0.5
max_seeds: 5
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str = CLAIM, sweep: str = SWEEP) -> Path:
        (tmp_path / "sweep.yaml").write_text(sweep)
        (tmp_path / "claim.yaml").write_text(text)
        return tmp_path / "claim.yaml"

    return write


class Trainer:
    """Writes runs of given means, with a scatter of .03 in differences; remembers what it was asked for."""

    def __init__(self, **means: float) -> None:
        self.means, self.asked = means, list[list[tuple[str, int]]]()
        self.failing = set[tuple[str, int]]()
        self.draw = random.Random(7)

    def __call__(self, runs: Sequence[SweepRun]) -> list[RunResult]:
        self.asked.append([(run.arm.name, run.seed) for run in runs if not run.folder.exists()])
        return [self.train(run) for run in runs]

    def train(self, run: SweepRun) -> RunResult:
        name, folder = run.arm.name, run.folder
        if (name, run.seed) in self.failing:
            return RunResult(name, run.seed, folder, "failed", error="the loss went astray")
        if not folder.exists():
            value = self.means.get(name, 0.5) + self.draw.gauss(0, 0.02)
            make_run(folder, run.seed, [0.1, value], recipe=run.recipe.as_yaml())
        return read_result(run, "done")


def proved(file: Path, trainer: Trainer, most: int | None = None) -> Ruling:
    return prove(read_claim(file), file.parent / "runs", trainer, most)


def test_no_more_seeds_than_it_takes_of_no_more_arms(write: Callable[..., Path]) -> None:
    trainer = Trainer(confu=0.9, clip=0.5, blind=0.1)
    ruling = proved(write(), trainer)
    assert (ruling.judgement.verdict, ruling.judgement.seeds) == ("supported", 3)
    # three at once, as fewer cannot decide; the sweep's own seeds first, in its order; no run of the arm `other`
    assert trainer.asked == [[(arm, seed) for seed in (3, 1, 0) for arm in ("clip", "confu", "blind")]]
    found = ruling.as_dict()
    assert {"verdict", "estimate", "low", "high", "e_value", "seeds", "controls"} <= found.keys()
    assert found["estimate"] == pytest.approx(0.4, abs=0.05)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    again = Trainer()
    assert proved(write(), again).as_dict() == found
    assert again.asked == []  # what is decided is not trained again


@pytest.mark.slow
def test_seeds_are_added_one_by_one_until_the_budget_is_spent(write: Callable[..., Path]) -> None:
    trainer = Trainer(confu=0.51, clip=0.5, blind=0.1)
    text = CLAIM.replace(", margin: 0.1", "")
    ruling = proved(write(text), trainer, most=4)
    assert (ruling.judgement.verdict, ruling.judgement.open) == ("undecided", True)
    assert [sorted({seed for _, seed in asked}) for asked in trainer.asked] == [[0, 1, 3], [2]]
    ruling = proved(write(text), trainer)
    assert sorted({seed for asked in trainer.asked[2:] for _, seed in asked}) == [4]
    assert (ruling.judgement.verdict, ruling.judgement.seeds) == ("undecided", 5)
    assert "seeds would decide it" in ruling.judgement.reason


@pytest.mark.slow
def test_within_the_margin_and_the_other_way(write: Callable[..., Path]) -> None:
    assert proved(write(), Trainer(confu=0.5, clip=0.5, blind=0.1)).judgement.verdict == "no effect beyond the margin"
    file = write(CLAIM.replace("expect: greater, margin", "expect: less, margin"), SWEEP.replace("xor", "xor2"))
    folder = file.parent / "runs2"
    assert prove(read_claim(file), folder, Trainer(confu=0.9, blind=0.1)).judgement.verdict == "refuted"


def test_without_its_positive_control_there_is_no_verdict(write: Callable[..., Path]) -> None:
    trainer = Trainer(confu=0.9, clip=0.5, blind=0.9)
    ruling = proved(write(), trainer)
    assert (ruling.judgement.verdict, ruling.judgement.open) == ("blind", True)
    assert len(trainer.asked) == 3  # it was looked for to the end
    assert ruling.judgement.endpoints[0].finding == "supported"


def test_failed_runs_are_left_out_named_and_not_a_verdict(write: Callable[..., Path]) -> None:
    trainer = Trainer(confu=0.9, clip=0.5, blind=0.1)
    trainer.failing = {("clip", 1)}
    ruling = proved(write(), trainer)
    assert (ruling.judgement.verdict, ruling.judgement.endpoints[0].seeds) == ("supported", 3)
    assert ruling.left_out[0] == "clip seed 1: failed: the loss went astray"
    assert len(trainer.asked) == 2  # a fourth seed, in the place of the one that was lost


@pytest.mark.slow
def test_a_setting_that_the_program_has_gained_since_is_no_change(write: Callable[..., Path]) -> None:
    file = write()
    record = file.parent / "runs" / "claims" / "claim.json"
    assert proved(file, Trainer(confu=0.9, blind=0.1)).registration.remarks == []

    def forget(*keys: str) -> tuple[str, ...]:
        """Write the record as a version without these keys had written it, and say what counts as a change."""
        content = json.loads(record.read_text())["content"]
        for arm in content["arms"].values():
            for key in keys:
                del arm[key]
        old = {**json.loads(record.read_text()), "content": content, "digest": make_digest(content)}
        record.write_text(json.dumps(old))
        return proved(file, Trainer()).registration.changed

    assert forget("model.fusion.masking") == ()
    assert forget("train.lr")[-1].startswith("arms.")  # which these recipes give
    assert "arms.clip.data.name absent -> synthetic" in forget("data.name")  # which has no default


@pytest.mark.slow
def test_it_is_registered_before_the_first_run_and_tells_of_changes(write: Callable[..., Path]) -> None:
    file = write()
    record = file.parent / "runs" / "claims" / "claim.json"

    class Looking(Trainer):
        def __call__(self, runs: Sequence[SweepRun]) -> list[RunResult]:
            assert record.exists()
            return super().__call__(runs)

    first = proved(file, Looking(confu=0.9, blind=0.1))
    assert (first.registration.runs_before, first.registration.remarks) == (0, [])
    written = record.read_text()
    assert make_digest(json.loads(written)["content"]) == first.registration.digest
    later = proved(write(CLAIM.replace("greater, margin: 0.1", "greater, margin: 0.2")), Trainer())
    assert later.registration.changed == ("contrast.margin 0.1 -> 0.2",)
    assert "CHANGED since it was registered" in later.registration.remarks[0]
    assert record.read_text() == written
    record.write_text(written.replace("0.1", "0.3"))
    with pytest.raises(RunError, match="its digest is not that of its content"):
        proved(file, Trainer())
    record.write_text("{")
    with pytest.raises(RunError, match="is no record of a claim any more"):
        proved(file, Trainer())


def test_a_claim_after_the_runs_says_so(write: Callable[..., Path]) -> None:
    file = write()
    proved(file, Trainer(confu=0.9, blind=0.1))
    other = file.with_name("afterwards.yaml")
    other.write_text(CLAIM)
    assert "registered AFTER 9 of its runs" in proved(other, Trainer()).registration.remarks[0]


def test_runs_of_another_recipe_are_refused(write: Callable[..., Path]) -> None:
    proved(write(), Trainer(confu=0.9, blind=0.1))
    file = write(
        CLAIM, SWEEP + "set: {train.lr: 0.5}\n".replace("train.lr", "train.betas").replace("0.5", "[0.8, 0.9]")
    )
    with pytest.raises(RunError, match=r"was made with another recipe than the claim's sweep asks for:\n  train.betas"):
        proved(file, Trainer())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("max_seeds: 5", "max_seeds: 4"), "max_seeds (4) can never decide at alpha 0.05 with g = 1"),
        (("max_seeds: 5", "max_seeds: 5\nfirst_seed: -1"), "first_seed: Input should be greater than or equal to 0"),
        (("a: confu, b: clip", "a: confu, b: clap"), "contrast.b: no arm 'clap' in sweep.yaml; did you mean 'clip'"),
        (("b: blind", "b: confu"), "arm 'confu' is compared with itself"),
        (("expect: greater, margin: 0.1", "expect: equal"), "equal needs a margin"),
        (("synthetic/accuracy", "synthetic/acuracy"), "did you mean 'synthetic/accuracy'"),
        (("synthetic/accuracy", "synthetics/accuracy"), "no metric 'synthetics/accuracy'"),
        (("at: last", "at: last, split: test"), "is measured on 'None', not on 'test'"),
        (("expect: greater,", "expect: more,"), "contrast.expect"),
        (("alpha: 0.05", "alpah: 0.05"), "did you mean 'alpha'"),
        (("sweep: sweep.yaml", "sweep: swep.yaml"), "no shipped one in sweeps"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    write: Callable[..., Path], change: tuple[str, str], said: str
) -> None:
    text = CLAIM.replace("alpha: 0.5", "alpha: 0.05")
    assert change[0] in text
    with pytest.raises(RecipeError) as error:
        read_claim(write(text.replace(*change)))
    assert said in str(error.value)


def test_runs_that_suggested_a_claim_do_not_count_for_it(write: Callable[..., Path]) -> None:
    seen, fresh = Trainer(confu=0.1, clip=0.9, blind=0.5), Trainer(confu=0.9, blind=0.1)
    before = read_claim(write())
    seen([run for run in before.sweep.runs(before.file.parent / "runs") if run.arm in before.arms])  # of seeds 3 and 1
    ruling = proved(write(CLAIM + "first_seed: 2\n"), fresh, most=2)
    assert ruling.registration.runs_before == 3  # those of seed 3
    (before.file.parent / "runs" / "claims" / "claim.json").unlink()
    found = read_claim(write(CLAIM + "first_seed: 4\n"))
    assert (before.seeds, found.seeds) == ([3, 1, 0, 2, 4], [4, 5, 6, 7, 8])
    ruling = proved(found.file, fresh)
    assert ruling.judgement.verdict == "supported"
    assert ruling.registration.remarks == []
    assert {one.seed for one in ruling.values} <= set(found.seeds)
    arguments = ["claim", str(found.file), "--run", str(found.file.parent / "runs"), "--judge"]
    assert "of at most 5 seeds, from seed 4 on;" in CliRunner().invoke(cli, arguments).stdout
    assert found.as_dict() == before.as_dict() | {"first_seed": 4}
    assert not before.as_dict().keys() & {"first_seed", "across"}  # without them a claim says what it always said


def test_arms_may_differ_in_their_data_where_that_is_what_is_asked(write: Callable[..., Path]) -> None:
    sweep = SWEEP.replace("confu: {}", "confu: {data.task: {name: and}}")
    with pytest.raises(RunError, match=r"data: data.task.* is .*and"):
        proved(write(sweep=sweep), Trainer(confu=0.9, blind=0.1))
    file = write(CLAIM + "across: data\n", sweep)
    assert (
        prove(read_claim(file), file.parent / "across", Trainer(confu=0.9, blind=0.1)).judgement.verdict == "supported"
    )
    for seed, digest in enumerate("ab"):  # the file was written anew between two seeds
        (file.parent / "across" / f"confu-seed{seed}" / "data.json").write_text(f'{{"blake2b": "{digest}"}}')
    with pytest.raises(
        RunError, match=r"the training data of .*confu-seed1 \(b\) are not those of .*confu-seed0 \(a\)"
    ):
        prove(read_claim(file), file.parent / "across", Trainer())


def test_what_runs_took_can_be_asked_for(write: Callable[..., Path]) -> None:
    text = CLAIM.replace(f"eval/{METRIC}, at: last", "cost/seconds")
    ruling = proved(write(text), Trainer())
    assert {found.estimate for found in ruling.judgement.endpoints} == {0.0}, "every run is of the same seconds"
    with pytest.raises(RecipeError, match="cost/seconds is of the whole run: leave out at and split"):
        read_claim(write(text.replace("cost/seconds", "cost/seconds, at: best")))


def test_an_arm_may_be_compared_with_nothing(write: Callable[..., Path]) -> None:
    text = CLAIM.replace("b: clip, expect: greater, margin: 0.1", "b: 0, expect: greater").replace("b: blind", "b: 0")
    trainer = Trainer(confu=0.9)
    ruling = proved(write(text), trainer)
    assert ruling.judgement.verdict == "supported"
    assert ruling.first.estimate == pytest.approx(0.9, abs=0.05)
    assert {arm for asked in trainer.asked for arm, _ in asked} == {"confu"}


def test_arms_that_are_not_evaluated_alike_are_refused(write: Callable[..., Path]) -> None:
    file = write(CLAIM, SWEEP.replace("confu: {}", "confu: {eval.synthetic.batches: 3}"))
    with pytest.raises(RecipeError, match="the arms are not evaluated alike"):
        read_claim(file)


def test_several_endpoints(write: Callable[..., Path]) -> None:
    endpoints = f"endpoint: [{{metric: eval/{METRIC}}}, {{metric: eval/synthetic/recovered}}]"
    claim: Claim = read_claim(
        write(CLAIM.replace(f"endpoint: {{metric: eval/{METRIC}, at: last}}", endpoints).replace("0.5", "0.2"))
    )
    assert [one.name for one in claim.section.endpoint] == [METRIC, "synthetic/recovered"]
    assert claim.least == 4  # at .1


@pytest.mark.slow
def test_the_command_prints_a_verdict_of_what_is_there(write: Callable[..., Path]) -> None:
    file = write()
    proved(file, Trainer(confu=0.9, blind=0.1))
    arguments = ["claim", str(file), "--run", str(file.parent / "runs"), "--judge"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "SUPPORTED: as the claim says" in done.stdout
    assert "3 of at most 5 seeds;" in done.stdout
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert_keys("claim", found)
    assert_keys("claim: endpoints", found["endpoints"])
    assert (found["verdict"], found["seeds"]) == ("supported", 3)
    assert_keys("claim --dry", json.loads(CliRunner().invoke(cli, [*arguments[:4], "--dry", "--json"]).stdout))
    assert found["controls"]["positive"][0]["finding"] == "supported"
    done = CliRunner().invoke(cli, ["claim", str(write("claim: x\n"))])
    assert done.exit_code == 2
    assert "source: is missing" in done.stderr


def test_what_was_kept_of_a_claim_is_ruled_on_without_its_runs(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, trainer = write(), Trainer(confu=0.9, clip=0.5, blind=0.1)
    trainer.failing = {("clip", 1)}
    monkeypatch.setattr("workbench.cli.claim._train", lambda claim, runs, folder, jobs: trainer(runs))
    runs, kept = file.parent / "runs", file.parent / "a" / "kept"
    first = ["claim", str(file), "--run", str(runs), "--keep", str(kept), "--json"]
    found = CliRunner().invoke(cli, first)
    assert found.exit_code == 0, found.output
    shutil.rmtree(runs)
    again = CliRunner().invoke(cli, ["claim", str(file), "--from", str(kept), "--json"])
    assert again.stdout == found.stdout
    assert "clip seed 1: failed: the loss went astray" in json.loads(again.stdout)["left_out"]
    assert not runs.exists()
    assert "0.2.0" in (kept / "claim.csv").read_text()
    write(CLAIM.replace("greater, margin: 0.1", "greater, margin: 0.2"))
    changed = CliRunner().invoke(cli, ["claim", str(file), "--from", str(kept)])
    assert "CHANGED since it was registered" in changed.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("arm,seed,", "arm,sed,"), "claim.csv: the columns are arm, seed, metric, at, value, missing, version, torch"),
        (("\nconfu,3,", "\nconfus,3,"), "claim.csv, line 3: the claim has no arm 'confus' (it has blind, clip, confu)"),
        (("\nconfu,3,", "\nconfu,three,"), "claim.csv, line 3: invalid literal for int() with base 10: 'three'"),
        (("\nconfu,3,", "\nclip,3,"), "claim.csv: clip 3 synthetic/accuracy last is there twice"),
        (("last,0.9", "last,nan"), "claim.csv, line 3: a line has a finite value, or says why it is missing"),
        (("last,0.9,", "last,,"), "claim.csv, line 3: a line has a finite value, or says why it is missing"),
        (("last,0.9,", "last,0.9,lost"), "claim.csv, line 3: a line has a finite value, or says why it is missing"),
        (("last,0.9,", "last,0.9,,"), "claim.csv, line 3: too many values to unpack"),
    ],
)
def test_what_is_no_kept_table_is_told(write: Callable[..., Path], change: tuple[str, str], said: str) -> None:
    claim = read_claim(write())
    values = [
        Value(arm, 3, METRIC, "last", value, None, "0.2.0", "2.11.0")
        for arm, value in (("clip", 0.5), ("confu", 0.9), ("blind", 0.1))
    ]
    runs = claim.file.parent / "runs"
    register(claim, runs)
    table = keep(claim, values, runs, runs.parent)
    assert read_kept(claim, runs.parent) == values
    assert change[0] in table.read_text()
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(RunError) as error:
        read_kept(claim, runs.parent)
    assert said in str(error.value)
    table.unlink()
    with pytest.raises(RunError, match=r"`wb claim claim --keep .*` writes it"):
        read_kept(claim, runs.parent)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dry", "--judge"], "choose one"),
        (["--judge", "--from", "."], "choose one"),
        (["--from", ".", "--keep", "."], "leave out --from"),
        (["--dry", "--keep", "."], "leave out --dry"),
        (["--from", "nowhere"], "does not exist"),
        (["--from", ".", "--run", "runs"], "--from trains nothing: leave out --run"),
        (["--from", ".", "--jobs", "2"], "--from trains nothing: leave out --jobs"),
        (["--judge", "--jobs", "2", "--seeds", "3"], "--judge trains nothing: leave out --jobs, --seeds"),
    ],
)
def test_options_that_exclude_each_other(write: Callable[..., Path], options: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["claim", str(write()), *options])
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_stop_that_has_saved_is_no_failure(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(claim: Claim, runs: Sequence[SweepRun], *_: object) -> list[RunResult]:
        return [RunResult(run.arm.name, run.seed, run.folder, "stopped") for run in runs]

    monkeypatch.setattr("workbench.cli.claim._train", stop)
    file = write()
    done = CliRunner().invoke(cli, ["claim", str(file), "--run", str(file.parent / "runs")])
    assert done.exit_code == 0, done.output
    assert "stopped, saved: the same command goes on from there" in done.stdout
