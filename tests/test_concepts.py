"""The figures of the pages are what their script draws: their curves are the floors as they are computed now."""

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "draw_concepts.py"


@pytest.mark.slow
def test_every_figure_is_as_drawn_now(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("draw_concepts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # its dataclass looks itself up there
    spec.loader.exec_module(script)
    for name, draw in script.FIGURE.items():
        svg = draw().svg()
        ElementTree.fromstring(svg)
        assert svg == (script.FIGURES / name).read_text(encoding="utf-8"), f"{name}: run `python docs/draw_concepts.py`"
