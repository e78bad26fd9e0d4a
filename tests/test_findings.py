"""The page of findings: its verdicts, tables and pictures are what the kept values of the claims say now."""

import importlib.util
import json
import math
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
    sys.modules.pop("findings_tables", None)


@pytest.mark.slow
def test_every_file_is_as_written_now(script: ModuleType) -> None:
    for path, text in script.write_all().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `just findings`"
        if path.suffix == ".svg":
            ElementTree.fromstring(text)


def test_a_claim_without_a_block_and_a_block_without_a_claim_are_told(script: ModuleType) -> None:
    with pytest.raises(
        SystemExit,
        match=r"has blocks of \['claim other', 'summary'\], .* values of \['lineup', 'mechanism', 'summary', 'words'\]",
    ):
        script.fill("<!-- summary -->\n<!-- end -->\n<!-- claim other -->\n<!-- end -->\n", {})


@pytest.fixture
def tables(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give the module of the tables, which reads what the test writes to `tmp_path`."""
    module = sys.modules["findings_tables"]
    monkeypatch.setattr(module, "MEASURED", tmp_path)
    return module


def test_the_line_up_is_what_compare_wrote(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both.csv").write_text(
        "what,metric,at,a,b,mean,se,low,high,n\n"
        "arm,test/mean_recall,last,base,,0.2,0.01,,,3\narm,test/mean_recall,last,other,,0.25,0.01,,,3\n"
        "arm,test/mean_recall,last,third,,0.1,0.01,,,3\n"
        "arm,test/mean_recall,best,other,,0.9,0.01,,,3\narm,test/mean_recall,last,not_run,,,,,,0\n"
        "difference,test/mean_recall,last,other,base,0.05,0.01,-0.01,0.11,3\n"
        "difference,test/mean_recall,best,other,base,0.7,0.01,0.6,0.8,3\n"
        "difference,test/mean_recall,last,not_run,base,,,,,0\n"
        "arm,test/mean_recall,last,wider,,0.9,0.01,,,3\n"
        "difference,test/mean_recall,last,wider,base,0.7,0.01,0.6,0.8,3\n"
        "arm,test/mean_recall,last,once,,0.1,,,,1\ndifference,test/mean_recall,last,once,base,-0.1,,,,1\n"
        "difference,test/mean_recall,last,third,other,0.15,0.01,0.1,0.2,3\n"
    )
    (tmp_path / "gap.csv").write_text(
        "what,metric,at,a,b,mean,se,low,high,n\n"
        "arm,gap/l2m,last,plain,,0.1234,0.01,,,4\narm,gap/l2m,last,other,,0.5,0.01,,,4\n"
        "difference,gap/l2m,last,other,plain,0.3766,0.01,0.3,0.456,4\n"
    )
    columns = (("both", "base", "test/mean_recall", "recall"), ("gap", "plain", "gap/l2m", "L2M"))
    monkeypatch.setattr(tables, "OTHER_FIELDS", {("both", "wider"), ("other table", "third")})
    assert tables.write_columns("objective", columns).splitlines() == [
        "| objective | recall | L2M |",
        "|---|---|---|",
        "| `base` | 20.0, 3 seeds | 0.12, 4 seeds |",
        "| `once` | 10.0, 1 seed: -10.0 |  |",
        "| `other` | 25.0, 3 seeds: +5.0 (-1.0 … +11.0) | 0.50, 4 seeds: +0.38 (+0.30 … +0.46) |",
        "| `third` | 10.0, 3 seeds |  |",
    ]


def test_the_words_stand_beside_what_came_out(tables: ModuleType, tmp_path: Path) -> None:
    gain = "task,repetition,critic,mean,low,high,word\n"
    gain += "xor,0,fused,2.5,2.4,2.6,fuse\nxor,0,gain,2.0,1.9,2.1,fuse\nxor,1,gain,9.0,9.0,9.0,pairs are enough\n"
    gain += "and,0,gain,0.0,-0.01,0.01,pairs are enough\nhub,0,gain,0.0,-0.01,0.01,pairs are enough\n"
    (tmp_path / "synergy.csv").write_text(gain)
    head = "row,objective,accuracy\n"
    (tmp_path / "matrix.csv").write_text(
        head + "xor d=1,confu,0.3\nxor d=3,clip,0.1\nxor d=3,confu,1.0\nxor d=3,symile,0.9\nhub,clip,0.5\nhub,confu,\n"
    )
    (tmp_path / "rendered.csv").write_text(head + "and,clip,0.75\nand,confu,0.74\n")
    (tmp_path / "real.csv").write_text(
        "what,metric,at,a,b,mean,se,low,high,n\n"
        "arm,recall,last,pairs,,0.2,0.01,,,3\narm,recall,last,confu,,0.17,0.01,,,3\narm,recall,best,confu,,0.9,0.01,,,3\n"
        "difference,recall,last,confu,pairs,-0.03,0.01,-0.05,-0.01,3\n"
        "arm,single,last,pairs,,0.4,0.01,,,3\narm,single,last,confu,,0.5,0.01,,,3\n"
        "difference,single,last,confu,pairs,0.1,0.01,0.05,0.15,3\n"
    )
    by_seed = "objective,seed,split,single,double\n"
    by_seed += "".join(f"clip,{seed},validation,0.1,0.1\nconfu,{seed},test,9,9\n" for seed in range(3))
    by_seed += "confu,1,validation,0.1,0.3\nconfu,0,validation,0.1,0.1\nsymile,0,validation,9,9\n"
    (tmp_path / "digits.csv").write_text(by_seed)
    asked = {"word": "cannot tell", "gain": {"mean": 0.01, "low": -0.2, "high": 0.17}}
    faces = {**asked, "table": "real", "two_ask": "recall", "one_asks": "single"}
    digits = {**asked, "table": "digits", "two_ask": "double", "one_asks": "single"}
    (tmp_path / "synergy_real.json").write_text(json.dumps({"faces": faces, "digits": digits}))
    # of two seeds, 0 and .2: .1 ± t(.975, one degree of freedom) * .1, where t = tan(.475 pi)
    reach = math.tan(0.475 * math.pi) * 0.1
    assert tables.write_words().splitlines()[2:] == [
        "| `and` | 0.00 [-0.01, 0.01] | pairs are enough | 0.750 | 0.740 | -0.010 | |",
        "| `xor` | 2.00 [1.90, 2.10] | fuse | 0.100 | 1.000 | +0.900 | |",
        "| faces | 0.01 [-0.20, 0.17] | cannot tell | 0.200 | 0.170 | -0.030 (-0.050 … -0.010; 3) "
        "| +0.100 (+0.050 … +0.150; 3) |",
        "| digits | 0.01 [-0.20, 0.17] | cannot tell | 0.100 | 0.200 "
        f"| +0.100 ({0.1 - reach:+.3f} … {0.1 + reach:+.3f}; 2) | +0.000 (+0.000 … +0.000; 2) |",
    ]
