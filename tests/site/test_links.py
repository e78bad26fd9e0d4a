"""A link of a page holds beside the code and in the site; a text with signs of Markdown is shown as it stands."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    for name in ("links", "tables", "commands"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_link_out_of_docs_leads_to_a_page_of_the_site() -> None:
    from links import relink

    text = "[a](../recipes/emoji_ito.yaml) ![b](house.svg) [c](data.md#fields) [d](https://x.org/y) [e](../LOG.md)"
    now, found = relink(text, ROOT / "docs", "claims.md")
    assert now.split(") ")[0] == "[a](repository/recipes/emoji_ito.yaml.md"
    assert now.split(") ")[1:4] == text.split(") ")[1:4]
    assert now.endswith("[e](repository/LOG.md)")
    assert found == {ROOT / "recipes" / "emoji_ito.yaml", ROOT / "LOG.md"}


def test_a_page_of_the_repository_leads_into_docs() -> None:
    from links import relink

    text = "`[no](docs/data.md)`\n```\n[no](docs/data.md)\n```\n[data](docs/data.md#fields) and [home](README.md)"
    now, _ = relink(text, ROOT, "repository/CHANGELOG.md")
    assert now == text.replace("[data](docs/", "[data](../").replace("(README.md)", "(../index.md)")


def test_a_link_to_nothing_is_left_for_the_build_to_refuse() -> None:
    from links import relink

    assert relink("[x](../gone.md)", ROOT / "docs", "claims.md") == ("[x](../gone.md)", set())


def test_what_is_followed_is_followed_from_there_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import links

    monkeypatch.setattr(links, "ROOT", tmp_path)
    monkeypatch.setattr(links, "DOCS", tmp_path / "docs")
    (tmp_path / "a.md").write_text("[b](b.md)")
    (tmp_path / "b.md").write_text("[a](a.md) ![p](p.png) [code](c.py)")
    (tmp_path / "c.py").write_text("x = [1](2)")
    (tmp_path / "p.png").write_bytes(b"")
    pages, pictures = links.follow({tmp_path / "a.md"})
    assert {page.place for page in pages} == {"repository/a.md", "repository/b.md", "repository/c.py.md"}
    assert pictures == {tmp_path / "p.png"}


def test_signs_of_markdown_are_shown_as_they_stand() -> None:
    from tables import literal, write_table

    markdown = pytest.importorskip("markdown")
    said = "sum_{i<j} a*b*c [x](y) <name> `a_b < *c*`"
    html = markdown.markdown(literal(said))
    assert html == "<p>sum_{i&lt;j} a*b*c [x](y) &lt;name&gt; <code>a_b &lt; *c*</code></p>"
    table = write_table(["k", "t"], [["`a`", "`int | null`"], ["b", "x | y\nz"]])
    html = markdown.markdown(table, extensions=["tables"])
    assert "<td><code>int &#124; null</code></td>" in html or "<td><code>int | null</code></td>" in html
    assert html.count("<td>") == 4
    assert ">x &#124; y z<" in html or ">x | y z<" in html


def test_examples_and_exit_codes_of_a_help_text_are_apart() -> None:
    from commands import split_help, write_paragraph

    help_text = "Do it.\n\n\b\nExamples: wb do a\n          wb do b\nExit codes: 0 done,\n1 not done."
    assert [*map(write_paragraph, split_help(help_text))] == [
        "Do it.\n",
        "```bash\nwb do a\nwb do b\n```\n",
        "Exit codes: 0 done,\n1 not done.\n",
    ]
