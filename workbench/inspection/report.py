"""What `workbench.inspection.look` found, as lines and as a sheet of items with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from workbench.figures.embeddings import contact_sheet, spread
from workbench.inspection.look import Inspection, Listing
from workbench.inspection.tallies import Seen

SHOWN = 24
"""samples on a sheet"""


def draw(data: Listing, found: Inspection, title: str, file: Path) -> None:
    """Draw a sheet of usable samples, evenly spread: a card for each of their fields, their texts on the first."""
    fields = max(1, len(found.fields.keys() - {"text"}))
    cards = [card for index in spread(found.good, max(1, SHOWN // fields)) for card in _cards(data.see(index))]
    contact_sheet(cards, title).savefig(file)


def _cards(seen: Seen) -> list[tuple[Any, str, list[str]]]:
    """Make the cards of a sample: an item, a line on it, and the captions below the first."""
    shown = {name: items[0] for name, items in seen.items.items() if items and not isinstance(items[0], str)}
    if not shown:
        return [(" ".join(seen.captions[:1]), "text", seen.captions)]
    more = f", {len(seen.captions)} captions" if len(seen.captions) > 1 else ""
    cards = []
    for name, item in shown.items():
        about = measures(item) if len(shown) == 1 else f"{name}, {measures(item)}"
        if isinstance(item, Image.Image):
            item.thumbnail((400, 400))
        cards.append((item, about if cards else about + more, [] if cards else seen.captions))
    return cards


def measures(item: object) -> str:
    """Say how large a raw item is: pixels, seconds, numbers, frames."""
    if isinstance(item, Image.Image):
        return f"{item.width} x {item.height}"
    if isinstance(item, tuple):
        waveform, rate = item
        return f"{len(waveform) / rate:.2f} s at {rate:,} Hz"
    shape = torch.as_tensor(item).shape
    return f"{shape[0]} x {shape[1]}" if len(shape) == 2 else f"{shape.numel()} numbers"


def describe(found: Inspection) -> Iterator[tuple[str, str]]:
    """Write (what, its numbers as people read them), a line each."""
    of = "" if found.inspected == found.pairs else f", {found.inspected:,} of them inspected"
    noun, texts = ("image", "captions") if found.are_pairs else ("sample", "texts")
    yield (
        "pairs" if found.are_pairs else "samples",
        f"{found.pairs:,}" + (f" in {found.files:,} files" if found.files else "") + of,
    )
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
        article = "an" if found.are_pairs else "a"
        yield texts, f"{captions['number']:,}, {article} {noun} has {_three(captions['per_image'])}"
        if len(captions["histogram"]) > 1:
            yield "", f"{noun}s with " + ", ".join(f"{k}: {n:,}" for k, n in _binned(captions["histogram"]).items())
        yield "tokens", f"{_three(captions['tokens'])}; {captions['cut']:.2%} are cut at {captions['context']}"
        shared = f"{captions['shared']:.2%} of the {texts} are those of another {noun}, too"
        yield "shared", shared + _on_shared(captions, noun)
    yield "bad", f"{len(found.bad):,}"
    yield from _beside(found)
    yield "speed", f"{found.images_per_second:,.0f} {noun}s a second read and decoded, by one process"


def _on_shared(captions: dict[str, Any], noun: str) -> str:
    said = f": a loss takes such {noun}s for each other's wrong answers, unless data.id gives them one id"
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
