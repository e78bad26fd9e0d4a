"""Zero-shot classification: the text that describes a class is its classifier.

The trap: on skewed classes plain accuracy flatters a model that always says the commonest one. Read it beside
`majority`, or read `balanced_accuracy` beside `chance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torch.nn import functional as F

from workbench.scoring.classes import (
    FACTS,
    average_precisions,
    chance_of_average_precision,
    classify,
    table_of_answers,
)
from workbench.scoring.examples import Examples, one_class_of_each
from workbench.scoring.sides import compared, refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.types import Classes, ClassTable, Context, Data, Objective, Side, View

__all__ = ["ZeroShot"]


AT_ONCE = 4096
"""prompts that are embedded at once, about"""
PLACES = ("{}", "{c}")
"""where the name of a class goes in a prompt: Python's way, and that of CLIP_benchmark's files"""


def write(prompt: str, name: str) -> str:
    """Put the name of a class into a prompt."""
    (place,) = (place for place in PLACES if place in prompt)
    return prompt.replace(place, name)


def _read_prompts(prompts: object) -> object:
    """Return what may be read as prompts, those of a text file in the place of its name.

    Raises ValueError for what is no list of sentences, or an empty one, and for a file that is not there.
    """
    if isinstance(prompts, str) and not any(place in prompts for place in PLACES):
        try:
            lines = Path(prompts).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"'{prompts}' is no text file with a prompt in each line: {error}") from None
        prompts = [line.strip() for line in lines if line.strip()]
    if not isinstance(prompts, list | tuple) or not prompts:
        raise ValueError(
            "write a list of sentences with a place for the name of a class, as ['a photo of a {}.'], or a file of them"
        )
    return [_read_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


def _read_prompt(prompt: str) -> str:
    rest, places = prompt, 0
    for place in PLACES:
        places += rest.count(place)
        rest = rest.replace(place, "")
    if places != 1 or "{" in rest or "}" in rest:
        raise ValueError(f"{prompt!r} needs one place for the name of a class, {{}} or {{c}}, and no other braces")
    return prompt


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Accuracy of the nearest class text (Radford et al. 2021, arXiv 2103.00020, section 3.1), in fractions.

    A class is the mean of the normalised embeddings of its prompts, normalised again. Yields `accuracy`, `top5` (with
    more than five classes), `balanced_accuracy` (mean recall of the classes present), `chance` (1 / classes),
    `majority` (share of the commonest class), and `unlabelled`, the number of items labelled -1, which are left out,
    where there are any. Of equal scores the lower class ranks above. `wb eval --per-class` writes precision, recall
    and the confusions of every class.

    Of a label with several classes (`many: true`) all items are ranked by each class: `mean_average_precision` is the
    mean over all classes (0 for one without an item, as CLIP_benchmark has it), `chance` what a random order gives, and
    `absent`, where there are any, the number of classes without an item.

    Args:
        label: which classes, as the data set names them
        split: evaluation split of the data set
        image: side that is classified
        text: side that embeds the class prompts
        prompts: sentences around the name of a class, which takes the place of `{}` or `{c}`; or a text file of them,
            one a line

    Raises ValueError when the split has no such classes or labels, or a score is NaN.
    """

    label: str = "group"
    split: str = "validation"
    image: str = "image"
    text: str = "text"
    prompts: Annotated[tuple[str, ...], BeforeValidator(_read_prompts)] = ("{}",)

    def check(self, objective: Objective, data: Data) -> None:
        sides = compared(objective, self.image, self.text)
        refuse_untrained(objective, *sides)
        self._modality_of(sides[1])
        refuse_missing_splits(data, self.split)
        refuse_missing_label(data, self.label)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; which of them depends on the label."""
        return [*FACTS, "mean_average_precision", "absent"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        split = context.data.split(self.split)
        image, text = compared(context.objective, self.image, self.text)
        examples = Examples.of(split, image)
        for what, known in (("classes", split.classes), (f"labels of {self.image}", examples.targets)):
            if self.label not in known:
                have = ", ".join(known) or "none"
                raise ValueError(f"split '{self.split}' has no {what} named '{self.label}': it has {have}")
        classes = split.classes[self.label]
        if examples.targets[self.label].ndim == 2:
            yield from self._ranked(context, text, examples, classes)
            return
        labels = one_class_of_each(examples.targets[self.label], self.label)
        known = (labels >= 0).nonzero().squeeze(1)
        if not len(known):
            raise ValueError(f"no item of split '{self.split}' has a label of '{self.label}': all are -1")
        candidates = {text: self._class_embeddings(context, text, classes)}
        images = {image: examples.take(known).embed(context)}
        answers = classify(context.objective.score, images, candidates, labels[known])
        yield from answers.facts(len(classes.names))
        if left_out := len(labels) - len(known):
            yield "unlabelled", left_out
        context.report("", table_of_answers(classes.names, answers.labels, answers.said))

    def _ranked(
        self, context: Context, text: Side, examples: Examples, classes: Classes
    ) -> Iterator[tuple[str, float]]:
        """Rank all items by each class."""
        labels = examples.targets[self.label]
        candidates = {text: self._class_embeddings(context, text, classes)}
        images = {examples.side: examples.embed(context)}
        precision, support = average_precisions(context.objective.score, images, candidates, labels), labels.sum(0)
        yield "mean_average_precision", precision.mean().item()
        yield "chance", chance_of_average_precision(support, len(labels)).mean().item()
        if absent := (support == 0).sum().item():
            yield "absent", absent
        context.report("", ClassTable(classes.names, {"average_precision": precision, "support": support}))

    def _class_embeddings(self, context: Context, text: Side, classes: Classes) -> View:
        """Embed the prompts, so many classes at a time that a thousand classes of eighty prompts fit anywhere.

        Classes of the same prompts, as ImageNet's two cranes, are embedded once, so that they tie to the last bit.
        """
        modality = self._modality_of(text)
        written: dict[tuple[str, ...], int] = {}
        place: list[int] = []
        for name, names in zip(classes.names, classes.prompts, strict=True):
            prompts = tuple(write(prompt, each) for prompt in self.prompts for each in names)
            if not prompts:
                raise ValueError(f"class '{name}' of '{self.label}' has no prompt: give it one, as its name")
            place.append(written.setdefault(prompts, len(written)))
        means: list[Tensor] = []
        for group in _groups(list(written)):
            z = context.embed({modality: [each for prompts in group for each in prompts]}, [text])[text].z[:, 0]
            means += [rows.mean(0) for rows in z.split([len(prompts) for prompts in group])]
        z = F.normalize(torch.stack(means), dim=1)[place, None]
        return View(z, torch.ones(len(z), 1, dtype=torch.bool))

    def _modality_of(self, text: Side) -> str:
        modality, *fused = text.members
        if fused:
            raise ValueError(f"text side '{self.text}' fuses modalities, class prompts are of one: name a plain side")
        return modality


def _groups(prompts: Sequence[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """Divide classes into groups of about AT_ONCE prompts."""
    group: list[tuple[str, ...]] = []
    for each in prompts:
        group.append(each)
        if sum(map(len, group)) >= AT_ONCE:
            yield group
            group = []
    if group:
        yield group
