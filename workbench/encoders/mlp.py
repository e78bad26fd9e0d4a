"""Multi-layer perceptron on vectors: the tower of the synthetic tasks; with depth 1 it is a linear encoder."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from workbench.types import Encoder, Features, Modality, Transform

__all__ = ["MLP"]


class MLP(Encoder):
    """Maps vectors [n, *shape] to [n, dim]. It has no projection of its own, so `pooled` is `z`; it has no tokens.

    Args:
        width: units of each hidden layer
        depth: linear layers; 1 is a linear encoder without hidden layers
        dropout: probability that a hidden unit is left out in training

    Raises ValueError for a modality that is not made of vectors.
    """

    def __init__(
        self,
        modality: Modality,
        dim: int,
        *,
        width: PositiveInt = 64,
        depth: PositiveInt = 1,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ):
        super().__init__()
        if modality.kind != "vector":
            raise ValueError(f"it reads vectors, not {modality.kind}: use 'open_clip'")
        self.width = dim
        sizes = [math.prod(modality.shape), *[width] * (depth - 1)]
        hidden = [
            layer
            for inputs, outputs in pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(dropout))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], dim))

    def forward(self, x: Float[Tensor, "n ..."], tokens: bool = False) -> Features:
        """Encode vectors. Raises ValueError when they hold another number of numbers than the data declares."""
        x, size = x.reshape(len(x), -1), self.layers[0].in_features
        if x.shape[1] != size:
            raise ValueError(f"a vector holds {x.shape[1]} numbers, where the data declares {size} (Modality.shape)")
        z = self.layers(x)
        return Features(z=z, pooled=z)

    def depths(self) -> dict[str, int]:
        """Give the linear layer of each parameter, from 0 up to the last."""
        linear = [i for i, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        return {f"layers.{i}.{name}": depth for depth, i in enumerate(linear) for name in ("weight", "bias")}

    def transform(self, train: bool) -> Transform:
        """Give the map of anything array-like to float32, in training and evaluation alike."""
        return partial(torch.as_tensor, dtype=torch.float32)
