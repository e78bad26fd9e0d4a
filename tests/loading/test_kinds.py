"""Raw items of every kind: what is not what its modality declares is a bad sample, before any transform sees it."""

import numpy as np
import pytest
import torch

from workbench.errors import BadSample
from workbench.loading.batching import prepare, to_float32, unfit
from workbench.types import Modality, Sample

AUDIO, SEQUENCE, VECTOR = Modality("audio", (800,), rate=8000), Modality("sequence", (5, 3)), Modality("vector", (3,))
SOUND = torch.zeros(41)


@pytest.mark.parametrize(
    ("modality", "raw", "reason"),
    [
        (AUDIO, (SOUND, 44_100), None),
        (AUDIO, SOUND, "is Tensor, and not a pair"),
        (AUDIO, (SOUND, 8000, 1), "is tuple, and not a pair"),
        (AUDIO, (torch.zeros(8, 41), 8000), "is 8 x 41 of float32: a waveform is one channel"),
        (AUDIO, (torch.zeros(41, dtype=torch.int16), 8000), "is 41 of int16"),
        (AUDIO, (torch.zeros(0), 8000), "is 0 samples long"),
        (AUDIO, (SOUND, 0), "has a rate of 0 samples"),
        (AUDIO, (SOUND, 8000.0), "has a rate of 8000.0"),
        (AUDIO, (torch.tensor([0.0] * 9_999 + [float("nan")]), 8000), "holds nan"),
        (SEQUENCE, torch.zeros(127, 3), None),
        (SEQUENCE, np.zeros((1, 3)), None),
        (SEQUENCE, torch.zeros(0, 3), "is 0 x 3, where the data declares frames x 3"),
        (SEQUENCE, torch.zeros(5, 4), "is 5 x 4"),
        (SEQUENCE, torch.zeros(3), "is 3, where"),
        (VECTOR, torch.zeros(3), None),
        (VECTOR, torch.zeros(4), "is 4, where the data declares 3"),
        (VECTOR, [0.0, 1.0, 2.0], None),
        (Modality("text"), "a", None),
    ],
)
def test_what_is_unfit(modality: Modality, raw: object, reason: str | None) -> None:
    found = unfit(raw, modality)
    assert found is None if reason is None else reason in str(found)


def test_an_unfit_item_never_reaches_its_transform() -> None:
    def transform(_: object) -> torch.Tensor:
        raise AssertionError("it was called")

    sample = Sample({"x": [torch.zeros(0, 3)]}, 0)
    with pytest.raises(BadSample, match="row 7: its x is 0 x 3"):
        prepare("row 7", sample, {"x": SEQUENCE}, {"x": transform}, (0, 0, 0))
    with pytest.raises(BadSample, match="row 7: its x holds inf"):
        prepare("row 7", Sample({"x": [[1.0, float("inf"), 0.0]]}, 0), {"x": VECTOR}, {"x": to_float32}, (0, 0, 0))
