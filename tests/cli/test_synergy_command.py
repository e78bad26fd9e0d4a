"""`wb synergy`, as a person runs it on a file of theirs: a word, a table, a picture, and JSON for programs."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from json_keys import assert_keys

from workbench.cli import cli
from workbench.studies.synergy import critics

FIELDS = "fields={a: {kind: vector}, b: {kind: vector}, c: {kind: vector}}"


def wb(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["synergy", *map(str, arguments), "--jobs", "1", "--seeds", "3"])


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "STEPS", 3)


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """c is the parity of a and b, in readings of other units; 30 of 430 rows have no b."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randint(2, (2, 430), generator=draw)
    bits = {"a": a * 100 + 7, "b": b * 0.01, "c": a ^ b}
    columns = {name: [[float(value)] for value in values] for name, values in bits.items()}
    columns["b"][:30] = [None] * 30  # type: ignore[list-item]
    path = tmp_path_factory.mktemp("parity") / "parity.parquet"
    pq.write_table(pa.table({**columns, "odd": [["yes"] if bit else ["no"] for bit in (a ^ b).tolist()]}), path)
    return path


@pytest.mark.slow
def test_a_parity_says_fuse_in_words_json_and_a_picture(
    parity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critics, "STEPS", 120)
    picture = tmp_path / "new" / "nats.png"
    done = wb(parity, "--set", FIELDS, "--target", "c", "--json", "--plot", picture)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert_keys("synergy", found)
    assert_keys("synergy: targets", list(found["targets"].values()))
    assert list(found["targets"]) == ["c"]
    told = found["targets"]["c"]
    assert set(told["single"]) == {"a", "b"}
    assert told["word"] == "fuse"
    assert 0.1 < told["gain"]["low"] < told["gain"]["mean"] < told["gain"]["high"]
    assert told["fused"]["a+b"]["mean"] > 0.5 > told["summed"]["a+b"]["high"]
    assert (told["pairs"]["a+b"]["samples"], told["pairs"]["a+b"]["left_out"]) == (400, 30)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_label_is_told_of_and_the_table_says_what_was_left_out(parity: Path) -> None:
    two = ("--field", "a", "--field", "b")
    done = wb(parity, "--set", FIELDS, "--set", "labels={odd: odd}", *two, "--target", "odd")
    assert done.exit_code == 0, done.output
    assert "\nodd: " in done.stdout
    assert "430 of 430 rows, which have a 430, b 400, odd 430" in done.stdout
    assert "left out: 30" in done.stdout
    assert "at most 2.77 nats" in done.stdout  # ln 16
    assert "confu, symile" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--set", "fields={a: {kind: vector}, c: {kind: vector}}"], 1, "takes three, and the data has a and c"),
        (["--set", FIELDS, "--samples", "300"], 1, r"to tell anything at a batch of 16: it takes 320"),
        (["--set", FIELDS, "--target", "d"], 2, "no field 'd'"),
        (["--set", FIELDS, "--plot", "nats.gif"], 2, "draws .png, .pdf or .svg"),
        (["--set", FIELDS, "--batch", "64"], 1, "too few to tell anything at a batch of 64: it takes 1,280"),
    ],
)
def test_what_cannot_be_measured_is_one_message(parity: Path, arguments: list[str], status: int, said: str) -> None:
    done = wb(parity, *arguments)
    assert (done.exit_code, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
