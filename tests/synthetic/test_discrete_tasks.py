"""The truths of the discrete tasks against their closed forms and published numbers, and their optima against
simulated batches scored by density ratios that are written down here once more."""

import math

import numpy as np
import pytest
import torch

from synthetic.and_ import And
from synthetic.distractor import Distractor
from synthetic.hub import Hub
from synthetic.latent_synergy import LatentSynergy
from synthetic.m3_lite import M3Lite
from synthetic.missing import Missing
from synthetic.modsum import ModSum
from synthetic.parity import Parity
from synthetic.redundancy import Redundancy
from synthetic.theory.information import bayes_accuracy, mutual_information
from synthetic.uniqueness import Uniqueness
from synthetic.xor import XOR
from synthetic.xor_flip import XORFlip

LN2 = math.log(2)


def coin(p):
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


def binomial(batch, size):
    """E log(1 + Bin(batch - 1, 1 / size)), added up term by term."""
    n, q = batch - 1, 1 / size
    return sum(math.comb(n, k) * q**k * (1 - q) ** (n - k) * math.log1p(k) for k in range(batch))


@pytest.mark.parametrize(("p", "per_bit"), [(0.05, 0.4946), (0.1, 0.3681), (0.2, 0.1927)])
@pytest.mark.parametrize("bits", [1, 4])
def test_xor_flip(p, per_bit, bits):
    truth = XORFlip(bits=bits, p=p).truth()
    assert truth.total_correlation == pytest.approx(bits * (LN2 - coin(p)), abs=1e-12)
    assert truth.total_correlation == pytest.approx(bits * per_bit, abs=bits * 5e-5)
    assert truth.pairwise_information == pytest.approx({"a,b": 0, "a,c": 0, "b,c": 0}, abs=1e-12)
    assert truth.bayes_accuracy == pytest.approx((1 - p) ** bits, abs=1e-12)
    assert truth.best_single_accuracy == pytest.approx(2**-bits, abs=1e-12)


@pytest.mark.slow
def test_xor_flip_at_its_ends():
    plain = XOR(bits=2).truth().floors
    for name, floor in XORFlip(bits=2, p=0.0).truth().floors.items():
        assert floor == pytest.approx(plain[name])
    assert XORFlip(bits=2, p=0.5).truth().total_correlation == pytest.approx(0, abs=1e-12)
    assert XORFlip(bits=2, p=1.0).truth().bayes_accuracy == pytest.approx(1)


@pytest.mark.parametrize(("m", "bits"), [(3, 4), (4, 2), (5, 3), (8, 1), (8, 2)])
def test_parity(m, bits):
    task = Parity(modalities=m, bits=bits)
    joint, names, truth = task.joint(), task.modalities, task.truth()
    assert len(joint.probability) == 2 ** (bits * (m - 1))
    assert mutual_information(joint, names[1:-1], names[-1:]) == pytest.approx(0, abs=1e-12)
    assert mutual_information(joint, names[1:], names[:1]) == pytest.approx(bits * LN2, abs=1e-12)
    assert truth.total_correlation == pytest.approx(bits * LN2, abs=1e-12)
    assert (truth.bayes_accuracy, truth.chance) == (pytest.approx(1), 2**-bits)
    assert truth.symile().value == pytest.approx(binomial(256, 2**bits), abs=1e-11)
    assert len(truth.pairwise_information) == m * (m - 1) // 2


def test_parity_of_order_m_is_invisible_to_fewer():
    """Every fusion of fewer than M - 1 modalities is at ln B; the M fusions of M - 1 are not."""
    truth, ln_b, best = Parity(modalities=5, bits=2).truth(batch=64), math.log(64), binomial(64, 4)
    assert truth.clip() == pytest.approx((10 * ln_b, 10 * ln_b), abs=1e-9)
    assert truth.hub("c") == pytest.approx((4 * ln_b, 4 * ln_b), abs=1e-9)
    assert truth.confu() == pytest.approx((20 * ln_b, 20 * ln_b), abs=1e-9)
    assert truth.confu_subsets() == pytest.approx((32.5 * ln_b - 2.5 * (ln_b - best), 32.5 * ln_b), abs=1e-9)
    assert truth.confu_chain() == pytest.approx((3 * ln_b + best, 4 * ln_b), abs=1e-9)


