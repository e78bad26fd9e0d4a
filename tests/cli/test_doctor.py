"""`wb doctor`: what it reports is so, and a kernel that errs is found."""

import json
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from kernels import chunked, dispatch
from workbench.cli import cli


def test_the_report() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    cuda = torch.cuda.is_available()
    assert found["device"] == ("cuda" if cuda else "cpu")
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"reference", "chunked"} <= set(found["kernels"]["available"])
    assert found["kernels"]["auto"] == ("triton" if cuda else "chunked")
    assert 0 <= found["kernels"]["errors"]["chunked"] < 1e-4
    assert found["data"]["emoji"]["train"] > 9000
    assert found["memory_bytes"] > 2**28


def test_for_people() -> None:
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "auto takes" in result.stdout
    assert "emoji: " in result.stdout


def test_a_wrong_kernel_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_thousandth(*args: object, **options: object) -> torch.Tensor:
        return chunked.multi_positive_infonce(*args, **options) * 1.001  # type: ignore[arg-type]

    monkeypatch.setitem(dispatch.BACKENDS, "chunked", SimpleNamespace(multi_positive_infonce=off_by_a_thousandth))
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
