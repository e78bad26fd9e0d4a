"""Evaluators look at the sides that an objective trains; what they cannot look at is said when a recipe is checked."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from click.testing import CliRunner

from workbench.build import build_parts
from workbench.cli import cli
from workbench.errors import RecipeError
from workbench.evals.gap import Gap
from workbench.evals.probe import Probe
from workbench.evals.retrieval import Retrieval
from workbench.evals.synthetic import Synthetic
from workbench.evals.zeroshot import ZeroShot
from workbench.objectives.clip import CLIP
from workbench.objectives.comm import CoMM
from workbench.objectives.terms import Terms
from workbench.recipe.schema import load_recipe, parse_recipe
from workbench.runs.train import train
from workbench.scoring.sides import compared, is_trained
from workbench.terms import Term
from workbench.types import Classes, Side, View


def terms(*pairs: tuple[str, str], modalities: tuple[str, ...] = ("a", "b", "c")) -> Terms:
    return Terms(modalities, terms=[Term(between=pair) for pair in pairs])


@pytest.mark.parametrize(
    ("pairs", "others", "target", "query", "candidates"),
    [
        ([("a@x", "b@x"), ("a@x", "c@x")], "a", "b", ["a@x"], "b@x"),
        ([("a@x", "b@x"), ("a@x", "c@x")], "b", "a", ["b@x"], "a@x"),
        ([("a@x", "b"), ("b", "c@y")], "ac", "b", ["a@x", "c@y"], "b"),
        ([("a", "b"), ("a@x", "c@x")], "c", "a", ["c@x"], "a@x"),  # the head that c meets, not the one that b meets
        ([("a", "b"), ("a@x", "c@x")], "b", "a", ["b"], "a"),
        ([("a", "b"), ("a@x", "c@x")], "bc", "a", ["b"], "a"),  # one of the two ways, never a mixture
        ([("a", "b"), ("a@x", "b@x"), ("a@x", "c")], "bc", "a", ["b@x", "c"], "a@x"),  # the one that more of them meet
        ([("a", "c@x"), ("b", "c@x"), ("a+b", "c")], "ab", "c", ["a+b"], "c"),  # the one that a fusion of all meets
        ([("+a", "+b")], "a", "b", ["+a"], "+b"),
    ],
)
def test_query_and_candidates_come_from_one_term(
    pairs: list[tuple[str, str]], others: str, target: str, query: list[str], candidates: str
) -> None:
    """Candidates were always the plain side: with terms between second heads nothing had trained it."""
    asked = terms(*pairs).ask(tuple(others), target)
    assert asked is not None
    assert (list(asked.query), asked.candidates) == (query, candidates)


@pytest.mark.parametrize(
    "name", ["clip", "comm", "confu", "confu_chain", "gram", "hub", "siglip", "symile", "triangle"]
)
def test_what_an_objective_never_met_is_no_question_that_it_answers(name: str) -> None:
    """A tower that was left away, where the evaluator still asked by its modality, ended in a KeyError."""
    objective = load_recipe(f"synth/{name}.yaml").objective.build(("a", "b", "c"))
    for others, target in ((("d",), "b"), (("a", "d"), "c"), (("a", "b"), "d"), (("a",), "d")):
        asked = objective.ask(others, target)
        sides = [] if asked is None else [*asked.query, asked.candidates]
        assert "d" not in [member for side in sides for member in side.members]
        assert asked is None or target != "d"


def test_a_subclass_that_says_what_asks_is_believed() -> None:
    class Asks(Terms):
        def query_sides(self, others: Any, target: str) -> list[Side]:
            return [Side.parse("a+b")]

    class Answers(Terms):
        def candidate_side(self, target: str) -> Side:
            return Side.parse(f"+{target}")

    pairs = [Term(between=("a", "c")), Term(between=("b", "c"))]
    assert Asks(("a", "b", "c"), terms=pairs).ask(("a", "b"), "c") == (("a+b",), "c")
    assert Answers(("a", "b", "c"), terms=pairs).ask(("a", "b"), "c") == (("a", "b"), "+c")


@pytest.mark.slow
def test_terms_between_second_heads_are_evaluated_on_them() -> None:
    """On plain sides these heads were at chance, whatever they had learned."""
    found = []
    for mark in ("", "@x"):
        between = [[f"a{mark}", f"b{mark}"], [f"a{mark}", f"c{mark}"]]
        tree: dict[str, Any] = {
            "name": "x",
            "data": {"name": "synthetic", "task": {"name": "redundancy"}, "samples": 1024, "held_out": 300},
            "objective": {"name": "terms", "terms": [{"between": pair} for pair in between]},
            "model": {"dim": 16, "encoders": dict.fromkeys("abc", "mlp")},
            "train": {"for": "40 steps", "batch": 64, "lr": 3e-3},
            "eval": {"start": False, "synthetic": {"batches": 2, "samples": 300}, "gap": {"x": "a", "y": "b"}},
        }
        last = {name: x for record in train(parse_recipe(tree), None).records for name, x in record.items()}
        found.append((last["eval/synthetic/accuracy"], last["eval/gap/l2i"]))
    (plain, distance), (heads, distance_of_heads) = found
    assert min(plain, heads) > 0.5
    assert distance_of_heads == pytest.approx(distance, abs=0.04), "untrained sides are strangers: at 1.41"


def test_plain_names_stand_for_the_sides_that_are_trained() -> None:
    assert compared(CLIP(("a", "b")), "a", "b") == ("a", "b")
    assert compared(CoMM(("a", "b", "c")), "a", "b") == ("+a", "+b")
    assert compared(terms(("a@x", "b@y")), "b", "a") == ("b@y", "a@x")
    assert compared(terms(("a@x", "b@y")), "a@x", "b") == ("a@x", "b"), "who writes more than a modality means it"
    assert is_trained(CoMM(("a", "b", "c")), Side.parse("a+b")), "it is asked by, though it is no side of a term"
    assert not is_trained(CLIP(("a", "b", "c")), Side.parse("a+b"))


def test_zero_shot_and_probe_look_through_the_heads(world: Any) -> None:
    seen: list[Side] = []

    def lookup(inputs: Any, sides: Any) -> dict[Side, View]:
        seen.extend(sides)
        n = len(next(iter(inputs.values())))
        z = F.normalize(torch.ones(n, 3) + torch.eye(n, 3), dim=1)
        return {side: View(z[:, None], torch.ones(n, 1).bool()) for side in sides}

    objective = Terms(("image", "text"), terms=[Term(between=("image@x", "text@x"))])
    classes = {"group": Classes(("a", "b"), (("a",), ("b",)))}
    items = {"image": (torch.eye(4), range(4)), "text": (torch.eye(4), range(4))}
    context = world(items, targets={"group": [0, 1, 0, 1]}, classes=classes, objective=objective, lookup=lookup)
    list(ZeroShot().run(context))
    assert set(seen) == {Side.parse("image@x"), Side.parse("text@x")}
    assert Probe()._inputs(objective)["concatenated_single"] == ("image@x", "text@x")
    both = terms(("image", "text"), ("image@ssl", "image@ssl"), modalities=("image", "text"))
    assert Probe(on=("single",))._inputs(both) == {"image": ("image",), "text": ("text",)}


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (Gap(x="a", y="d"), "trains side 'd'"),
        (Gap(x="a", y="a"), "no gap to itself"),
        (Gap(x="a", y="b", max_pairs=5), "max_pairs=5 with neighbours=10 needs 6 pairs"),
        (Gap(x="a@x", y="b"), "trains side 'a@x'"),
        (Probe(on=("a+b",)), r"trains side 'a\+b'"),
        (Probe(on=("fused",)), "no side for on="),
        (Retrieval(query="a+b", candidates="c"), r"trains side 'a\+b'"),
        (Retrieval(together=(4,)), "no way to ask"),
        (ZeroShot(image="a"), "trains side 'text'"),
        (Synthetic(), "needs a synthetic task"),
    ],
    ids=repr,
)
def test_settings_that_fit_no_side_are_refused_without_a_model(evaluator: Any, message: str) -> None:
    data: Any = object()
    with pytest.raises(ValueError, match=message):
        evaluator.check(CLIP(("a", "b", "c")), data)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"gap": {}}, "eval.gap: no term of the objective trains side 'image': name one of a, b, c"),
        ({"probe": {"split": "train"}}, "train and split are both 'train'"),
        ({"zeroshot": {"prompts": ["a photo"]}}, "'a photo' needs one place for the name of a class"),
        ({"retrieval": {"k": []}}, "at least 1 item"),
    ],
)
def test_what_would_end_a_run_after_its_first_epoch_is_found_by_check(
    tmp_path: Path, evaluation: dict[str, Any], message: str
) -> None:
    tree = {
        "name": "x",
        "data": {"name": "synthetic", "task": "xor"},
        "objective": "clip",
        "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp")},
        "train": {"for": "2 steps", "batch": 8},
        "eval": {"start": False, **evaluation},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "r.yaml")])
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_target_that_no_term_predicts_is_refused_before_training() -> None:
    """It was found at the first evaluation, behind the first epoch."""
    between = [{"between": ["a", "b"]}, {"between": ["b", "a"], "loss": "sigmoid"}]
    recipe = {
        "name": "r",
        "data": {"name": "synthetic", "task": "xor", "samples": 64},
        "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp")},
        "objective": {"name": "terms", "terms": between},
        "train": {"for": "1 steps", "batch": 8},
        "eval": {"synthetic": {}},
    }
    with pytest.raises(RecipeError, match=r"eval\.synthetic: no term .* contrasts 'c' with a, b: nothing predicts it"):
        build_parts(parse_recipe(recipe))
    given = {"synthetic": {"given": ["a"]}}
    with pytest.raises(RecipeError, match=r"contrasts 'c' with a: "):
        build_parts(parse_recipe(recipe | {"eval": given}))

    for wrong in (["c"], ["a", "a"], ["z"]):  # the target itself, one twice, none of the task
        with pytest.raises(RecipeError, match=r"given=.*: 'c' is predicted from some of a, b"):
            build_parts(parse_recipe(recipe | {"eval": {"synthetic": {"given": wrong}}}))


def test_a_side_is_not_searched_with_itself() -> None:
    objective = terms(("a", "b"), ("a", "c"), ("a@x", "b"), ("b+c", "a"))
    Retrieval(query="b+c", candidates="a").check(objective, None)  # type: ignore[arg-type]
    for query, candidates in (("a", "a"), ("a@x", "a"), ("b+c", "b"), ("c", "b+c")):
        with pytest.raises(ValueError, match=r"'[abc]' is searched with itself \(.*\): every item would find itself"):
            Retrieval(query=query, candidates=candidates).check(objective, None)  # type: ignore[arg-type]
