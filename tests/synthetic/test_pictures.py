"""Pictures and words of the rendered worlds: outlines and nuisances against plane geometry, no two alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from draws import seeded

from synthetic.trifeature import Trifeature
from synthetic.world.outlines import OUTLINES, polygon
from synthetic.world.pictures import COLOURS, LEVELS, NUISANCES, RADIUS, Pictures
from synthetic.world.textures import TEXTURES
from synthetic.world.words import SYNONYMS
from workbench.encoders.open_clip import OpenCLIP
from workbench.types import Modality

TEN = torch.arange(10)


def zeros(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.long)


def shown(pictures: torch.Tensor) -> torch.Tensor:
    """Share of each pixel that a white outline covers."""
    return (pictures[..., 0].double() - 128) / 127


def shoelace(corners: list[tuple[float, float]]) -> float:
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairs)) / 2


def test_polygon_is_the_signed_distance() -> None:
    rng = np.random.default_rng()
    radius, angle = rng.uniform(0.3, 1, 7), np.sort(rng.uniform(0, 2 * np.pi, 7))
    corners = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    points = rng.uniform(-1.2, 1.2, (2, 41, 3))
    got = polygon(*map(tuple, corners))(*points)
    ends = np.roll(corners, -1, axis=0)
    along = np.linspace(0, 1, 4001)[:, None, None]
    border = (corners + along * (ends - corners)).reshape(-1, 2)
    distance = np.hypot(*(points[..., None] - border.T[:, None, None])).min(-1)
    assert np.abs(np.abs(got) - distance).max() < 1e-3
    turns = np.diff(np.unwrap(np.arctan2(*(border_path(corners) - points.reshape(2, 1, -1))[::-1]), axis=0), axis=0)
    winding = np.rint(turns.sum(0) / (2 * np.pi)).reshape(points.shape[1:])
    assert np.array_equal(got < 0, winding % 2 == 1), corners


def border_path(corners: np.ndarray) -> np.ndarray:
    """The closed border as points close to each other [2, n, 1]."""
    ends = np.roll(corners, -1, axis=0)
    path = corners[:, None] + np.linspace(0, 1, 500, endpoint=False)[:, None] * (ends - corners)[:, None]
    return np.concatenate([path.reshape(-1, 2), corners[:1]]).T[..., None]


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_fit_the_unit_disc(name: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 1000)[:, None]
    outside = np.linspace(1.01, 1.5, 10)
    assert OUTLINES[name](outside * np.cos(angle), outside * np.sin(angle)).min() > 0


def test_areas() -> None:
    """Pixels that are covered, against plane geometry."""
    size = 128
    unit = sum(RADIUS) / 2 * size / 2
    areas = shown(Pictures(size)(TEN, zeros(10), zeros(10), zeros(10))).sum((1, 2)) / unit**2
    star = [(r * math.sin(k * math.pi / 5), r * math.cos(k * math.pi / 5)) for k, r in enumerate([0.95, 0.4] * 5)]
    expected = {
        "circle": math.pi * 0.85**2,
        "square": 1.4**2,
        "triangle": 0.86 * 1.49,
        "star": shoelace(star),
        "cross": 2 * 1.9 * 0.6 - 0.6**2,
        "ring": math.pi * (0.92**2 - 0.4**2),
        "arrow": 0.99 * 0.64 + 0.8 * 0.9,
        "hourglass": 0.72 * 1.38,
    }
    for (name, area), got in zip(((n, expected.get(n)) for n in OUTLINES), areas.tolist(), strict=True):
        assert area is None or got == pytest.approx(area, rel=0.02), name


def test_the_nuisance_moves_the_picture_as_its_digits_say() -> None:
    seed, generator = seeded()
    size, n = 96, 41
    digits = torch.randint(LEVELS, (n, 4), generator=generator)
    covered = shown(Pictures(size)(zeros(n), zeros(n), zeros(n), digits @ LEVELS ** torch.arange(4)))
    right, down, larger, _ = ((digits.double() / LEVELS + 0.5) % 1).T
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * larger
    mass, place = covered.sum((1, 2)), (torch.arange(size) + 0.5) * 2 / size - 1
    assert torch.allclose(mass, math.pi * (0.85 * radius * size / 2) ** 2, rtol=0.02), seed
    for digit, axis in ((right, 1), (down, 2)):
        centre = (covered.sum(axis) * place).sum(1) / mass
        assert torch.allclose(centre, (2 * digit - 1) * (1 - radius), atol=0.5 / size), seed


def test_the_nuisance_turns_the_picture() -> None:
    """The principal axis of an arrow, by second moments."""
    turn = torch.tensor([0, 100, 300, 511, 512, 900])
    covered = shown(Pictures(128)(zeros(6) + 8, zeros(6), zeros(6), turn * LEVELS**3))
    place = (torch.arange(128) + 0.5) / 64 - 1
    y, x = torch.meshgrid(-place.double(), place.double(), indexing="ij")
    mass = covered.sum((1, 2))
    x, y = (u - ((covered * u).sum((1, 2)) / mass)[:, None, None] for u in (x, y))
    xx, yy, xy = ((covered * u).sum((1, 2)) for u in (x * x, y * y, x * y))
    angle = torch.atan2(2 * xy, xx - yy) / 2
    expected = (2 * ((turn / LEVELS + 0.5) % 1) - 1) * math.pi / 12
    assert torch.allclose(angle.abs(), expected.abs().double(), atol=0.01)
    assert angle[1] * angle[5] < 0


def test_no_picture_is_cut_off() -> None:
    """Wherever an outline is, as much of it is seen as in the middle."""
    seed, generator = seeded()
    outline, nuisance = TEN.repeat(20), torch.randint(NUISANCES, (200,), generator=generator)
    moved, middle = (
        Pictures(64)(outline, zeros(200), zeros(200), n) for n in (nuisance, nuisance - nuisance % LEVELS**2)
    )
    assert torch.allclose(shown(moved).sum((1, 2)), shown(middle).sum((1, 2)), rtol=0.03), seed


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64])
def test_no_two_codes_look_alike(size: int) -> None:
    """All thousand pictures, in colours that are not only lighter or darker."""
    pictures = Trifeature(size=size).observe("first", torch.arange(1000)).flatten(1).float() / 255
    square = torch.cdist(pictures, pictures).fill_diagonal_(torch.inf).square().min() / 3
    assert square > 0.002 * size**2, f"{square} pixels from black to white"


def test_ten_of_everything_and_no_word_twice() -> None:
    assert len(OUTLINES) == len(TEXTURES) == len(COLOURS) == len(SYNONYMS) == 10
    words = [word for each in SYNONYMS.values() for word in each]
    assert len(set(words)) == len(words) == 30
    tower = OpenCLIP(Modality("text"), 8, config={"context_length": 8, "width": 16, "heads": 2, "layers": 1})
    tokens = torch.stack([tower.transform(train=False)(word) for word in words])
    assert len(tokens.unique(dim=0)) == 30
    assert (tokens[:, -1] == 0).all(), "a word does not fit into the recipes' eight tokens"
