"""A claim's file: the sentence, the contrast that decides it, the controls, and what it may cost.

    claim: fusion closes the modality gap
    source: arXiv 2603.02767 v1, abstract
    sweep: sweeps/ito_gap.yaml                            # beside this file, or a shipped one
    endpoint: {metric: eval/gap/l2m, at: last}            # or a list: each is asked, after Holm
    contrast: {a: ito, b: alignment, expect: less, margin: 0.05}
    controls: {positive: [{a: modgap, b: alignment, expect: less}], negative: []}
    alpha: 0.05
    max_seeds: 8

The trap: whoever chooses the metric, the arm or the number of seeds after the runs can support anything. So all of it
is in this file, whose digest is written down before the first run, and nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from workbench.build import build_objective
from workbench.errors import RecipeError, did_you_mean
from workbench.recipe.schema import Recipe, parse_section
from workbench.recipe.section import Section
from workbench.recipe.yaml_file import Tree, find_named, find_sweep_or_claim, read_mapping
from workbench.recipe.yaml_text import Lines
from workbench.scoring.names import refuse_unknown_metric
from workbench.studies.comparability import find_evaluation
from workbench.studies.court import Expected, Question
from workbench.studies.e_process import find_least_deciding
from workbench.studies.run_facts import COSTS, Reading
from workbench.studies.sweep import read_sweep
from workbench.studies.sweep_runs import Arm, Sweep

NOTHING = "0"
"""in the place of an arm: the values of the other one are compared with 0"""


class EndpointSection(Section):
    """The number by which the arms are compared."""

    metric: str = Field(description=f"as in metrics.jsonl: eval/gap/l2m; or {' or '.join(COSTS)}")
    at: Reading = Field(
        default="last",
        description="the evaluation: last, or best by the recipe's eval.best; or decline, the share of its "
        "value there that the metric has lost until the last",
    )
    split: str | None = Field(
        default=None, description="the split that it has to be measured on, if that is to be checked"
    )

    @property
    def name(self) -> str:
        """The metric without `eval/`."""
        return self.metric.removeprefix("eval/")


def _as_name(value: object) -> object:
    return NOTHING if value == 0 and not isinstance(value, bool) else value


GAINED = {"across": None, "first_seed": 0}
"""{key: its default} that claims have got since the first were registered; without one a claim says the same as then"""


class ContrastSection(Section):
    """A difference of two arms, a minus b, and what is expected of it."""

    a: str = Field(description="an arm of the sweep")
    b: Annotated[str, BeforeValidator(_as_name)] = Field(
        description="the arm that it is compared with; 0: with 0 itself"
    )
    expect: Expected = Field(description="less, greater or equal")
    margin: float | None = Field(default=None, gt=0, description="differences within ± this do not matter")

    @model_validator(mode="after")
    def _is_a_question(self) -> ContrastSection:
        self.question  # noqa: B018  raises ValueError
        return self

    @property
    def question(self) -> Question:
        return Question(self.a, self.b, self.expect, self.margin)


class ControlsSection(Section):
    """Differences that are known beforehand."""

    positive: tuple[ContrastSection, ...] = Field(default=(), description="must be found, or the claim has no verdict")
    negative: tuple[ContrastSection, ...] = Field(default=(), description="must not be found")


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


class ClaimSection(Section):
    """A claim's file."""

    claim: Annotated[str, Field(min_length=1)] = Field(description="the sentence")
    source: str = Field(description="where it stands")
    sweep: str = Field(description="the sweep's file, or a shipped one")
    endpoint: Annotated[tuple[EndpointSection, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        description="what decides it: a metric, or a list of them"
    )
    contrast: ContrastSection = Field(description="what is compared")
    across: Literal["data"] | None = Field(
        default=None, description="data: the arms may differ in their data, as that is what is asked"
    )
    controls: ControlsSection = ControlsSection()
    alpha: Annotated[float, Field(gt=0, le=0.5)] = Field(default=0.05, description="how often a verdict may be wrong")
    max_seeds: Annotated[int, Field(ge=2, le=1000)] = Field(
        default=8, description="no more seeds than these are trained"
    )
    first_seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="the first seed that counts, where runs of those before it have suggested the claim"
    )
    g: Annotated[float, Field(gt=0, le=100)] = Field(
        default=1.0, description="the variance of the standardised effect that is expected: 1 is about one deviation"
    )

    @model_validator(mode="after")
    def _can_be_decided(self) -> ClaimSection:
        least = find_least_deciding(self.alpha / len(self.endpoint), self.g)
        if self.max_seeds < least:
            raise ValueError(
                f"max_seeds ({self.max_seeds}) can never decide at alpha {self.alpha:g} with g = {self.g:g}"
                f"{f' and {len(self.endpoint)} endpoints' if len(self.endpoint) > 1 else ''}, whatever the runs find: "
                f"write {least} or more"
            )
        return self


