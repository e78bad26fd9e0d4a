"""The packaged set `emoji`: several vendors' drawings and several texts of each Unicode emoji. See ../README.md."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from workbench.builders.emoji.drawings import Artwork, collect
from workbench.builders.emoji.render import Picture, render
from workbench.builders.emoji.sources import SHARE_ALIKE, STYLES, check_licence, fetch
from workbench.builders.emoji.splits import distinguishable
from workbench.builders.emoji.texts import Concept, load_concepts
from workbench.builders.emoji.write import FILES, Drawing, write_concepts, write_drawings, write_notices

__all__ = ["build"]


def build(out: Path, sources: Path, size: int = 64, workers: int = 2) -> dict:
    """Write the set to `out` and return its counts.

    Args:
        out: folder to write; files of an earlier build are replaced
        sources: scratch folder outside of any project, which the npm packages are installed in (about 0.2 GB)
        size: side of the square pictures in pixels
        workers: rendering processes

    Raises ValueError when npm or resvg-py is missing, or when a package's licence is not the one on record.
    """
    if find_spec("resvg_py") is None:
        raise ValueError("resvg-py is not installed: pip install 'multimodal-workbench[data]'")
    modules = fetch(sources)
    for style in STYLES:
        check_licence(modules, style)
    concepts = load_concepts(modules)
    artworks = collect(modules, concepts)
    pictures = _render_all([artwork.source for artwork in artworks], size, workers)
    split_of = {concept.key: concept.split for concept in concepts}
    drawings, dropped = _assign(artworks, pictures, split_of)
    # an unseen style of a concept that was never trained on would be neither unseen style nor unseen concept
    trained = {drawing.concept for drawing in drawings["train"]}
    for part in ("style_a", "style_b"):
        drawings[part] = [drawing for drawing in drawings[part] if drawing.concept in trained]
    drawn = {drawing.concept for rows in drawings.values() for drawing in rows}
    concepts = [concept for concept in concepts if concept.key in drawn]
    write_concepts(out, concepts)
    for split, rows in drawings.items():
        write_drawings(out, split, rows)
    write_notices(out)
    return {**_count(concepts, drawings), "dropped": dropped}


def _render_all(sources: list[str | Path], size: int, workers: int) -> list[Picture | None]:
    # spawn: a process that has started torch's threads must not fork
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(render, size=size), sources, chunksize=64))


def _assign(
    artworks: list[Artwork], pictures: list[Picture | None], split_of: dict[str, str]
) -> tuple[dict[str, list[Drawing]], dict[str, int]]:
    """Assign drawings to files, and count how many were left out for what reason."""
    seen = [(artwork, picture) for artwork, picture in zip(artworks, pictures, strict=True) if picture]
    keep = distinguishable([(artwork.concept, picture.pixels) for artwork, picture in seen])
    drawings: dict[str, list[Drawing]] = {name: [] for name in FILES}
    share_alike = 0
    for concept, style, picture in ((a.concept, a.style, p) for (a, p), kept in zip(seen, keep, strict=True) if kept):
        split = style.part if split_of[concept] == "train" else split_of[concept]
        if style.licence == SHARE_ALIKE and split != "style_b":  # the only file with that licence
            share_alike += 1
        else:
            drawings[split].append(Drawing(concept, style, picture.webp))
    dropped = {"blank": len(pictures) - len(seen), "not distinct": keep.count(False), "share-alike": share_alike}
    return drawings, dropped


def _count(concepts: list[Concept], drawings: dict[str, list[Drawing]]) -> dict:
    return {
        "concepts": dict(Counter(concept.split for concept in concepts)),
        "families": len({concept.family for concept in concepts}),
        "texts": sum(len(concept.texts) for concept in concepts),
        "images": {split: len(rows) for split, rows in drawings.items()},
        "styles": dict(Counter(drawing.style.name for rows in drawings.values() for drawing in rows)),
    }
