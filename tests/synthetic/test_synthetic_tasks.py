"""What holds for every task there is: the contract, and that `sample` draws the process `joint` enumerates."""

import ast
import importlib
import json
import math
import pkgutil
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from synthetic.and_ import And
from synthetic.distractor import Distractor
from synthetic.hub import Hub
from synthetic.m3_lite import M3Lite
from synthetic.missing import Missing
from synthetic.modsum import ModSum
from synthetic.parity import Parity
from synthetic.redundancy import Redundancy
from synthetic.synergy import Synergy
from synthetic.theory.presence import seen_of
from synthetic.uniqueness import Uniqueness
from synthetic.xor import XOR
from synthetic.xor_flip import XORFlip

NAMES = [m.name for m in pkgutil.iter_modules(synthetic.__path__) if not m.ispkg]


def default(name):
    module = importlib.import_module(f"synthetic.{name}")
    (cls,) = module.__all__
    return getattr(module, cls)()


def draw(task, n, seed):
    return task.sample(n, torch.Generator().manual_seed(seed))


def assert_samples_follow_joint(task, n=200_000):
    """The frequency of every outcome, and of those of every pair of variables, by Bernstein's inequality."""
    seed, joint = torch.seed() % 2**31, task.joint()
    codes = draw(task, n, seed)
    for names in (tuple(joint.codes), *combinations(joint.codes, 2)):
        part = joint.marginal(names)
        size = tuple(part.codes.values())
        # a code may carry more than its symbol, as how a class is drawn: its alphabet is what counts
        cell = np.ravel_multi_index(tuple(codes[m].numpy() % part.codes[m] for m in names), size)
        support = np.ravel_multi_index(tuple(part.support.T), size)  # sorted, as `merge` lists it
        place = np.searchsorted(support, cell).clip(max=len(support) - 1)
        assert (support[place] == cell).all(), f"seed {seed}: an impossible outcome of {names} was drawn"
        error = np.bincount(place, minlength=len(support)) - n * part.probability
        log = math.log(2e7 * len(support))  # exceeded with probability 1e-7
        bound = np.sqrt(2 * n * part.probability * (1 - part.probability) * log) + 2 * log / 3
        assert (abs(error) <= bound).all(), f"seed {seed}: {names} is off by {abs(error / bound).max():.1f} bounds"


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    task, n = default(name), 41
    codes, kinds = draw(task, n, 3), getattr(task, "kinds", {})
    assert set(task.shapes) == set(task.modalities) <= set(codes)
    assert {task.target} <= set(task.codes) <= set(codes)
    assert sum(seen_of(task).values()) == pytest.approx(1)
    for variable, values in codes.items():
        assert len(values) == n
        assert values.dtype == (torch.int64 if variable in task.codes else torch.float32)
    for m in task.modalities:
        x = task.observe(m, codes[m])
        if kinds.get(m, "vector") == "vector":
            assert x.shape == (n, *task.shapes[m])
            assert x.dtype == torch.float32
            if m in task.codes:
                book = task.observe(m, torch.arange(task.codes[m]))
                assert len(book.flatten(1).unique(dim=0)) == task.codes[m]
    assert task.joint() is None or task.joint().codes == task.codes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if default(name).joint() is not None])
