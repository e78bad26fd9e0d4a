"""`wb synth --task xor`, as a newcomer runs it: clip is blind, symile and confu land on their exact optimum."""

import json

import pytest
from click.testing import CliRunner, Result
from json_keys import assert_keys

from workbench.cli import cli


def wb(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.slow
def test_the_default_line_up_on_xor(no_new_interpreter: None) -> None:
    done = wb("synth", "--task", "xor", "--seeds", "1", "--json")  # with three: the README
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert_keys("synth", found)
    assert_keys("synth: results", found["results"])
    assert found["task"] == "xor"
    assert found["truth"]["total_correlation"] == pytest.approx(3 * 0.6931471805599453)
    by_objective: dict[str, list[dict]] = {}
    for result in found["results"]:
        by_objective.setdefault(result["objective"], []).append(result)
        assert result["loss"] >= result["floor"] - 3 * result["loss_se"] - 1e-4
    assert {name: len(runs) for name, runs in by_objective.items()} == {"clip": 1, "symile": 1, "confu": 1}
    assert [r["verdict"] for r in by_objective["clip"]] == ["blind"]
    for r in by_objective["symile"] + by_objective["confu"]:
        assert r["verdict"] == "passed", r
        assert r["accuracy"] >= 0.95 * r["bayes"], r
        assert 0.95 <= (r["no_information_loss"] - r["loss"]) / (r["no_information_loss"] - r["floor"]) <= 1.0, r
    assert by_objective["confu"][0]["floor"] == pytest.approx(13.537, abs=5e-4)
    assert by_objective["symile"][0]["floor"] == pytest.approx(3.4795, abs=5e-5)


@pytest.mark.slow
def test_list_prints_every_task_with_its_truth() -> None:
    done = wb("synth", "--list", "--json")
    truths = json.loads(done.stdout)
    assert {"xor", "synergy"} <= truths.keys()
    assert_keys("synth --list", list(truths.values()))
    assert truths["xor"]["bayes_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--task", "xorr"], 2, "no task 'xorr'; did you mean 'xor'?"),
        ([], 2, "say which task"),
        (["--task", "xor", "--objective", "clipp"], 2, "did you mean 'clip'?"),
        (["--task", "xor", "--set", "train.lrr=1"], 2, "did you mean 'lr'?"),
        (["--task", "xor", "--set", "data.task.bits=99"], 2, "bits (99)"),
        (["--task", "xor", "--set", "train.batch=99999"], 2, "larger than the data set"),
    ],
)
def test_mistakes_end_in_one_message(arguments: list[str], code: int, message: str) -> None:
    done = CliRunner().invoke(cli, ["synth", *arguments])
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
