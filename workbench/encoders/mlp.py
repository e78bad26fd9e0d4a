"""Multi-layer perceptron on vectors: the tower of the synthetic tasks; with depth 1 it is a linear encoder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from workbench.encoders._kinds import require_kind
from workbench.encoders._standardise import Standardise, in_groups
from workbench.loading.batching import to_float32
from workbench.types import Encoder, Features, Modality, Transform

__all__ = ["MLP"]


class MLP(Encoder):
    """Maps vectors [n, *shape] to [n, dim]. It has no projection of its own, so `pooled` is `z`; it has no tokens.

    Args:
        width: units of each hidden layer
        depth: linear layers; 1 is a linear encoder without hidden layers, 0 hands the vectors on as they are, so that
            `model.head: linear` stands on features which a frozen tower gave once (`wb embed`)
        dropout: probability that a hidden unit is left out in training
        standardise: subtract the mean of the training split and divide by its standard deviation, number by number;
            null does so for readings from files, not for the symbols of synthetic tasks, nor with depth 0
        noise: standard deviation of what is added to each number in training, after the standardisation

    Raises ValueError for a modality that is not made of vectors.
    """

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        width: PositiveInt = 64,
        depth: NonNegativeInt = 1,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        standardise: bool | None = None,
        noise: NonNegativeFloat = 0.0,
    ):
        super().__init__()
        require_kind(modality, ["vector"])
        self.shape, self.noise = tuple(modality.shape), noise
        self.needs_items = modality.measured and depth > 0 if standardise is None else standardise
        self.standardise = Standardise(self.shape) if self.needs_items else nn.Identity()
        sizes = [math.prod(modality.shape), *[width] * (depth - 1)]
        hidden = [
            layer
            for inputs, outputs in pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(dropout))
        ]
        last = [nn.Linear(sizes[-1], dim)] if depth else []
        self.layers = nn.Sequential(*hidden, *last)
        self.width = dim if depth else sizes[0]
        self.has_projection = self.width == dim

    def forward(self, x: Float[Tensor, "n ..."], tokens: bool = False) -> Features:
        """Encode vectors [n, *shape], or [n, 2, *shape] with the noise that is added to each.

        Raises ValueError when they hold another number of numbers than the data declares.
        """
        if self.noise and x.shape[1:] == (2, *self.shape):
            x = self.standardise(x[:, 0]) + x[:, 1]
        else:
            held, declared = math.prod(x.shape[1:]), math.prod(self.shape)
            if held != declared:
                raise ValueError(f"a vector holds {held} numbers, where the data declares {declared} (Modality.shape)")
            x = self.standardise(x.reshape(-1, *self.shape))
        z = self.layers(x.reshape(x.shape[0], -1))  # not len(x), which a graph would take for a number
        return Features(z=z, pooled=z)

    def measure(self, items: Iterable[Any]) -> None:
        """Fit the standardisation to vectors. Raises ValueError where there is none."""
        assert isinstance(self.standardise, Standardise)
        self.standardise.measure(in_groups(map(to_float32, items)))

    def depths(self) -> dict[str, int]:
        """Give the linear layer of each parameter, from 0 up to the last."""
        linear = [i for i, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        return {f"layers.{i}.{name}": depth for depth, i in enumerate(linear) for name in ("weight", "bias")}

    def transform(self, train: bool) -> Transform:
        """Give the map of anything array-like to float32; training vectors may have a row of noise behind them."""
        return WithNoise(self.noise) if train and self.noise else to_float32


@dataclass(frozen=True)
class WithNoise:
    """Puts a vector and the noise for it one behind the other, [2, *shape].

    The noise is drawn here, where each sample has a seed of its own, and added where the numbers are standardised.
    """

    noise: float

    def __call__(self, raw: Any) -> Float[Tensor, "2 ..."]:
        x = to_float32(raw)
        return torch.stack([x, self.noise * torch.randn_like(x)])
