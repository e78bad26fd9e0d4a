"""Who made a file of embeddings: `wb embed` writes it into the file, and sources of data read it there.

Two digests stand for it in a recipe: `embedded_by` for the encoders with their weights, `embedded_from` for the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

KEY = b"workbench.embed"
"""the key of a parquet file's metadata"""


class Provenance(NamedTuple):
    """What a file of embeddings says of itself."""

    by: str
    """digest of the encoders, of their weights and of what was taken of them"""
    origin: str | None
    """digest of the training data of the source, None where that could not be read at random"""
    facts: Mapping[str, object]
    """everything that it says"""


def read_provenance(metadata: Mapping[bytes, bytes] | None, file: str) -> Provenance | None:
    """Read who made a parquet file out of its metadata; None where `wb embed` did not. Raises ValueError."""
    found = (metadata or {}).get(KEY)
    if found is None:
        return None
    try:
        facts = json.loads(found)
        return Provenance(facts["embedded_by"], facts["embedded_from"], facts)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file}: what it says of the encoder that made it cannot be read: embed it again") from None


def refuse_other(file: str, found: Provenance | None, by: str | None, origin: str | None) -> None:
    """Raise ValueError where a file does not come from the encoders `by` and the data `origin`; None allows any."""
    for key, wanted in (("embedded_by", by), ("embedded_from", origin)):
        if wanted is None:
            continue
        if found is None:
            raise ValueError(f"data.{key} is {wanted}, and {file} does not say who made it: `wb embed` writes that")
        said = found.by if key == "embedded_by" else found.origin
        if said != wanted:
            what = "other encoders, weights or settings" if key == "embedded_by" else "other data"
            raise ValueError(
                f"{file} comes from {what}: its {key} is {said}, and the recipe says {wanted}. "
                f"Embed it again, or set data.{key}={said}"
            )


def refuse_mixture(found: Mapping[str, Provenance | None]) -> None:
    """Raise ValueError where files that are used together come from different encoders: their numbers mean nothing
    beside each other."""
    made = {file: each.by for file, each in found.items() if each}
    first = next(iter(made), None)
    for file, by in made.items():
        if first and by != made[first]:
            raise ValueError(
                f"{file} and {first} come from different encoders, weights or settings (embedded_by {by} and "
                f"{made[first]}): embed both with the same ones"
            )