def test_samples_follow_the_joint_distribution(name):
    assert_samples_follow_joint(default(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        XOR(bits=1),
        XOR(bits=4),
        Synergy(bits=2, p=0.9),
        Synergy(p=0.0),
        Synergy(p=1.0),
        XORFlip(bits=2, p=0.7),
        XORFlip(bits=5, p=0.0),
        Parity(modalities=3, bits=3),
        Parity(modalities=8, bits=1),
        ModSum(size=7, modalities=4),
        Redundancy(size=5, noise=0.6, modalities=4),
        Redundancy(size=2, noise=0.0),
        And(bits=3),
        Distractor(bits=2, swap=1.0, fourth=True),
        Hub(coarse=3, fine=5, paired=True),
        M3Lite(classes=6, languages=6),
    ],
)
def test_samples_follow_the_joint_distribution_of_other_recipes(task):
    assert_samples_follow_joint(task)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_is_the_sample(name):
    task = default(name)
    one, same, other = draw(task, 509, 7), draw(task, 509, 7), draw(task, 509, 8)
    assert all(torch.equal(one[m], same[m]) for m in one)
    assert not all(torch.equal(one[m], other[m]) for m in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_truth_is_json_and_consistent(name):
    truth = default(name).truth(batch=64)
    record = json.loads(json.dumps(truth.as_dict(), allow_nan=False))
    assert record["task"] == name.rstrip("_").replace("_", "-")
    assert record["batch"] == 64
    assert record["total_correlation"] == truth.total_correlation
    assert truth.chance <= truth.majority + 1e-12
    assert truth.majority <= truth.best_single_accuracy + 1e-12
    assert truth.best_single_accuracy <= truth.bayes_accuracy + 1e-12
    assert sum(record["seen"].values()) == pytest.approx(1)
    for floor in record["floors"].values():
        assert 0 <= floor["value"] <= floor["no_information"] + 1e-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: XORFlip(bits=7), "2097152 outcomes (128 x 128 x 128), more than 1048576"),
        (lambda: XORFlip(p=1.1), "p (1.1)"),
        (lambda: Parity(modalities=2), "modalities (2) must be between 3 and 8"),
        (lambda: Parity(modalities=8, bits=3), "take fewer bits, symbols or modalities"),
        (lambda: ModSum(size=1), "at least 2 symbols"),
        (lambda: ModSum(size=11, modalities=8), "outcomes"),
        (lambda: Redundancy(noise=-0.1), "noise (-0.1)"),
        (lambda: Redundancy(modalities=9), "modalities (9)"),
        (lambda: Redundancy(size=40, modalities=5), "outcomes"),
        (lambda: Uniqueness(size=200), "outcomes"),
        (lambda: Distractor(swap=2), "swap (2)"),
        (lambda: Hub(coarse=1), "at least 2 symbols"),
        (lambda: M3Lite(classes=3, languages=4), "different classes"),
        (lambda: M3Lite(classes=40, languages=5), "outcomes"),
        (lambda: Missing(of="xorr"), "no task 'xorr'"),
        (lambda: Missing(of={"name": "xor", "bit": 1}), "task 'xor'"),
        (lambda: Missing(of={"name": "xor", "bits": 9}), "bits (9)"),
        (lambda: Missing(rate=1.0), "below 1"),
        (lambda: Missing(rate={"a": 0.5}), "of each of a, b, c"),
    ],
)
def test_impossible_recipes_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_xor_is_seen_as_bits():
    task = XOR(bits=5)
    codes = draw(task, 127, 0)
    a, b, c = (task.observe(m, codes[m]) for m in "abc")
    assert torch.equal(c, (a - b).abs())
    assert torch.equal(a @ 2.0 ** torch.arange(5), codes["a"].float())


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_impossible_bits_are_refused(bits):
    for cls in (XOR, Synergy):
        with pytest.raises(ValueError, match=rf"bits \({bits}\) must be between 1 and 8"):
            cls(bits=bits)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_impossible_share_is_refused(p):
    with pytest.raises(ValueError, match="from 0 to 1"):
        Synergy(p=p)


def test_batch_without_negatives_is_refused():
    with pytest.raises(ValueError, match=r"batch \(1\)"):
        XOR().truth(batch=1)


def test_listing_tasks_loads_neither_torch_nor_numpy():
    program = "import sys, synthetic; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_needs_torch_and_numpy_only():
    allowed = {"torch", "numpy", "synthetic", *sys.stdlib_module_names}
    for file in Path(synthetic.__path__[0]).rglob("*.py"):
        for node in runtime_statements(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, f"{file.name} imports {names}"


def runtime_statements(tree):
    """Every node but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from runtime_statements(node)
