"""What holds for every task there is: the contract, and that `sample` draws the process `joint` enumerates."""

import ast
import importlib
import json
import math
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from synthetic.synergy import Synergy
from synthetic.xor import XOR

NAMES = [m.name for m in pkgutil.iter_modules(synthetic.__path__) if not m.ispkg]


def default(name):
    module = importlib.import_module(f"synthetic.{name}")
    (cls,) = module.__all__
    return getattr(module, cls)()


def draw(task, n, seed):
    return task.sample(n, torch.Generator().manual_seed(seed))


def assert_samples_follow_joint(task, n=20_000):
    seed = torch.seed() % 2**31
    codes, joint = draw(task, n, seed), task.joint()
    size = tuple(joint.codes.values())
    cell = np.ravel_multi_index(tuple(codes[m].numpy() for m in joint.codes), size)
    support = np.ravel_multi_index(tuple(joint.support.T), size)
    assert set(cell) <= set(support), f"seed {seed}: an impossible outcome was drawn"
    order = np.argsort(support)
    count = np.bincount(np.searchsorted(support[order], cell), minlength=len(support))
    expected = n * joint.probability[order]
    chi2, k = ((count - expected) ** 2 / expected).sum(), len(support) - 1
    # Laurent and Massart (2000), lemma 1: exceeded with probability e^-16
    assert chi2 < k + 2 * math.sqrt(16 * k) + 2 * 16, f"seed {seed}: chi2 {chi2} on {k} degrees of freedom"


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    task, n = default(name), 41
    codes = draw(task, n, 3)
    assert set(codes) == set(task.modalities) == set(task.codes) == set(task.shapes)
    assert task.target in task.modalities
    for m in task.modalities:
        assert codes[m].shape == (n,)
        assert codes[m].dtype == torch.int64
        x = task.observe(m, codes[m])
        assert x.shape == (n, *task.shapes[m])
        assert x.dtype == torch.float32
        assert len(task.observe(m, torch.arange(task.codes[m])).unique(dim=0)) == task.codes[m]
    assert task.joint().codes == task.codes


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_joint_distribution(name):
    assert_samples_follow_joint(default(name))


@pytest.mark.parametrize("task", [XOR(bits=1), XOR(bits=4), Synergy(bits=2, p=0.9), Synergy(p=0.0), Synergy(p=1.0)])
def test_samples_follow_the_joint_distribution_of_other_recipes(task):
    assert_samples_follow_joint(task)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_is_the_sample(name):
    task = default(name)
    one, same, other = draw(task, 509, 7), draw(task, 509, 7), draw(task, 509, 8)
    assert all(torch.equal(one[m], same[m]) for m in one)
    assert not all(torch.equal(one[m], other[m]) for m in one)


@pytest.mark.parametrize("name", NAMES)
def test_truth_is_json_and_consistent(name):
    truth = default(name).truth(batch=64)
    record = json.loads(json.dumps(truth.as_dict(), allow_nan=False))
    assert record["task"].replace("-", "_") == name
    assert record["batch"] == 64
    assert record["total_correlation"] == truth.total_correlation
    assert truth.chance <= truth.best_single_accuracy + 1e-12
    assert truth.best_single_accuracy <= truth.bayes_accuracy + 1e-12
    for floor in record["floors"].values():
        assert 0 <= floor["value"] <= floor["no_information"] + 1e-9


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
