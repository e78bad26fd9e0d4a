"""What `workbench.inspection.look` found, as lines and as a sheet of images with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.figures.embeddings import contact_sheet, spread
from workbench.inspection.look import Inspection, Listing

SHOWN = 24
"""samples on a sheet"""


def draw(data: Listing, found: Inspection, title: str, file: Path) -> None:
    """Draw a sheet of usable samples, evenly spread, with their captions."""
    cards = []
    for index in spread(found.good, SHOWN):
        image, captions, *_ = data.see(index)
        if image is None:
            continue
        about = f"{image.width} x {image.height}" + (f", {len(captions)} captions" if len(captions) > 1 else "")
        image.thumbnail((400, 400))
        cards.append((image, about, captions))
    contact_sheet(cards, title).savefig(file)


def describe(found: Inspection) -> Iterator[tuple[str, str]]:
    """Write (what, its numbers as people read them), a line each."""
    of = "" if found.inspected == found.pairs else f", {found.inspected:,} of them inspected"
    what = "samples" if found.fields.keys() - {"image", "text"} else "pairs"
    yield what, f"{found.pairs:,}" + (f" in {found.files:,} files" if found.files else "") + of
    images, captions = found.images, found.captions
    if not found.usable:
        yield "bad", f"{len(found.bad):,}"
        yield from _beside(found)
        return
    yield "fields", ", ".join(f"{name} {number:,}" for name, number in found.fields.items())
    if len(found.combinations) > 1:
        yield "together", ", ".join(f"{there} {number:,}" for there, number in found.combinations.items())
    if images["sizes"]:
        yield "images", _three([f"{w} x {h}" for w, h in images["sizes"]])
    if images["bytes"]:
        yield "encoded", _three([_size(number) for number in images["bytes"]])
        yield "formats", _shares(images["formats"])
        yield "modes", _shares(images["modes"])
    if images["animated"]:
        yield "animated", f"{images['animated']:,}, of which the first frame is used"
    if images["turned"]:
        yield "turned", f"{images['turned']:,} as their EXIF orientation says"
    if captions["number"]:
        yield "captions", f"{captions['number']:,}, an image has {_three(captions['per_image'])}"
        if len(captions["histogram"]) > 1:
            yield "", "images with " + ", ".join(f"{k}: {n:,}" for k, n in _binned(captions["histogram"]).items())
        yield "tokens", f"{_three(captions['tokens'])}; {captions['cut']:.2%} are cut at {captions['context']}"
        shared = f"{captions['shared']:.2%} of the captions are those of another image, too"
        yield "shared", shared + _on_shared(captions)
    yield "bad", f"{len(found.bad):,}"
    yield from _beside(found)
    yield "speed", f"{found.images_per_second:,.0f} images a second read and decoded, by one process"


def _on_shared(captions: dict[str, Any]) -> str:
    said = ": a loss takes such images for each other's wrong answers, unless data.id gives them one id"
    return said if captions["shared"] else ""


def printable(text: str) -> str:
    """Spell out what no terminal can show: names of files need not be UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _beside(found: Inspection) -> Iterator[tuple[str, str]]:
    """List what was not asked for, the most frequent first."""
    if found.beside:
        most = sorted(found.beside.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{number:,} {what}" for what, number in most[:5])
        yield "beside", shown + (f", and {len(most) - 5} kinds more" if len(most) > 5 else "")


def _three(numbers: Sequence[Any]) -> str:
    smallest, median, largest = numbers
    return f"{smallest}" if smallest == largest else f"{smallest} to {largest}, median {median}"


def _size(number: int) -> str:
    return f"{number / 1024:.1f} KiB" if number < 2**20 else f"{number / 2**20:.1f} MiB"


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.1%}" for name, count in counts.items())


def _binned(histogram: dict[int, int], largest: int = 10) -> dict[str, int]:
    few = {str(k): n for k, n in histogram.items() if k < largest}
    many = sum(n for k, n in histogram.items() if k >= largest)
    return few | ({f"{largest} or more": many} if many else {})
