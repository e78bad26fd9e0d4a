"""`wb doctor`: what it reports is so, and a kernel that errs is found."""

import json

import pytest
import torch
from click.testing import CliRunner

from kernels.autograd import Gradients
from kernels.chunked import losses
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
    assert ("triton" in found["kernels"]["available"]) == cuda
    assert 0 <= found["kernels"]["errors"]["chunked"] < 1e-4
    assert found["data"].keys() == {"emoji"}
    assert found["data"]["emoji"]["train"] > 9000
    assert found["memory_bytes"] > 2**28


def test_for_people() -> None:
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "auto takes" in result.stdout
    assert "emoji: " in result.stdout


def test_a_wrong_kernel_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = losses.infonce

    def off_by_a_thousandth(*args: object, **options: object) -> tuple[torch.Tensor, Gradients]:
        value, gradients = right(*args, **options)  # type: ignore[arg-type]
        return value * 1.001, gradients

    monkeypatch.setattr(losses, "infonce", off_by_a_thousandth)
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
