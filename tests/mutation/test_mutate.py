"""The list of defects fits the code, and the script that tries them believes no test that did not run."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutate import ROOT, judge, load

DEFECTS = load()


@pytest.mark.slow
def test_every_defect_applies_and_its_tests_are_there() -> None:
    """After a change of the code: put the new text into defects/ROOM.yaml, or take out what cannot happen any more."""
    wrong = []
    for defect in DEFECTS:
        try:
            defect.apply(ROOT)
        except ValueError as error:
            wrong.append(f"{defect.room}: {defect.name}: {error}")
        for test in defect.tests:
            file, _, name = test.partition("::")
            path = ROOT / file
            if not path.exists() or (name and not re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE)):
                wrong.append(f"{defect.room}: {defect.name}: there is no {test}")
    assert not wrong, "\n".join(wrong)


def test_no_defect_is_there_twice() -> None:
    assert len(DEFECTS) >= 60
    assert not [d for d, n in Counter((d.file, d.old, d.new) for d in DEFECTS).items() if n > 1]
    assert not [d for d, n in Counter(d.name for d in DEFECTS).items() if n > 1]


@pytest.mark.parametrize(
    ("status", "verdict"), [(0, "SURVIVED"), (1, "noticed"), (2, "BROKEN"), (4, "STALE"), (5, "STALE"), (-9, "BROKEN")]
)
def test_only_a_test_that_failed_has_noticed_anything(status: int, verdict: str) -> None:
    assert judge(status, "FAILED tests/test_a.py::test_b - assert 1 == 2")[0] == verdict


TOY = {
    "workbench/__init__.py": "",
    "workbench/a.py": "def twice(x):\n    return 2 * x\n\ndef sign(x):\n    return 1 if x > 0 else -1\n",
    "tests/test_a.py": "from workbench.a import twice\n\ndef test_twice():\n    assert twice(3) == 6\n",
    "defects/toy.yaml": """
noticed: {file: workbench/a.py, old: 2 * x, new: 3 * x, tests: tests/test_a.py}
survives: {file: workbench/a.py, old: x > 0, new: x >= 0, tests: tests/test_a.py}
stale: {file: workbench/a.py, old: 5 * x, new: 3 * x, tests: tests/test_a.py}
broken: {file: workbench/a.py, old: def twice, new: def thrice, tests: tests/test_a.py}
without test: {file: workbench/a.py, old: 2 * x, new: x, tests: "tests/test_a.py::test_none"}
""",
}
RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import mutate
mutate.SLOW_TO_IMPORT = ()
sys.exit(mutate.main({words!r}, Path({root!r}), Path({root!r}, "defects")))
"""


def mutated(root: Path, *words: str) -> tuple[int, str]:
    code = RUN.format(here=str(Path(__file__).parent), words=words, root=str(root))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_tree_of_defects(tmp_path: Path) -> None:
    for name, text in TOY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    status, said = mutated(tmp_path, "--jobs=2", "noticed", "survives", "stale", "broken")
    verdicts = dict(re.findall(r"^(\w+) +\d+ s  toy: (\w+)", said, re.MULTILINE))
    assert status == 1, said
    assert {v: k for k, v in verdicts.items()} == {
        "noticed": "noticed",
        "survives": "SURVIVED",
        "stale": "STALE",
        "broken": "BROKEN",
    }
    assert "4 defects (toy 4): 1 survive, 2 do not apply." in said
    assert (tmp_path / "workbench/a.py").read_text() == TOY["workbench/a.py"]
    assert mutated(tmp_path, "noticed")[0] == 0
    status, said = mutated(tmp_path, "without test")
    assert status == 2
    assert "The tests have to pass" in said
