"""Zero-shot classification: the text that describes a class is its classifier.

The trap: on skewed classes plain accuracy flatters a model that always says the commonest one. Read it beside
`majority`, or read `balanced_accuracy` beside `chance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torch.nn import functional as F

from workbench.scoring.examples import Examples, one_class_of_each
from workbench.scoring.ranking import best_ranks
from workbench.scoring.sides import compared, refuse_untrained
from workbench.scoring.splits import refuse_missing_label, refuse_missing_splits
from workbench.types import Classes, Context, Data, Objective, Side, View

__all__ = ["ZeroShot"]


PLACES = ("{}", "{c}")
"""where a prompt goes in a template: Python's way, and that of CLIP_benchmark's files"""


def write(template: str, prompt: str) -> str:
    """Put a prompt into a template."""
    (place,) = (place for place in PLACES if place in template)
    return template.replace(place, prompt)


def _read_templates(templates: object) -> object:
    """Return what may be read as templates, those of a text file in the place of its name.

    Raises ValueError for what is no list of sentences, or an empty one, and for a file that is not there.
    """
    if isinstance(templates, str) and not any(place in templates for place in PLACES):
        try:
            lines = Path(templates).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"'{templates}' is no text file with a template in each line: {error}") from None
        templates = [line.strip() for line in lines if line.strip()]
    if not isinstance(templates, list | tuple) or not templates:
        raise ValueError(
            "write a list of sentences with a place for the prompt, as ['a photo of a {}.'], or a file of them"
        )
    return [_read_template(template) if isinstance(template, str) else template for template in templates]


def _read_template(template: str) -> str:
    rest, places = template, 0
    for place in PLACES:
        places += rest.count(place)
        rest = rest.replace(place, "")
    if places != 1 or "{" in rest or "}" in rest:
        raise ValueError(f"{template!r} needs one place for the prompt, {{}} or {{c}}, and no other braces")
    return template


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Accuracy of the nearest class text (Radford et al. 2021, arXiv 2103.00020, section 3.1), in fractions.

    A class is the mean of its normalised prompt embeddings, normalised again. Yields `accuracy`, `top5` (with more
    than five classes), `balanced_accuracy` (mean recall of the classes present), `chance` (1 / classes) and
    `majority` (share of the commonest class). Of equal scores the lower class ranks above; items labelled -1 are
    left out.

    Args:
        target: which classes, as the data set names them
        split: evaluation split of the data set
        image: side that is classified
        text: side that embeds the class prompts
        templates: sentences around each prompt, which takes the place of `{}` or `{c}`; or a text file with one a line

    Raises ValueError when the split has no such classes or labels, or a score is NaN.
    """

    target: str = "group"
    split: str = "validation"
    image: str = "image"
    text: str = "text"
    templates: Annotated[tuple[str, ...], BeforeValidator(_read_templates)] = ("{}",)

    def check(self, objective: Objective, data: Data) -> None:
        sides = compared(objective, self.image, self.text)
        refuse_untrained(objective, *sides)
        self._modality_of(sides[1])
        refuse_missing_splits(data, self.split)
        refuse_missing_label(data, self.target)

    def names(self, objective: Objective) -> list[str]:
        """List the names that `run` may yield; `top5` depends on the number of classes."""
        return ["accuracy", "top5", "balanced_accuracy", "chance", "majority"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        split = context.data.split(self.split)
        image, text = compared(context.objective, self.image, self.text)
        examples = Examples.of(split, image)
        for what, known in (("classes", split.classes), (f"labels of {self.image}", examples.targets)):
            if self.target not in known:
                have = ", ".join(known) or "none"
                raise ValueError(f"split '{self.split}' has no {what} named '{self.target}': it has {have}")
        one_class_of_each(examples.targets[self.target], self.target)
        examples = examples.take((examples.targets[self.target] >= 0).nonzero().squeeze(1))
        labels = examples.targets[self.target]
        if not len(labels):
            raise ValueError(f"no item of split '{self.split}' has a label of '{self.target}': all are -1")

        candidates = {text: self._class_embeddings(context, text, split.classes[self.target])}
        images = {image: examples.embed(context)}
        num_classes = len(split.classes[self.target].names)
        ranks = best_ranks(context.objective.score, images, candidates, labels, torch.arange(num_classes))

        counts = labels.bincount(minlength=num_classes)
        recalls = labels.bincount(ranks == 1, num_classes) / counts  # nan for classes that no item has
        yield "accuracy", (ranks == 1).double().mean().item()
        if num_classes > 5:
            yield "top5", (ranks <= 5).double().mean().item()
        yield "balanced_accuracy", recalls.nanmean().item()
        yield "chance", 1 / num_classes
        yield "majority", counts.max().item() / len(labels)

    def _class_embeddings(self, context: Context, text: Side, classes: Classes) -> View:
        modality = self._modality_of(text)
        prompts = [[write(t, p) for t in self.templates for p in prompts] for prompts in classes.prompts]
        for name, written in zip(classes.names, prompts, strict=True):
            if not written:
                raise ValueError(f"class '{name}' of '{self.target}' has no prompt: give it one, as its name")
        texts = [prompt for written in prompts for prompt in written]
        z: Tensor = context.embed({modality: texts}, [text])[text].z[:, 0]
        means = torch.stack([rows.mean(0) for rows in z.split([len(written) for written in prompts])])
        return View(F.normalize(means, dim=1)[:, None], torch.ones(len(means), 1, dtype=torch.bool))

    def _modality_of(self, text: Side) -> str:
        modality, *fused = text.members
        if fused:
            raise ValueError(f"text side '{self.text}' fuses modalities, class prompts are of one: name a plain side")
        return modality