@dataclass(frozen=True)
class Claim:
    """A claim, with the sweep whose runs decide it."""

    file: Path
    section: ClaimSection
    sweep: Sweep

    @property
    def questions(self) -> list[ContrastSection]:
        controls = self.section.controls
        return [self.section.contrast, *controls.positive, *controls.negative]

    @property
    def arms(self) -> list[Arm]:
        """The arms that are asked for, in the sweep's order; others of the sweep need not be trained."""
        named = {arm for question in self.questions for arm in (question.a, question.b)}
        return [arm for arm in self.sweep.arms if arm.name in named]

    @property
    def least(self) -> int:
        """The smallest number of seeds that can decide anything."""
        return find_least_deciding(self.section.alpha / len(self.section.endpoint), self.section.g)

    @property
    def seeds(self) -> list[int]:
        """All seeds that may be trained, in the order in which they are: the sweep's own first."""
        first, most = self.section.first_seed, self.section.max_seeds
        own = [seed for seed in self.sweep.seeds if seed >= first]
        free = (seed for seed in count(first) if seed not in own)
        return list(islice(chain(own, free), most))

    def as_dict(self) -> Tree:
        """Make the file's content with its defaults, which is what is registered."""
        written = self.section.model_dump(mode="json", by_alias=True)
        for key, default in GAINED.items():
            if written[key] == default:
                del written[key]
        return written


def read_claim(path: str | Path, overrides: Sequence[str] = ()) -> Claim:
    """Read a claim's file, or a shipped one by name (`claims/NAME`); `key=value` overrides are for every arm.

    Raises RecipeError with every mistake, where it stands, and what to write there.
    """
    file = find_sweep_or_claim(path, "claims")
    tree, lines, _ = read_mapping(file, "claim")
    section = parse_section(ClaimSection, tree, lines)
    found = find_named(section.sweep, file)
    claim = Claim(file, section, read_sweep(found[0] if found else section.sweep, overrides))
    wrong = [*_find_missing_arms(claim, lines), *_find_unmeasured(claim, lines)]
    if wrong:
        raise RecipeError("\n".join(dict.fromkeys(wrong)))
    return claim


def _find_missing_arms(claim: Claim, lines: Lines) -> list[str]:
    known = [arm.name for arm in claim.sweep.arms]
    places = [("contrast",)]
    for kind in ("positive", "negative"):
        places += [("controls", kind, n) for n in range(len(getattr(claim.section.controls, kind)))]
    return [
        f"{_where(lines, (*place, key), claim.file)}: {'.'.join(map(str, place))}.{key}: no arm '{name}' in "
        f"{claim.section.sweep}{did_you_mean(name, known)}"
        for place, question in zip(places, claim.questions, strict=True)
        for key, name in (("a", question.a), ("b", question.b))
        if name not in (*known, NOTHING)
    ]


def _where(lines: Lines, place: tuple[str | int, ...], file: Path) -> str:
    keys = (place[:n] for n in range(len(place), 0, -1))
    return next((lines[key] for key in keys if key in lines), str(file))


def _find_unmeasured(claim: Claim, lines: Lines) -> list[str]:
    """Say which endpoints an arm's recipe does not measure, on the split that is asked for, alike in all arms."""
    wrong = []
    for number, endpoint in enumerate(claim.section.endpoint):
        place = ("endpoint", number) if len(claim.section.endpoint) > 1 else ("endpoint",)
        where = f"{_where(lines, (*place, 'metric'), claim.file)}: endpoint"
        for arm in claim.arms:
            try:
                _check_endpoint(endpoint, arm.recipe)
            except RecipeError as error:
                wrong.append(f"{where}: arm {arm.name}: {str(error).replace('eval.best', 'metric', 1)}")
        settings = {arm.name: find_evaluation(arm.recipe, endpoint.name) for arm in claim.arms}
        if len({repr(found) for found in settings.values()}) > 1:
            said = "; ".join(f"{arm}: {found}" for arm, found in settings.items())
            wrong.append(f"{where}: the arms are not evaluated alike, so {endpoint.name} is no one number: {said}")
    return wrong


def _check_endpoint(endpoint: EndpointSection, recipe: Recipe) -> None:
    """Raise RecipeError where a recipe has no such metric, has it on another split, or chooses no best step."""
    if endpoint.name in COSTS:
        if endpoint.at != "last" or endpoint.split is not None:
            raise RecipeError(f"{endpoint.name} is of the whole run: leave out at and split")
        return
    evaluators = {key: spec.build() for key, spec in recipe.eval.evaluators.items()}
    refuse_unknown_metric(endpoint.name, evaluators, build_objective(recipe))
    split = getattr(evaluators[endpoint.name.partition("/")[0]], "split", None)
    if endpoint.split is not None and split != endpoint.split:
        raise RecipeError(f"split: {endpoint.name} is measured on '{split}', not on '{endpoint.split}'")
    if endpoint.at != "last" and recipe.eval.best is None:
        raise RecipeError(f"at: {endpoint.at} needs a step that was chosen: the recipe names no eval.best; write last")


__all__ = ["Claim", "ClaimSection", "read_claim"]
