"""The exact joint distribution of a task's codes, kept as its support: d-bit XOR has 4^d outcomes, not 8^d cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

LIMIT = 2**20
"""outcomes that a joint distribution may list: a few seconds for all of a task's optima"""


def check_outcomes(*sizes: int) -> None:
    """Raises ValueError when there are more than a million combinations of one code of each alphabet."""
    number = math.prod(sizes)
    if number > LIMIT:
        raise ValueError(
            f"the exact truth would list {number} outcomes ({' x '.join(map(str, sizes))}), more than {LIMIT}: "
            "take fewer bits, symbols or modalities"
        )


def outcomes(*sizes: int) -> Int64[np.ndarray, "m s"]:
    """List all combinations of one code of each alphabet, a row for each alphabet. Raises ValueError as above."""
    check_outcomes(*sizes)
    return np.indices(sizes).reshape(len(sizes), -1)


@dataclass(frozen=True, eq=False)
class Joint:
    """Probabilities of the possible outcomes: row s of `support` has the codes of the modalities, in the order of
    `codes`. Build it with `Joint.merge`, which keeps the rows distinct."""

    codes: dict[str, int]
    """{modality: size of its alphabet}"""
    support: Int64[np.ndarray, "s m"]
    probability: Float64[np.ndarray, " s"]

    @staticmethod
    def merge(
        codes: Mapping[str, int],
        columns: Mapping[str, Int64[np.ndarray, " s"]],
        probability: Float64[np.ndarray, " s"],
    ) -> Joint:
        """Make the distribution of listed outcomes: equal ones are added up, impossible ones dropped.

        Raises ValueError (numpy's) when a code lies outside its alphabet.
        """
        sizes = tuple(codes.values())
        outcome, row = np.unique(np.ravel_multi_index([columns[m] for m in codes], sizes), return_inverse=True)
        merged = np.bincount(row, weights=probability)
        assert merged.min() >= 0, "a probability is negative"
        assert math.isclose(merged.sum(), 1, rel_tol=1e-9), f"the probabilities add up to {merged.sum()}"
        possible = merged > 0
        support = np.stack(np.unravel_index(outcome[possible], sizes), axis=1)
        return Joint(dict(codes), support, merged[possible])

    def marginal(self, modalities: tuple[str, ...]) -> Joint:
        """Make the joint distribution of these modalities alone. Raises ValueError as `columns` does."""
        return Joint.merge({m: self.codes[m] for m in modalities}, self.columns(modalities), self.probability)

    def group(self, modalities: tuple[str, ...]) -> tuple[Int64[np.ndarray, " s"], Float64[np.ndarray, " g"]]:
        """Take these modalities as one variable: return its value (0 .. g - 1) in each row of the support, and the
        probabilities of the g values. Raises ValueError as `columns` does."""
        sizes = [self.codes[m] for m in modalities if m in self.codes]
        index = np.ravel_multi_index(list(self.columns(modalities).values()), sizes)
        _, value = np.unique(index, return_inverse=True)
        return value, np.bincount(value, weights=self.probability)

    def columns(self, modalities: tuple[str, ...]) -> dict[str, Int64[np.ndarray, " s"]]:
        """Return the columns of the support by name. Raises ValueError when there are none or one is unknown."""
        names = list(self.codes)
        if not modalities or not set(modalities) <= set(names):
            raise ValueError(f"{modalities} is not a group of modalities: choose some of {', '.join(names)}")
        return {m: self.support[:, names.index(m)] for m in modalities}
