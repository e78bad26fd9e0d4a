"""Small pictures of what is no picture: where something is drawn, and that every item of every kind can be."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.figures.embeddings import contact_sheet, pixels, thumbnail
from workbench.figures.glimpses import glimpse

SIZE = 40


def ink(item: object) -> np.ndarray:
    """True where a pixel is not white."""
    return (np.asarray(glimpse(item, SIZE)) < 255).any(-1)


def test_a_sound_is_drawn_as_its_envelope() -> None:
    loud_then_silent = torch.cat([torch.sin(torch.arange(4_000.0)), torch.zeros(4_000)])
    drawn = ink((loud_then_silent, 8_000))
    assert drawn[:, : SIZE // 2].all()
    assert drawn[:, SIZE // 2 + 1 :].sum(0).max() <= 2
    quiet = ink((0.001 * loud_then_silent, 8_000))  # on a scale of its own
    assert np.array_equal(drawn, quiet)
    assert ink((torch.zeros(1), 8_000)).sum(0).max() <= 2


def test_a_vector_is_drawn_as_bars_from_the_middle() -> None:
    picture = np.asarray(glimpse(torch.tensor([1.0, -0.5, 0.0, 0.25]), SIZE)).astype(int)
    drawn = (picture < 255).any(-1)
    heights = [drawn[:, column].sum() for column in (2, 12, 22, 32)]
    assert heights == pytest.approx([20, 10, 0, 5], abs=2)
    assert not drawn[SIZE // 2 + 2 :, 2].any()
    assert not drawn[: SIZE // 2 - 2, 12].any()
    assert picture[5, 2, 2] > picture[5, 2, 0]  # blue above
    assert picture[25, 12, 0] > picture[25, 12, 2]  # red below
    many = ink(torch.cat([torch.ones(500), -torch.ones(501)]))
    assert many[: SIZE // 2 - 1, : SIZE // 2 - 1].all()
    assert many[SIZE // 2 + 1 :, SIZE // 2 + 1 :].all()


def test_a_sequence_is_drawn_with_time_from_left_to_right_and_a_scale_for_each_number() -> None:
    frames = torch.stack([torch.arange(8.0), -1e6 * torch.arange(8.0), torch.ones(8)], 1)
    bright = np.asarray(glimpse(frames, SIZE)).astype(int).sum(-1)
    assert bright[2, 0] < bright[2, 20] < bright[2, -1]
    assert bright[20, 0] > bright[20, 20] > bright[20, -1]
    assert len(set(bright[-2])) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "item",
    [
        "a text",
        (torch.tensor([math.nan, 1.0]), 44_100),
        (torch.randn(131), 8_000),
        torch.zeros(3),
        torch.tensor(2.0),
        [0.5, -1.0],
        np.full(1_001, 1e300),
        torch.randn(1, 700),
        torch.randn(900, 1),
        torch.tensor([[math.inf, 0.0], [1.0, 2.0]]),
        Image.new("L", (9, 90), 7),
    ],
)
def test_every_item_has_a_thumbnail_and_a_card(item: object) -> None:
    tile = thumbnail(item, SIZE)
    assert tile.shape == (3, SIZE, SIZE)
    assert np.isfinite(tile).all()
    assert pixels(contact_sheet([(item, "about", ["a caption"])], "title")).min() < 255
