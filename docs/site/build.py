"""What mkdocs asks for while it builds the site: the pages written from the code, and links that hold in the site."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page as MkDocsPage

from links import DOCS, ROOT, Page, follow, place_of, relink
from reference import list_reference, write_reference

PROJECT = {"Changes": "CHANGELOG.md", "Experiments, failed ones too": "LOG.md", "Contributing": "CONTRIBUTING.md"}
"""{title: the file of the repository that is a page under it}"""


def on_config(config: MkDocsConfig) -> None:
    """Add what is written from the code, and the repository's own files, to the navigation."""
    assert config.nav is not None
    reference = [{title: place} for title, place in list_reference().items()]
    project = [{title: place_of(ROOT / file)} for title, file in PROJECT.items()]
    config.nav += [{"Reference": reference}, {"Project": project}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the reference, and a page for each file of the repository that a page leads to."""
    pages: list[Page] = []
    linked = {ROOT / file for file in PROJECT.values()}
    sources = {place: (text, DOCS / place) for place, text in write_reference().items()}
    for place, (text, origin) in sources.items():
        relinked, found = relink(text, origin.parent, place)
        pages.append(Page(place, relinked, listed=True))
        linked |= found
    for file in files.documentation_pages():
        linked |= relink(file.content_string, (DOCS / file.src_uri).parent, file.src_uri)[1]
    further, pictures = follow(linked)
    shown = {place_of(ROOT / file) for file in PROJECT.values()}
    for page in pages + further:
        level = InclusionLevel.INCLUDED if page.listed or page.place in shown else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page.place, content=page.text, inclusion=level))
    for picture in pictures:
        files.append(File.generated(config, place_of(picture), abs_src_path=str(picture)))


def on_page_markdown(markdown: str, page: MkDocsPage, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a page of docs/; the pages that were added have theirs already."""
    file = page.file
    return markdown if file.generated_by else relink(markdown, (DOCS / file.src_uri).parent, file.src_uri)[0]
