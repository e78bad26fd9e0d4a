"""Evaluators on a model: those of a run's recipe, or others on other data, of a run or of a model of open_clip.

The trap: a run's `image` is a side of its objective, and a field of other data only where it has the same name. Names
are therefore settled first, by the kinds of both, before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from workbench.distributed.processes import device
from workbench.errors import RecipeError, RunError
from workbench.inspection.open_data import find, is_recipe
from workbench.loading.draws import build_data
from workbench.recipe.component import Spec, validate
from workbench.recipe.schema import EvalSection, load_recipe
from workbench.recipe.yaml_file import apply_override
from workbench.runs.benchmark_folder import Benchmark, is_benchmark
from workbench.runs.exported import is_export, read_manifest
from workbench.runs.folder import read_recipe
from workbench.runs.inference import device_of, load_export, load_parts
from workbench.runs.published import build_published, is_published
from workbench.scoring.embedding import Embedder, evaluate
from workbench.types import Checks, ClassTable, Context, Data, Evaluator, Objective, Side, Skipped

Specs = Mapping[str, Spec[Evaluator]]
BATCH = 256
"""the contrastive batch that a model of open_clip is asked about, where a loss of that size is evaluated"""


@dataclass(frozen=True)
class Evaluated:
    """What evaluators say of a model."""

    step: int | None
    """the step of a run's checkpoint"""
    metrics: dict[str, float]
    tables: dict[str, ClassTable]
    """what they say class by class"""
    skipped: Sequence[Skipped] = ()
    """bad samples of the data, which were left out"""


class Given(NamedTuple):
    """Data that are not those of a run, with what is to be asked on them."""

    data: Data
    evaluators: Specs
    image: str
    """the field of pictures"""
    text: str
    benchmark: Benchmark | None = None


