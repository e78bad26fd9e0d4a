"""Classes one by one, against scikit-learn and by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from workbench.figures import confusion
from workbench.runs.class_reports import as_json, write_reports
from workbench.scoring.classes import (
    answer,
    average_precisions,
    chance_of_average_precision,
    confusions,
    say_confusions,
    table_of_answers,
    table_of_sets,
)
from workbench.types import Side, View

NAMES = ("cat", "dog", "cow", "hen", "owl", "fox", "elk")


def columns(table) -> list[np.ndarray]:
    return [table.columns[name].numpy() for name in ("precision", "recall", "f1", "support")]


def drawn(n: int = 127) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Labels and answers of seven classes: one that no item has, one that is never said."""
    rng = np.random.default_rng()
    return rng, rng.choice([0, 1, 2, 3, 4, 6], n), rng.choice([0, 1, 2, 3, 5, 6], n)


def test_answers_are_counted_as_scikit_learn_counts_them() -> None:
    _, labels, said = drawn()
    table = table_of_answers(NAMES, torch.from_numpy(labels), torch.from_numpy(said))
    expected = precision_recall_fscore_support(labels, said, labels=range(7), zero_division=0)
    for ours, theirs in zip(columns(table), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    matrix = np.zeros((7, 7), int)
    assert table.pairs is not None
    matrix[table.pairs[:, 0], table.pairs[:, 1]] = table.pairs[:, 2]
    assert (matrix == confusion_matrix(labels, said, labels=range(7))).all()
    wrong = sorted((-matrix[i, j], i, j) for i in range(7) for j in range(7) if i != j and matrix[i, j])
    assert [(-n, NAMES[i], NAMES[j]) for n, i, j in wrong] == [(c.count, c.true, c.said) for c in confusions(table)]


def test_sets_of_classes_are_counted_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng()
    labels, said = rng.random((41, 5)) < 0.3, rng.random((41, 5)) < 0.4
    labels[:, 4] = said[:, 3] = False
    table = table_of_sets(NAMES[:5], torch.from_numpy(labels), torch.from_numpy(said))
    expected = precision_recall_fscore_support(labels, said, zero_division=0)
    for ours, theirs in zip(columns(table), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert confusions(table) == []


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_scores_become_facts_as_scikit_learn_has_them() -> None:
    rng, labels, _ = drawn()
    score = rng.normal(size=(len(labels), 7))
    answers = answer(torch.from_numpy(score), torch.from_numpy(labels))
    found = dict(answers.facts(7))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, score.argmax(1)))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, score, k=5, labels=range(7)))
    assert (answers.said.numpy() == score.argmax(1)).all()


def test_average_precision_is_scikit_learns_where_no_scores_are_equal() -> None:
    """In chunks of three classes; one has no item, which scikit-learn does not rate and CLIP_benchmark calls 0."""
    rng = np.random.default_rng()
    labels, score = rng.random((41, 7)) < 0.2, rng.normal(size=(41, 7))
    labels[:3, :], labels[:, 6] = True, False
    views = [
        {Side(("a",)): View(torch.from_numpy(x)[:, None], torch.ones(len(x), 1).bool())} for x in (score, np.eye(7))
    ]

    def cosine(query, candidates):
        return query["a"].z[:, 0] @ candidates["a"].z[:, 0].T

    got = average_precisions(cosine, *views, torch.from_numpy(labels), chunk=3)
    expected = [average_precision_score(labels[:, c], score[:, c]) for c in range(6)]
    np.testing.assert_allclose(got, [*expected, 0], atol=1e-12)


@pytest.mark.parametrize("p", [1, 3, 6])
def test_chance_of_average_precision_is_the_mean_over_all_orders(p: int) -> None:
    orders = list(combinations(range(1, 7), p))  # the places that the right ones have
    mean = np.mean([np.mean([(at + 1) / place for at, place in enumerate(places)]) for places in orders])
    assert chance_of_average_precision(torch.tensor([p, 0]), 6).tolist() == pytest.approx([mean, 0])


def test_confusions_are_said_in_words_and_written(tmp_path: Path) -> None:
    table = table_of_answers(NAMES[:3], torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0, 2]))
    assert say_confusions(table) == [
        "2 of 3 items of 'cat' were called 'dog'",
        "1 of 2 items of 'dog' were called 'cat'",
    ]
    right = torch.tensor([0, 1])
    assert say_confusions(table_of_answers(NAMES[:2], right, right)) == ["no item was called another class"]
    files = write_reports(
        tmp_path / "reports", {"zeroshot": table, "probe/image": table_of_sets(NAMES[:2], *2 * [torch.eye(2).bool()])}
    )
    assert [file.name for file in files] == [
        "zeroshot.csv",
        "zeroshot_confusions.csv",
        "zeroshot.png",
        "probe-image.csv",
    ]
    assert files[0].read_text().splitlines()[:2] == ["class,precision,recall,f1,support", f"cat,0.5,{1 / 3},0.4,3"]
    assert files[1].read_text().splitlines() == ["class,called,count,support", "cat,dog,2,3", "dog,cat,1,2"]
    assert np.asarray(Image.open(files[2]).convert("L")).std() > 10
    assert as_json(table)["classes"][2] == {"class": "cow", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}


def test_of_many_classes_those_with_most_wrong_answers_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "MOST", 2)
    table = table_of_answers(NAMES[:4], torch.tensor([0, 1, 1, 3, 3, 3, 2]), torch.tensor([0, 3, 3, 1, 3, 0, 2]))
    chosen, counts = confusion.choose(table)
    assert chosen == [1, 3]
    assert counts.tolist() == [[0, 2], [1, 1]]
