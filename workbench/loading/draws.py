"""The data set of a recipe, some of whose training samples the run's seed draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from workbench.recipe.schema import Recipe

if TYPE_CHECKING:
    from workbench.types import Data


@runtime_checkable
class Draws(Protocol):
    """A data set that may train on some of its samples only."""

    def draw_limit(self, seed: int) -> None:
        """Take the run's seed: called once, before the first sample is read or counted."""
        ...


def build_data(recipe: Recipe) -> Data:
    """Build the data set; what it trains on is drawn by the recipe's seed. Reads no samples."""
    with torch.device("cpu"):  # a data set is real, also where `wb check` builds the model without memory
        data = recipe.data.build()
    if isinstance(data, Draws):
        data.draw_limit(recipe.seed)
    return data
