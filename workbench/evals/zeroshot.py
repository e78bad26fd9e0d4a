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
    more than five classes), `balanced_accuracy` (mean recall of the classes present), `chance` (1 / classes) and
    `majority` (share of the commonest class). Of equal scores the lower class ranks above; items labelled -1 are
    left out.

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
        """List the names that `run` may yield; `top5` depends on the number of classes."""
        return ["accuracy", "top5", "balanced_accuracy", "chance", "majority"]

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        split = context.data.split(self.split)
        image, text = compared(context.objective, self.image, self.text)
        examples = Examples.of(split, image)
        for what, known in (("classes", split.classes), (f"labels of {self.image}", examples.targets)):
            if self.label not in known:
                have = ", ".join(known) or "none"
                raise ValueError(f"split '{self.split}' has no {what} named '{self.label}': it has {have}")
        one_class_of_each(examples.targets[self.label], self.label)
        examples = examples.take((examples.targets[self.label] >= 0).nonzero().squeeze(1))
        labels = examples.targets[self.label]
        if not len(labels):
            raise ValueError(f"no item of split '{self.split}' has a label of '{self.label}': all are -1")

        candidates = {text: self._class_embeddings(context, text, split.classes[self.label])}
        images = {image: examples.embed(context)}
        num_classes = len(split.classes[self.label].names)
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
        written = [[write(prompt, name) for prompt in self.prompts for name in names] for names in classes.prompts]
        for name, texts in zip(classes.names, written, strict=True):
            if not texts:
                raise ValueError(f"class '{name}' of '{self.label}' has no prompt: give it one, as its name")
        texts = [text for each in written for text in each]
        z: Tensor = context.embed({modality: texts}, [text])[text].z[:, 0]
        means = torch.stack([rows.mean(0) for rows in z.split([len(each) for each in written])])
        return View(F.normalize(means, dim=1)[:, None], torch.ones(len(means), 1, dtype=torch.bool))

    def _modality_of(self, text: Side) -> str:
        modality, *fused = text.members
        if fused:
            raise ValueError(f"text side '{self.text}' fuses modalities, class prompts are of one: name a plain side")
        return modality