def test_seen_values_of_parity():
    """Losses that trained models ended at lie on the optima."""
    four, eight = Parity(modalities=4, bits=2).truth().floors, Parity(modalities=8, bits=1).truth()
    assert four["clip"].value == pytest.approx(33.269, abs=5e-3)
    assert four["confu"].value == pytest.approx(49.902, abs=6e-3)
    assert eight.symile().value == pytest.approx(4.849, abs=6e-3)


@pytest.mark.parametrize(("size", "m"), [(5, 3), (7, 3), (6, 4)])
def test_modsum(size, m):
    task = ModSum(size=size, modalities=m)
    truth, names = task.truth(batch=41), task.modalities
    assert mutual_information(task.joint(), names[1:-1], names[-1:]) == pytest.approx(0, abs=1e-12)
    assert truth.total_correlation == pytest.approx(math.log(size), abs=1e-12)
    assert (truth.bayes_accuracy, truth.chance) == (pytest.approx(1), 1 / size)
    assert truth.best_single_accuracy == pytest.approx(1 / size)
    assert truth.symile().value == pytest.approx(binomial(41, size), abs=1e-11)


@pytest.mark.parametrize(
    ("noise", "pair", "third", "one", "three"),
    [(0.0, 2.7726, 1.0, 1.0, 1.0), (0.1, 1.7746, 0.811, 0.90, 0.980), (0.3, 0.7146, 0.496, 0.70, 0.843)],
)
def test_redundancy(noise, pair, third, one, three):
    task = Redundancy(size=16, noise=noise)
    truth, joint = task.truth(), task.joint()
    d = 2 * noise * (1 - noise) + noise**2 * 14 / 15
    closed = math.log(16) + sum(p * math.log(q) for p, q in ((1 - d, 1 - d), (d, d / 15)) if p > 0)
    assert set(truth.pairwise_information) == {"a,b", "a,c", "b,c"}
    assert list(truth.pairwise_information.values()) == pytest.approx([closed] * 3, abs=1e-12)
    assert closed == pytest.approx(pair, abs=5e-5)
    assert truth.bayes_accuracy == pytest.approx(1 - d, abs=1e-12)
    assert truth.bayes_accuracy == pytest.approx(third, abs=5e-4)
    assert bayes_accuracy(joint, "y", ("b",)) == pytest.approx(one, abs=1e-12)
    assert bayes_accuracy(joint, "y", ("a", "b", "c")) == pytest.approx(three, abs=5e-4)


def test_redundancy_without_noise_is_one_symbol():
    truth = Redundancy(size=5, noise=0.0, modalities=4).truth(batch=17)
    assert truth.total_correlation == pytest.approx(3 * math.log(5), abs=1e-12)
    assert truth.clip().value == pytest.approx(6 * binomial(17, 5), abs=1e-10)


def test_uniqueness():
    task = Uniqueness(size=6)
    truth, joint = task.truth(), task.joint()
    known = {"a,b": 0, "a,c": 0, "b,c": 0, "b,y": 0, "c,y": 0, "a,y": math.log(6)}
    assert truth.pairwise_information == pytest.approx(known, abs=1e-12)
    assert truth.total_correlation == pytest.approx(0, abs=1e-12)
    assert (truth.bayes_accuracy, truth.best_single_accuracy) == (pytest.approx(1), pytest.approx(1))
    assert bayes_accuracy(joint, "y", ("b", "c")) == pytest.approx(1 / 6)
    for floor in truth.floors.values():
        assert floor.value == pytest.approx(floor.no_information, abs=1e-9)


