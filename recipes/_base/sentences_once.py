"""Retrieval that searches each sentence once, where sentences are features of a frozen encoder.

The trap: `captions: first` of the retrieval means fields of texts. In tux seven rows say one sentence; among features
of them the first five found would be one sentence five times, and R@5 would be R@1.
"""

from __future__ import annotations

import numpy as np
import torch

from workbench.evals.retrieval import Retrieval
from workbench.scoring.examples import Examples
from workbench.types import Context, Side, Split


class SentencesOnce(Retrieval):
    """Retrieval in which the field `text` has the first item of each id alone, whatever its kind."""

    def _examples(self, context: Context, split: Split, members: tuple[str, ...]) -> Examples:
        examples = Examples.of(split, Side.joining(members))
        if members[0] != "text":
            return examples
        _, first = np.unique(examples.ids.numpy(), return_index=True)
        return examples.take(torch.from_numpy(np.sort(first)))
