"""Items of an evaluation that cannot be read, or are not what they should be, are one message that names them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from workbench.encoders.mlp import MLP
from workbench.model import Model
from workbench.scoring.embedding import Embedder
from workbench.types import Modality


class Lazy(Sequence[Any]):
    """Items that are made when they are asked for; item 5 is what it is told to be."""

    def __init__(self, fifth: Callable[[], Any]) -> None:
        self.fifth = fifth

    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: Any) -> Any:
        return self.fifth() if at == 5 else np.ones(3, np.float32)


def raising(error: BaseException) -> Callable[[], Any]:
    def fifth() -> Any:
        raise error

    return fifth


@pytest.mark.parametrize(
    ("fifth", "said"),
    [
        (raising(KeyError("clip5")), r"^item 5 of 'a' cannot be read: KeyError: 'clip5'\n(.*\n)*.*in fifth"),
        (raising(SystemExit(2)), r"^item 5 of 'a' cannot be read: SystemExit: 2"),
        (raising(OSError(2, "No such file", "/a/b")), r"^item 5 of 'a' cannot be read: .*/a/b'$"),
        (lambda: np.array([1, -np.inf, 1]), r"^item 5 of 'a' holds -inf"),
        (lambda: np.array([np.nan, 0, 1]), r"^item 5 of 'a' holds nan"),
        (lambda: np.ones(4), r"^item 5 of 'a' is \[4\], item 0 \[3\]: a modality needs one shape"),
    ],
)
def test_they_are_named(fifth: Callable[[], Any], said: str) -> None:
    encoder = MLP(Modality("vector", (3,)), 2)
    embedder = Embedder(Model({"a": encoder}, {}, None), {"a": encoder.transform(False)}, torch.device("cpu"))
    with pytest.raises(ValueError, match=said):
        embedder({"a": Lazy(fifth)}, ["a"])
    assert embedder({"a": Lazy(lambda: np.zeros(3))}, ["a"])["a"].z.shape == (8, 1, 2)


def test_vectors_of_another_length_than_declared_are_one_message() -> None:
    encoder = MLP(Modality("vector", (3, 2)), 2)
    embedder = Embedder(Model({"a": encoder}, {}, None), {"a": encoder.transform(False)}, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"a vector holds 3 numbers, where the data declares 6"):
        embedder({"a": Lazy(lambda: np.zeros(3))}, ["a"])