@pytest.mark.parametrize("bits", [1, 3])
def test_and(bits):
    task = And(bits=bits)
    truth, joint = task.truth(), task.joint()
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    pair = bits * (quarter - LN2 / 2)
    assert truth.pairwise_information == pytest.approx({"a,b": 0, "a,c": pair, "b,c": pair}, abs=1e-12)
    assert pair == pytest.approx(0.2158 * bits, abs=5e-5 * bits)
    assert mutual_information(joint, ("a",), ("b", "c")) == pytest.approx(bits * LN2 / 2, abs=1e-12)
    assert pytest.approx(0.3466, abs=5e-5) == LN2 / 2
    assert truth.bayes_accuracy == pytest.approx(0.75**bits)
    assert bayes_accuracy(joint, "a", ("c",)) == pytest.approx(0.75**bits)
    assert bayes_accuracy(joint, "c", ("a", "b")) == pytest.approx(1)


def test_latent_synergy():
    task = LatentSynergy(bits=4)
    truth = task.truth()
    assert truth.pairwise_information == pytest.approx({"a,b": 0, "a,y": 0, "b,y": 0}, abs=1e-12)
    assert mutual_information(task.joint(), ("y",), ("a", "b")) == pytest.approx(4 * LN2, abs=1e-12)
    assert (truth.bayes_accuracy, truth.best_single_accuracy) == (pytest.approx(1), pytest.approx(1 / 16))
    assert truth.modalities == ("a", "b")
    assert "symile" not in truth.floors


@pytest.mark.parametrize(("bits", "swap"), [(3, 0.2), (2, 0.7), (4, 0.0), (1, 1.0)])
@pytest.mark.parametrize("fourth", [False, True])
def test_distractor(bits, swap, fourth):
    truth, size = Distractor(bits=bits, swap=swap, fourth=fourth).truth(), 2**bits
    z = 1 - swap + swap / size
    wrong = (size - 1) * (swap / size) * math.log(swap / size) if swap else 0
    closed = bits * LN2 + z * math.log(z) + wrong
    assert truth.total_correlation == pytest.approx(closed, abs=1e-12)
    assert all(nats == pytest.approx(0, abs=1e-12) for nats in truth.pairwise_information.values())
    assert truth.bayes_accuracy == pytest.approx(swap / size + 1 - swap, abs=1e-12)
    if (bits, swap) == (3, 0.2):
        assert closed == pytest.approx(1.275, abs=5e-4)


@pytest.mark.parametrize(("coarse", "fine"), [(8, 4), (3, 5)])
def test_hub(coarse, fine):
    truth, paired = Hub(coarse=coarse, fine=fine).truth(), Hub(coarse=coarse, fine=fine, paired=True).truth()
    both = math.log(coarse * fine)
    known = {"image,text": math.log(coarse), "image,audio": math.log(coarse), "text,audio": both}
    assert truth.pairwise_information == paired.pairwise_information == pytest.approx(known, abs=1e-12)
    assert (truth.given, truth.bayes_accuracy) == (("text",), pytest.approx(1))
    joint = Hub(coarse=coarse, fine=fine).joint()
    assert bayes_accuracy(joint, "audio", ("image",)) == pytest.approx(1 / fine)
    assert truth.infonce(("text",), ("audio",)) == (0, 0)
    assert truth.symile() == (0, 0)
    assert truth.clip() == truth.hub("image")
    assert paired.infonce(("text",), ("audio",)).value == pytest.approx(binomial(256, coarse * fine), abs=1e-11)
    assert paired.hub("image").value == pytest.approx(2 * binomial(256, coarse), abs=1e-11)


@pytest.mark.parametrize(("classes", "languages"), [(8, 3), (5, 5), (10, 2)])
def test_m3_lite(classes, languages):
    task = M3Lite(classes=classes, languages=languages)
    truth, joint = task.truth(), task.joint()
    assert task.codes["text"] == math.perm(classes, languages)
    known = {"text,image": math.log(classes / languages), "audio,image": 0, "text,audio": 0}
    assert truth.pairwise_information == pytest.approx(known, abs=1e-12)
    assert mutual_information(joint, ("image",), ("text", "audio")) == pytest.approx(math.log(classes), abs=1e-12)
    assert truth.bayes_accuracy == pytest.approx(1)
    assert truth.best_single_accuracy == pytest.approx(1 / languages)


