"""The measurement of objectives against the number of modalities: terms, cost, a file that it resumes from."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from workbench.bench import modalities
from workbench.bench.rows import read, write
from workbench.build import build_parts
from workbench.studies import arms


@pytest.mark.parametrize("m", [3, 4, 5])
def test_terms_are_those_of_the_objectives(m: int) -> None:
    subsets, chain = (
        build_parts(arms.recipe_of({"name": "parity", "modalities": m, "bits": 1}, name, 0)).objective
        for name in ("confu_subsets", "confu_chain")
    )
    assert modalities.TERMS["confu_subsets"](m) == len(subsets.terms)
    assert modalities.TERMS["confu_chain"](m) == len(chain.chain(0))


@pytest.mark.slow
def test_the_command_measures_what_its_file_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.csv"
    old = [modalities.Measured(o, 3, 0, t, 5.0, 2.0) for o, t in (("symile", 3), ("confu_subsets", 6))]
    write([*old, modalities.Measured("symile", 4, 0, 4, 6.0, 3.0, 40, 9.0, 1.0, 4.2, 4.1, 0.97, "passed")], out)
    monkeypatch.setitem(modalities.EPOCHS, 3, 1)
    monkeypatch.setattr(modalities, "measure_in_processes", lambda work, todo, jobs: (work(*key) for key in todo))
    done = CliRunner().invoke(modalities.main, ["--out", str(out), "--most", "3"])
    assert done.exit_code == 0, done.output
    assert done.stderr.count("seed 0") == 1
    rows = read(out, modalities.Measured)
    assert [row.key for row in rows] == [
        ("confu_chain", 3, 0),
        ("confu_subsets", 3, 0),
        ("symile", 3, 0),
        ("symile", 4, 0),
    ]
    chain = rows[0]
    assert chain.terms == 2
    assert chain.epochs == 1
    assert chain.ms_per_step > 0.1
    assert 0 < chain.step_mib < 500
    assert chain.floor == pytest.approx(10.3992, abs=1e-3)
    assert 0.3 < chain.accuracy <= 1
    assert rows[3] == modalities.Measured("symile", 4, 0, 4, 6.0, 3.0, 40, 9.0, 1.0, 4.2, 4.1, 0.97, "passed")
    assert "| 4 | symile | 4 | 6 | 3 | 40 | 1.000 | 0.970 | passed 1/1 |" in done.stdout
    assert "| 3 | symile | 3 | 5 | 2 | - | - | - | not trained |" in done.stdout
    assert min(Image.open(out.with_suffix(".png")).size) > 300

    again = CliRunner().invoke(modalities.main, ["--out", str(out), "--most", "3", "--costs"])
    assert again.exit_code == 0, again.output
    assert again.stderr.count("seed 0") == 4
    symile = read(out, modalities.Measured)[3]
    assert symile.ms_per_step != 6.0
    assert symile.accuracy == 1.0, "what was learned stays"
