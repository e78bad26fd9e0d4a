"""The page of findings: its verdicts, tables and pictures are what the kept values of the claims say now."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DOCS))  # it draws with draw_concepts, which lies beside it
    spec = importlib.util.spec_from_file_location("draw_findings", DOCS / "draw_findings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("draw_concepts", None)


@pytest.mark.slow
def test_every_file_is_as_written_now(script: ModuleType) -> None:
    for path, text in script.write_all().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `just findings`"
        if path.suffix == ".svg":
            ElementTree.fromstring(text)


def test_a_claim_without_a_block_and_a_block_without_a_claim_are_told(script: ModuleType) -> None:
    with pytest.raises(
        SystemExit, match=r"has blocks of \['claim other', 'summary'\], .* values of \['lineup', 'summary'\]"
    ):
        script.fill("<!-- summary -->\n<!-- end -->\n<!-- claim other -->\n<!-- end -->\n", {})


def test_the_line_up_is_what_compare_wrote(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "both.csv").write_text(
        "what,metric,at,a,b,mean,se,low,high,n\n"
        "arm,test/mean_recall,last,base,,0.2,0.01,,,3\narm,test/mean_recall,last,other,,0.25,0.01,,,3\n"
        "arm,test/r1,last,base,,0.1,0.01,,,3\narm,test/mean_recall,last,third,,0.1,0.01,,,3\n"
        "arm,test/mean_recall,best,other,,0.9,0.01,,,3\narm,test/mean_recall,last,not_run,,,,,,0\n"
        "difference,test/mean_recall,last,other,base,0.05,0.01,-0.01,0.11,3\n"
        "difference,test/mean_recall,best,other,base,0.7,0.01,0.6,0.8,3\n"
        "difference,test/mean_recall,last,not_run,base,,,,,0\n"
        "difference,test/mean_recall,last,third,other,0.15,0.01,0.1,0.2,3\n"
    )
    monkeypatch.setattr(script, "DOCS", tmp_path)
    columns = (("both", "base", "test/mean_recall", "recall"), ("both", "base", "test/r1", "first"))
    monkeypatch.setattr(script, "LINEUP", columns)
    assert script.write_lineup().splitlines() == [
        "| objective | recall | first |",
        "|---|---|---|",
        "| `clip` | 20.00, 3 seeds | 10.00, 3 seeds |",
        "| `other` | 25.00, 3 seeds: +5.00 (-1.00 … +11.00) |  |",
        "| `third` | 10.00, 3 seeds |  |",
    ]