def test_m3_lite_shows_one_word_a_language():
    task = M3Lite(classes=6, languages=3)
    codes = task.sample(41, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))
    text = task.observe("text", codes["text"])
    assert text.shape == (41, 3, 6)
    assert (text.sum(1) <= 1).all(), "no class is named twice"
    named = text[torch.arange(41), codes["audio"]].argmax(1)
    assert torch.equal(named, codes["image"])
    assert torch.equal(task.observe("audio", codes["audio"]).argmax(1), codes["audio"])


@pytest.mark.parametrize("rate", [0.2, {"a": 0.0, "b": 0.5, "c": 0.1}])
def test_missing_is_the_task_with_fewer_complete_samples(rate):
    task, rates = Missing(of={"name": "xor", "bits": 2}, rate=rate), rate if isinstance(rate, dict) else [rate] * 3
    keep = [1 - r for r in (rates.values() if isinstance(rates, dict) else rates)]
    truth, whole = task.truth(batch=64), XOR(bits=2).truth(batch=64)
    assert task.seen[("a", "b", "c")] == pytest.approx(math.prod(keep))
    assert sum(task.seen.values()) == pytest.approx(1)
    assert truth.bayes_accuracy == whole.bayes_accuracy
    assert truth.pairwise_information == whole.pairwise_information
    # rows that are complete, one by one
    expected = sum(
        math.comb(64, n) * math.prod(keep) ** n * (1 - math.prod(keep)) ** (64 - n) * binomial(n, 4)
        for n in range(1, 65)
    )
    assert truth.symile().value == pytest.approx(expected, abs=1e-10)
    assert truth.symile_all() is None


def test_missing_takes_any_task():
    hub = Missing(of="hub", rate={"image": 0.5, "text": 0.0, "audio": 0.0})
    assert hub.seen == pytest.approx(
        {("image", "text"): 0.25, ("image", "audio"): 0.25, ("text",): 0.25, ("audio",): 0.25}
    )
    assert hub.given == ("text",)
    synergy = Missing(of="latent-synergy", rate=0.5)
    assert (synergy.target, synergy.modalities) == ("y", ("a", "b"))
    twice = Missing(of={"name": "missing", "of": "xor", "rate": 0.5}, rate=0.5)
    assert twice.seen[("a", "b", "c")] == pytest.approx(1 / 64)


def simulated(truth, task, batches=400):
    """InfoNCE of `others -> target` on fresh batches, scored by the density ratio from tables of frequencies."""
    seed, joint = torch.seed() % 2**31, truth.joint
    generator = torch.Generator().manual_seed(seed)
    others = tuple(m for m in truth.modalities if m != truth.target)
    size = tuple(joint.codes[m] for m in others)
    table = np.zeros((math.prod(size), joint.codes[truth.target]))
    columns = joint.columns((*others, truth.target))
    rows = np.ravel_multi_index([columns[m] for m in others], size)
    np.add.at(table, (rows, columns[truth.target]), joint.probability)
    with np.errstate(divide="ignore", invalid="ignore"):
        critic = np.log(table / table.sum(1, keepdims=True) / table.sum(0))
    losses = []
    for _ in range(batches):
        codes = {m: c.numpy() for m, c in task.sample(truth.batch, generator).items()}
        scores = critic[np.ravel_multi_index([codes[m] for m in others], size)[:, None], codes[truth.target]]
        right = scores.diagonal()
        losses.append(((np.log(np.exp(scores).sum(0)) + np.log(np.exp(scores).sum(1))) / 2 - right).mean())
    assert np.isfinite(losses).all(), f"seed {seed}"
    mean, error = np.mean(losses), np.std(losses, ddof=1) / math.sqrt(batches)
    value = truth.infonce(others, (truth.target,)).value
    assert abs(mean - value) < 4.5 * error, f"seed {seed}: {mean} +- {error}, not {value}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        XORFlip(bits=2, p=0.15),
        Parity(modalities=4, bits=1),
        ModSum(size=5),
        Redundancy(size=8, noise=0.2),
        And(bits=2),
        Distractor(bits=2, swap=0.3, fourth=True),
        M3Lite(classes=5, languages=2),
    ],
    ids=lambda task: type(task).__name__,
)
def test_simulated_batches_reach_the_optimum(task):
    simulated(task.truth(batch=41), task)
