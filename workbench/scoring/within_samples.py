"""Fields of one sample compared with each other: which items belong together, and the scores of single pairs.

The trap: a matrix product may round two equal products differently, by where in the matrix they stand. Scores that are
to be compared are therefore computed at the same place of blocks of the same shape, and a tie stays a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.scoring.ranking import take
from workbench.types import Context, Side, Split, Views

BLOCK = 64
"""pairs that are scored at once: of their block x block scores only the diagonal is wanted"""


def samples_of(split: Split, fields: list[str]) -> dict[str, Int64[Tensor, " n"]]:
    """Number the sample that each item of these fields belongs to: {field: [n]}, equal for items of one sample.

    Raises ValueError, with those there are, for a field that the split does not have.
    """
    if missing := [field for field in fields if field not in split.items]:
        have = ", ".join(split.items)
        raise ValueError(f"this split has no field {', '.join(missing)}: it has {have}")
    items = {field: split.items[field] for field in fields}
    if split.paired:
        return {field: torch.arange(len(found)) for field, found in items.items()}
    known = {field: found.samples for field, found in items.items()}
    if any(samples is None for samples in known.values()):  # then each id is one sample
        return {field: found.ids for field, found in items.items()}
    return {field: samples for field, samples in known.items() if samples is not None}


def embed_distinct(
    context: Context, side: Side, texts: Sequence[Sequence[str]]
) -> tuple[Views, list[Int64[Tensor, " n"]]]:
    """Embed lists of texts, each wording once; also give for every list the places of its texts among the embeddings.

    A text that stands twice then has one embedding to the last bit, whatever batch it would have been in.
    """
    place = {text: at for at, text in enumerate(dict.fromkeys(chain.from_iterable(texts)))}
    views = context.embed({side.members[0]: list(place)}, [side])
    return views, [torch.tensor([place[text] for text in each], dtype=torch.int64) for each in texts]


@torch.no_grad()
def score_pairs(
    score: Callable[[Views, Views], Tensor],
    query: Views,
    candidates: Views,
    rows: Int64[Tensor, " p"],
    columns: Int64[Tensor, " p"],
) -> Float[Tensor, " p"]:
    """Score query rows[i] with candidate columns[i]. Raises ValueError when a score is NaN."""
    blocks = zip(rows.split(BLOCK), columns.split(BLOCK), strict=True)
    scores = torch.cat([score(take(query, r), take(candidates, c)).diagonal() for r, c in blocks])
    if scores.isnan().any():
        raise ValueError("scores contain NaN: check that the model's weights and the objective's scale are finite")
    return scores
