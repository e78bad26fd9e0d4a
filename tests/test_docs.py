"""What the documentation tells people to write is valid: every block of README and docs is checked, or says why not.

Blocks of Python run, page by page, in an empty folder. Blocks of YAML are read as a recipe, a part of one, a sweep or a
claim. Every `wb` line is parsed by the real commands, and the recipes and names in it are looked up; none is executed.
A block whose first line is the comment `# NAME.py` or `# NAME.yaml` is a file that the others of its page find;
beside it lies a recipe of the reader's, mine.yaml.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from page_blocks import PAGES, ROOT, Block, read_blocks, read_commands
from page_commands import check_command, read_file

from workbench.recipe.schema import parse_recipe
from workbench.recipe.yaml_file import Tree, merge, read_tree

BLOCKS = {name: read_blocks(path.read_text(encoding="utf-8")) for name, path in PAGES.items()}
PLAIN = {"", "text", "json", "csv"}
"""languages of blocks that show what is printed, or what a file holds"""
CHECKED = {"python", "yaml", "bash"}
WHOLE = {"claim"}, {"arms"}, {"extends"}, {"data", "model", "objective", "train"}
"""sets of keys; a block that has all of one is a whole file"""
REST: Tree = {
    "name": "page",
    "data": "emoji",
    "model": {"encoders": {"image": "open_clip", "text": "open_clip"}},
    "objective": "clip",
    "train": {"for": "1 epochs", "batch": 2},
}
"""what a recipe must have, for blocks that show a part of one"""


def blocks_of(page: str, language: str) -> list[Block]:
    return [block for block in BLOCKS[page] if block.language == language and not block.reason]


def having(language: str) -> list[str]:
    return [page for page in PAGES if blocks_of(page, language)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_files(page: str) -> None:
    """Write the blocks of a page that are files, and a recipe of the reader's, into the current folder."""
    data = "{name: csv, path: pairs.csv, validation: 10 %}"
    Path("mine.yaml").write_text(f"extends: emoji_ito.yaml\nname: mine\ndata: {data}\n", encoding="utf-8")
    for block in BLOCKS[page]:
        if block.file and block.language in ("python", "yaml") and not block.reason:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")


def read_block(block: Block) -> None:
    """Read a block of YAML as a whole file, or with what its keys would need beside them. Raises RecipeError."""
    file = Path(block.file or "block.yaml")
    file.write_text(block.text, encoding="utf-8")
    if any(keys <= yaml.safe_load(block.text).keys() for keys in WHOLE):
        read_file(file.resolve())
    else:
        tree, lines = read_tree(file)
        parse_recipe(merge(REST, tree), lines)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_can_be_checked_or_says_why_not(page: str) -> None:
    odd = [b for b in BLOCKS[page] if b.language not in PLAIN | CHECKED and not b.reason]
    assert not odd, "write python, yaml, bash or text behind the fence, or <!-- not run: the reason --> before it"
    fences = re.findall(r"^ *```", PAGES[page].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(BLOCKS[page]), "a fence is not closed, or is indented unlike its other end"


@pytest.mark.slow
@pytest.mark.parametrize("page", having("python"))
def test_python_runs(page: str, folder: Path) -> None:
    write_files(page)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks_of(page, "python"):
        # empty lines before it: a traceback then has the lines of the page
        exec(compile("\n" * block.line + block.text, str(PAGES[page]), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", having("yaml"))
def test_yaml_is_a_recipe_or_a_part_of_one_a_sweep_or_a_claim(page: str, folder: Path) -> None:
    write_files(page)
    for block in blocks_of(page, "yaml"):
        try:
            read_block(block)
        except Exception as error:
            raise AssertionError(f"{page}, line {block.line}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("page", having("bash"))
def test_commands_are_those_that_there_are(page: str, folder: Path) -> None:
    write_files(page)
    for block in blocks_of(page, "bash"):
        for words in read_commands(block.text):
            try:
                check_command(words)
            except Exception as error:
                raise AssertionError(f"{page}, line {block.line}: {' '.join(words)}: {error}") from error


def test_the_site_has_a_way_to_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    listed = re.findall(r"[\w/]+\.md", str(nav))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages), "mkdocs.yml: its navigation lists each page of docs/ once"
