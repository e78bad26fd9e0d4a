"""Captions as they lie in files, and what of them can be learnt from.

The trap: whatever is turned into a text is trained on, without a word, so what cannot be read for certain is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def clean(captions: Sequence[object]) -> list[str]:
    """Keep the captions that say something. Raises ValueError when none does."""
    texts = [text.strip() for text in captions if isinstance(text, str)]
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError("no caption")
    return texts


def flat(cells: Iterable[object]) -> list[object]:
    """List the captions of each cell: a cell is one, or a list of them."""
    return [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
