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
    with pytest.raises(SystemExit, match=r"has blocks of \['claim other', 'summary'\], .* values of \['summary'\]"):
        script.fill("<!-- summary -->\n<!-- end -->\n<!-- claim other -->\n<!-- end -->\n", {})
