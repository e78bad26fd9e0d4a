"""Tasks of the rendered worlds: samples against joint distributions, truths against closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from draws import seeded
from PIL import Image

from synthetic.image_text_match import ImageTextMatch
from synthetic.image_text_xor import ImageTextXOR
from synthetic.pid_gaussian import PIDGaussian
from synthetic.theory.information import bayes_accuracy, mutual_information
from synthetic.trifeature import Trifeature
from synthetic.world.pictures import LEVELS, NUISANCES
from synthetic.world.words import SYNONYMS

RENDERED = [
    ImageTextXOR(),
    ImageTextXOR(classes=7, colours=4, world=3),
    ImageTextMatch(classes=4),
    Trifeature(values=3),
]


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


@pytest.mark.slow
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