def evaluate_source(
    source: str,
    data: str | None = None,
    which: str = "last",
    suites: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Evaluated:
    """Run evaluators, or those named by `suites`, on a model.

    Args:
        source: a run folder, open_clip:MODEL/TAG, open_clip:MODEL/FILE, or open_clip:FOLDER, also without open_clip:;
            or a folder of `wb export`.
        data: other data than the run's: a recipe, a folder in CLIP_benchmark's layout, or any path to data.
        which: checkpoint of a run: last, best or a step.
        suites: names of evaluators; default all.
        overrides: key=value of the recipe; with `data`, of the keys `data` and `eval` there.

    Raises RecipeError, RunError and ValueError for what cannot be evaluated.
    """
    if is_export(Path(source)):
        return _evaluate_export(Path(source), data, which, suites, overrides)
    if is_published(source):
        return _evaluate_published(source, data, which, suites, overrides)
    if data is None:
        return _evaluate_run(Path(source), which, suites, overrides)
    recipe = read_recipe(Path(source))
    parts, step = load_parts(Path(source), which, recipe)
    named = {m: modality.kind for m, modality in parts.data.modalities.items() if m in parts.model.encoders}
    given = _open_given(data, overrides, lambda _: (_name("image", named), _name("text", named)))
    parts.data = given.data
    parts.model.to(device())
    return _answer(given, parts.context(device()), suites, step)


def _evaluate_run(run: Path, which: str, suites: Sequence[str], overrides: Sequence[str]) -> Evaluated:
    recipe = read_recipe(run, tuple(overrides))
    if not recipe.eval.evaluators:
        raise ValueError(
            f"{run}: its recipe names no evaluator, so there is nothing to print: "
            "add one, as --set 'eval.retrieval={name: retrieval, split: validation}'"
        )
    chosen = choose(recipe.eval.evaluators, suites)
    parts, step = load_parts(run, which, recipe)
    parts.model.to(device())
    metrics = dict(parts.evaluate(device(), dict(chosen)))
    return Evaluated(step, metrics, parts.tables, _skipped(parts.data))


def _evaluate_published(
    source: str, data: str | None, which: str, suites: Sequence[str], overrides: Sequence[str]
) -> Evaluated:
    data = _data_of_others(source, data, which)
    given = _open_given(data, overrides, lambda known: (_name("image", known), _name("text", known)))
    model, objective = build_published(source, given.image, given.text)
    transforms = {name: encoder.transform(train=False) for name, encoder in model.encoders.items()}
    embed = Embedder(model.to(device()), transforms, device())
    return _answer(given, Context(embed, objective, given.data, BATCH, 0), suites, None)


def _evaluate_export(
    folder: Path, data: str | None, which: str, suites: Sequence[str], overrides: Sequence[str]
) -> Evaluated:
    """Evaluate what `wb export` wrote, read by its own format."""
    data = _data_of_others(str(folder), data, which)
    loaded, manifest = load_export(folder), read_manifest(folder)
    named = {m: modality.kind for m, modality in loaded.modalities.items()}
    given = _open_given(data, overrides, lambda _: (_name("image", named), _name("text", named)))
    embed = Embedder(loaded.model, loaded.preprocessors, device_of(manifest))
    context = Context(embed, Exported(loaded.sides, manifest.scale), given.data, BATCH, 0)
    return _answer(given, context, suites, manifest.step)


class Exported(Objective):
    """What is known of an export's objective: which sides it trained, and its factor on cosines. It has no loss."""

    def __init__(self, sides: Sequence[Side], scale: float | None) -> None:
        super().__init__()
        self.all_sides = sides
        self.factor = None if scale is None else torch.tensor([scale])

    def scale(self) -> Tensor | None:
        return self.factor


def _data_of_others(source: str, data: str | None, which: str) -> str:
    """Return the data. Raises RecipeError where none are named, and for a checkpoint of what has none."""
    if data is None:
        raise RecipeError(f"{source} comes without data: name some, as --data imagenet1k or --data recipe.yaml")
    if which != "last":
        raise RecipeError(f"--checkpoint {which}: {source} has no checkpoints, leave it out")
    return data


def _answer(given: Given, context: Context, suites: Sequence[str], step: int | None) -> Evaluated:
    chosen = {key: spec.build() for key, spec in choose(given.evaluators, suites).items()}
    for key, evaluator in chosen.items():
        if isinstance(evaluator, Checks):
            try:
                evaluator.check(context.objective, context.data)
            except ValueError as error:
                raise RecipeError(f"eval.{key}: {error}") from None
    tables: dict[str, ClassTable] = {}
    metrics = dict(evaluate(chosen, replace(context, report=tables.__setitem__)))
    if given.benchmark:
        metrics |= given.benchmark.rename(given.image, given.text, metrics)
    return Evaluated(step, metrics, tables, _skipped(given.data))


def choose(evaluators: Specs, suites: Sequence[str]) -> Specs:
    """Take the evaluators that are named, or all. Raises RunError for a name that is none."""
    if unknown := sorted(set(suites) - set(evaluators)):
        raise RunError(f"no suite {unknown} in the recipe's eval block (there are: {', '.join(evaluators)})")
    return {key: spec for key, spec in evaluators.items() if not suites or key in suites}


Names = Callable[[Mapping[str, str]], tuple[str, str]]
"""{field: its kind} -> the names of the model's pictures and texts"""
PAIR = {"image": "image", "text": "text"}


def _open_given(path: str, overrides: Sequence[str], names: Names) -> Given:
    """Open data that a person names, with their evaluators. Raises RecipeError."""
    if not is_recipe(path) and is_benchmark(path):
        benchmark, (image, text) = Benchmark.read(path), names(PAIR)
        evaluators = _evaluators(_apply({"eval": benchmark.evaluators(image, text)}, overrides))
        return Given(benchmark.data(image, text), evaluators, image, text, benchmark)
    if is_recipe(path):
        recipe = load_recipe(path, tuple(overrides))
        data, evaluators = build_data(recipe), recipe.eval.evaluators
        if not evaluators:
            raise RecipeError(f"{path} names no evaluator: add one, as --set 'eval.retrieval={{name: retrieval}}'")
    else:
        tree = _apply({"data": find(path).block, "eval": {}}, overrides)
        data, evaluators = _data(tree["data"]), _evaluators(tree)
    known = {name: modality.kind for name, modality in data.modalities.items()}
    image, text = names(known)
    if not evaluators:
        if missing := [name for name in (image, text) if name not in known]:
            have = ", ".join(f"{name} ({kind})" for name, kind in known.items())
            raise RecipeError(
                f"{path} has no field '{missing[0]}' for retrieval: it has {have}. Name fields, as --set "
                "'data.fields={image: {}, text: {}}', or an evaluator, as --set 'eval.w={name: winoground}'"
            )
        ask = {"name": "retrieval", "split": "train", "query": image, "candidates": text}
        evaluators = _evaluators({"eval": {"retrieval": ask}})
    return Given(data, evaluators, image, text)


def _apply(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if override.partition(".")[0] not in tree:
            raise RecipeError(f"--set {override}: beside --data, what can be set is {' and '.join(tree)}")
        tree = apply_override(tree, {}, override)
    return tree


def _data(block: object) -> Data:
    try:
        return validate("data", block).build()  # type: ignore[return-value]  # its kind says what it builds
    except ValidationError as error:
        lines = (f"--set data.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None


def _evaluators(tree: Mapping[str, Any]) -> Specs:
    try:
        return EvalSection.model_validate(tree["eval"]).evaluators
    except ValidationError as error:
        lines = (f"--set eval.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError("\n".join(lines)) from None


def _name(kind: str, known: Mapping[str, str]) -> str:
    """Name what the model reads of a kind: the field that is called so, else the only one; where several are called
    otherwise, as Winoground's, what the kind is called."""
    there = [name for name, other in known.items() if other == kind]
    return there[0] if len(there) == 1 else kind


def _skipped(data: Data) -> Sequence[Skipped]:
    return getattr(data, "skipped", ())
