"""The rendered worlds and their tasks: pictures against plane geometry, truths against closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from synthetic.image_text_match import ImageTextMatch
from synthetic.image_text_xor import ImageTextXOR
from synthetic.pid_gaussian import PIDGaussian
from synthetic.theory.information import bayes_accuracy, mutual_information
from synthetic.trifeature import Trifeature
from synthetic.world.outlines import OUTLINES, polygon
from synthetic.world.pictures import COLOURS, LEVELS, NUISANCES, RADIUS, Pictures
from synthetic.world.textures import TEXTURES
from synthetic.world.words import SYNONYMS
from workbench.encoders.open_clip import OpenCLIP
from workbench.types import Modality

TEN = torch.arange(10)
RENDERED = [
    ImageTextXOR(),
    ImageTextXOR(classes=7, colours=4, world=3),
    ImageTextMatch(classes=4),
    Trifeature(values=3),
]


def seeded() -> tuple[int, torch.Generator]:
    seed = torch.seed() % 2**31
    return seed, torch.Generator().manual_seed(seed)


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


@pytest.mark.parametrize("task", RENDERED, ids=lambda task: type(task).__name__)
def test_codes_are_dressed_and_observed(task) -> None:
    seed, generator = seeded()
    codes = task.sample(37, generator)
    again = task.sample(37, torch.Generator().manual_seed(seed))
    for m in task.modalities:
        assert torch.equal(codes[m], again[m]), seed
        seen, kind = task.observe(m, codes[m]), task.kinds.get(m, "vector")
        plain = task.observe(m, codes[m] % task.codes[m])
        if kind == "text":
            assert all(isinstance(word, str) for word in seen)
            assert [meaning(a) for a in seen] == [meaning(b) for b in plain], seed
        elif kind == "image":
            assert seen.dtype == torch.uint8
            assert Image.fromarray(seen[0].numpy()).size == (task_size(task),) * 2
            assert torch.equal(seen, task.observe(m, codes[m])), seed
            assert not torch.equal(seen, plain), seed
            assert torch.equal(seen[5:9], task.observe(m, codes[m][5:9])), "a picture depends on its batch"
        else:
            assert seen.shape == (37, *task.shapes[m])
            assert torch.equal(seen, plain)


def task_size(task) -> int:
    return (task.pictures if isinstance(task, Trifeature) else task.world.pictures).size


def meaning(word: str) -> str:
    return next(name for name, words in SYNONYMS.items() if word in words)


def table_of(*columns: tuple[torch.Tensor, int]) -> np.ndarray:
    sizes = tuple(size for _, size in columns)
    index = np.ravel_multi_index([code.numpy() for code, _ in columns], sizes)
    return np.bincount(index, minlength=math.prod(sizes)).reshape(sizes)


def assert_chi2(count: np.ndarray, probability: np.ndarray, seed: int) -> None:
    possible = probability > 0
    assert count[~possible].sum() == 0, f"seed {seed}: an impossible outcome was drawn"
    expected = count.sum() * probability[possible]
    chi2, k = ((count[possible] - expected) ** 2 / expected).sum(), possible.sum() - 1
    assert chi2 < k + 2 * math.sqrt(16 * k) + 2 * 16, f"seed {seed}: chi2 {chi2} on {k} degrees of freedom"


@pytest.mark.parametrize("task", RENDERED, ids=lambda task: type(task).__name__)
def test_samples_follow_the_joint_distribution(task) -> None:
    seed, generator = seeded()
    codes, joint = task.sample(40_000, generator), task.joint()
    assert joint.codes == task.codes
    table = np.zeros(tuple(joint.codes.values()))
    table[tuple(joint.support.T)] = joint.probability
    assert_chi2(table_of(*((codes[m] % size, size) for m, size in joint.codes.items())), table, seed)


@pytest.mark.parametrize("task", [ImageTextXOR(classes=3, colours=10), ImageTextMatch(classes=3, colours=10)])
def test_the_nuisance_says_nothing(task) -> None:
    """Synonym, colour and a digit of the position are uniform whatever the classes and the target are."""
    seed, generator = seeded()
    codes = task.sample(60_000, generator)
    target, joint = codes[task.target], task.joint().marginal(("image", "text", task.target))
    table = np.zeros(tuple(joint.codes.values()))
    table[tuple(joint.support.T)] = joint.probability
    shown = [(codes["image"] % 3, 3), (codes["text"] % 3, 3), (target, task.codes[task.target])]
    synonym, picture = codes["text"] // 3, codes["image"] // 3
    for nuisance, size in ((synonym, 3), (picture // NUISANCES, 10), (picture % LEVELS // (LEVELS // 4), 4)):
        assert_chi2(table_of(*shown, (nuisance, size)), np.repeat(table[..., None], size, axis=-1) / size, seed)


@pytest.mark.parametrize("make", [ImageTextXOR, ImageTextMatch, Trifeature, PIDGaussian])
def test_another_world_is_another_map_of_the_same_codes(make) -> None:
    one, same, other = make(world=1), make(world=1), make(world=2)
    drawn = [task.sample(64, torch.Generator().manual_seed(0)) for task in (one, same, other)]
    m = one.modalities[0]
    assert torch.equal(drawn[0][m], drawn[2][m])
    assert torch.equal(one.observe(m, drawn[0][m]), same.observe(m, drawn[1][m]))
    if make is Trifeature:  # its world is the rule
        assert torch.equal(one.rule, same.rule)
        assert not torch.equal(one.rule, other.rule)
    else:
        assert not torch.equal(one.observe(m, drawn[0][m]), other.observe(m, drawn[2][m]))


def binomial(batch: int, size: int) -> float:
    """E log(1 + Bin(batch - 1, 1 / size)), added up term by term."""
    n, q = batch - 1, 1 / size
    return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) * math.log1p(k) for k in range(batch))


@pytest.mark.parametrize("size", [2, 5, 10])
def test_truth_of_image_text_xor(size: int) -> None:
    truth = ImageTextXOR(classes=size).truth(batch=128)
    assert max(truth.pairwise_information.values()) == pytest.approx(0, abs=1e-9)
    assert truth.total_correlation == pytest.approx(math.log(size))
    assert (truth.bayes_accuracy, truth.best_single_accuracy, truth.chance) == pytest.approx((1, 1 / size, 1 / size))
    assert truth.infonce(("image", "text"), ("sum",)).value == pytest.approx(binomial(128, size))
    assert truth.infonce(("image", "sum"), ("text",)).value == pytest.approx(binomial(128, size))


@pytest.mark.parametrize("size", [2, 5, 10])
def test_truth_of_image_text_match(size: int) -> None:
    truth = ImageTextMatch(classes=size).truth(batch=41)
    between = math.log(size) - math.log(2) - math.log(size - 1) / 2
    assert truth.pairwise_information["image,text"] == pytest.approx(between, abs=1e-12)
    assert size < 10 or between == pytest.approx(0.5108, abs=1e-4)
    assert truth.pairwise_information["image,match"] == pytest.approx(0, abs=1e-9)
    assert truth.pairwise_information["text,match"] == pytest.approx(0, abs=1e-9)
    assert mutual_information(truth.joint, ("image", "text"), ("match",)) == pytest.approx(math.log(2))
    assert truth.total_correlation == pytest.approx(between + math.log(2))
    assert (truth.bayes_accuracy, truth.best_single_accuracy, truth.chance) == pytest.approx((1, 0.5, 0.5))


@pytest.mark.parametrize("values", [3, 10])
@pytest.mark.parametrize("label", ["redundancy", "uniqueness", "synergy"])
def test_truth_of_trifeature(label, values: int) -> None:
    joint = Trifeature(label=label, values=values).joint()
    whole, h = math.log(values), math.log(values) / values - (1 - 1 / values) * math.log1p(-1 / values)
    first, second, both = {
        "redundancy": (whole, whole, whole),
        "uniqueness": (whole, 0, whole),
        "synergy": (0, 0, h),
    }[label]
    for given, nats in ((("first",), first), (("second",), second), (("first", "second"), both)):
        assert mutual_information(joint, given, ("label",)) == pytest.approx(nats, abs=1e-8)
    assert mutual_information(joint, ("first",), ("second",)) == pytest.approx(whole)
    assert bayes_accuracy(joint, "label", ("first", "second")) == pytest.approx(1)
    assert values < 10 or h == pytest.approx(0.3251, abs=1e-4)


def test_majority_and_floor_of_trifeature() -> None:
    truth = Trifeature(values=5).truth(batch=128)
    assert (truth.chance, truth.majority, truth.best_single_accuracy) == pytest.approx((0.5, 0.8, 0.8))
    assert truth.infonce(("first",), ("second",)).value == pytest.approx(binomial(128, 5))


def test_synergy_of_trifeature_is_a_rule_of_pictures() -> None:
    """Texture and colour read back from the pictures themselves, by the nearest plain one, tell the label."""
    seed, generator = seeded()
    task = Trifeature(values=4, size=32)
    codes = task.sample(200, generator)
    book = task.observe("first", torch.arange(64)).flatten(1).float()
    read = [torch.cdist(task.observe(m, codes[m] % 64).flatten(1).float(), book).argmin(1) for m in task.modalities]
    match = task.rule[read[0] // 16] == read[1] // 4 % 4
    assert torch.equal(match.long(), codes["label"]), seed


def gaussian_information(a: torch.Tensor, b: torch.Tensor) -> float:
    """I of two jointly Gaussian vectors from their samples."""
    both = torch.cat([a, b], dim=1).double().T
    blocks = (both[: a.shape[1]], both[a.shape[1] :], both)
    one, two, joint = (torch.logdet(torch.cov(x)).item() for x in blocks)
    return (one + two - joint) / 2


@pytest.mark.parametrize("options", [{}, {"shared": 3, "first": 1, "second": 5, "correlation": 0.5}])
def test_truth_of_pid_gaussian_by_simulation(options) -> None:
    seed, generator = seeded()
    task, n = PIDGaussian(**options), 200_000
    truth, codes = task.truth(), task.sample(n, generator)
    x = {m: task.observe(m, codes[m]) for m in task.modalities}
    y = codes["label"].double() * 2 - 1
    assert truth.pairwise_information["first,second"] == pytest.approx(gaussian_information(*x.values()), abs=0.02), (
        seed
    )
    right = []
    for m, inputs in x.items():
        # The label is the sign of a linear map and noise, so least squares finds the best direction.
        weight = torch.linalg.lstsq(inputs.double(), y[:, None]).solution
        score = (inputs.double() @ weight).squeeze(1)
        right.append(((score.sign() == y).double().mean()).item())
        correlation = math.sin(math.pi * (right[-1] - 0.5))
        slope = correlation / math.sqrt(1 - correlation**2)
        positive = torch.special.log_ndtr(slope * score / score.std() * y).mean().item()
        assert truth.pairwise_information[f"{m},label"] == pytest.approx(math.log(2) + positive, abs=0.01), seed
    assert truth.best_single_accuracy == pytest.approx(max(right), abs=0.006), seed


def test_ceiling_of_pid_gaussian() -> None:
    truth = PIDGaussian().truth()
    assert truth.best_single_accuracy == pytest.approx(0.8251, abs=5e-5)
    assert (truth.bayes_accuracy, truth.chance, truth.joint, truth.floors) == (1, 0.5, None, {})
    assert PIDGaussian(correlation=1).truth().pairwise_information["first,second"] is None
    assert truth.infonce(("first",), ("second",)) is None


def test_label_of_pid_gaussian_is_known_from_both() -> None:
    """`first` holds c and z1, `second` z2, behind orthogonal maps."""
    seed, generator = seeded()
    task = PIDGaussian(shared=4, first=3, second=2)
    codes = task.sample(509, generator)
    latents = {m: task.observe(m, codes[m]) @ task.maps[m] for m in task.modalities}
    total = latents["first"].sum(1) + latents["second"][:, 4:].sum(1)
    assert torch.equal((total > 0).long(), codes["label"]), seed


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (ImageTextXOR, {"classes": 11}, r"classes \(11\) must be between 2 and 10"),
        (ImageTextMatch, {"classes": 1}, r"classes \(1\)"),
        (ImageTextMatch, {"colours": 0}, r"colours \(0\)"),
        (ImageTextXOR, {"size": 31}, r"size \(31\).*32 pixels or more"),
        (Trifeature, {"values": 1}, r"values \(1\)"),
        (Trifeature, {"values": 11}, r"values \(11\)"),
        (PIDGaussian, {"shared": 0}, r"shared \(0\)"),
        (PIDGaussian, {"correlation": 1.1}, r"correlation \(1.1\)"),
    ],
)
def test_impossible_worlds_are_refused(make, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
