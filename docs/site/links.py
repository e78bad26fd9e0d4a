"""Links that lead out of docs/ lead to a page of the site: a file of the repository, shown as it is.

A page of docs/ is read in two places, beside the code and in the site. A link such as `../recipes/emoji_ito.yaml`
holds in the first; in the second it would lead nowhere. So each file that is linked to gets a page below `repository/`,
and the link is changed to lead there. The trap: in a block of code nothing is a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^)\s#]+)")
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1[`~]*$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".csv": "text"}


@dataclass(frozen=True)
class Page:
    """A page that the site has beyond those of docs/."""

    place: str
    """its path in the site, as if it lay in docs/"""
    text: str
    """Markdown whose links hold in the site"""
    listed: bool = False
    """whether the navigation has it"""


def outside_of_code(text: str, change: Callable[[str], str]) -> str:
    """Change the parts of a Markdown text that are no code."""
    kept, start = [], 0
    for code in CODE.finditer(text):
        kept += [change(text[start : code.start()]), code.group()]
        start = code.end()
    return "".join([*kept, change(text[start:])])


def place_of(file: Path) -> str:
    """Say where in the site a file or folder of the repository is."""
    if file.is_relative_to(DOCS) and file.suffix != ".py":
        return file.relative_to(DOCS).as_posix()
    if file == ROOT / "README.md":
        return "index.md"
    inside = (Path("repository") / file.relative_to(ROOT)).as_posix()
    if file.is_dir():
        return f"{inside}/index.md"
    return inside if file.suffix in (".md", ".png", ".svg") else f"{inside}.md"


def relink(text: str, folder: Path, place: str) -> tuple[str, set[Path]]:
    """Change the links of a Markdown text that hold in `folder` into those that hold at `place` in the site.

    Returns the text and the files outside of docs/ that it leads to. What leads to no file stays: the build complains.
    """
    found: set[Path] = set()

    def change(link: re.Match[str]) -> str:
        file = Path(os.path.normpath(folder / link[2]))
        if re.match(r"\w+:", link[2]) or not file.is_relative_to(ROOT) or not file.exists():
            return link.group()
        if not file.is_relative_to(DOCS) or file.suffix == ".py":
            found.add(file)
        return link[1] + os.path.relpath(place_of(file), Path(place).parent).replace(os.sep, "/")

    return outside_of_code(text, lambda part: LINK.sub(change, part)), found


def show(file: Path) -> str:
    """Write the page of a file, or of a folder, of the repository, with links that hold where it lies."""
    name = file.relative_to(ROOT).as_posix()
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    head = f"---\nsearch: {{exclude: true}}\n---\n\n# `{name}`\n\n"
    if file.is_dir():
        return head + "".join(
            f"- [{each.name}]({each.name})\n" for each in sorted(file.glob("[!_.]*")) if each.is_file()
        )
    language = LANGUAGES.get(file.suffix, "text")
    return f"{head}``````{language}\n{file.read_text(encoding='utf-8')}\n``````\n"


def follow(files: set[Path]) -> tuple[list[Page], set[Path]]:
    """Make pages of files of the repository, and of those that they lead to. Returns also the pictures they show."""
    pages, pictures, seen, left = [], set(), {ROOT / "README.md"}, sorted(files)
    while left:
        file = left.pop()
        if file in seen:
            continue
        seen.add(file)
        if file.suffix in (".png", ".svg"):
            pictures.add(file)
            continue
        place = place_of(file)
        text, further = relink(show(file), file if file.is_dir() else file.parent, place)
        pages.append(Page(place, text))
        left += sorted(further)
    return pages, pictures
