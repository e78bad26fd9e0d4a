"""Which encoder reads which kind of raw item: for the message of one that was given another."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.types import Kind, Modality

NOUNS: dict[Kind, str] = {
    "image": "images",
    "text": "text",
    "audio": "audio",
    "vector": "vectors",
    "sequence": "sequences",
}
READERS: dict[Kind, str] = {
    "image": "'open_clip' or 'transformers'",
    "text": "'open_clip' or 'transformers'",
    "audio": "'audio' or 'transformers'",
    "vector": "'mlp'",
    "sequence": "'sequence'",
}


def require_kind(modality: Modality, kinds: Sequence[Kind]) -> None:
    """Raise ValueError, which names the encoders that fit, for a modality that is of none of these kinds."""
    if modality.kind not in kinds:
        reads = " and ".join(NOUNS[kind] for kind in kinds)
        raise ValueError(f"it reads {reads}, not {NOUNS[modality.kind]}: use {READERS[modality.kind]}")
