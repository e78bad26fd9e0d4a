"""The first recipe for a stranger's data: what trains on it, and why, as commented YAML.

Every choice is written beside its reason, so that a person can take another one. Nothing here is a law: sizes are those
with which a machine learns something in minutes, and the objective is the plainest that uses what is there.

The trap: fields that stand in no common sample cannot be contrasted; the objective is chosen by which fields meet.
"""

from __future__ import annotations

import math
import textwrap
from itertools import combinations
from typing import Any, NamedTuple

from workbench.inspection.first_look import Facts
from workbench.inspection.tallies import CONTEXT
from workbench.recipe.yaml_text import write_yaml

STEPS = 400
"""of the first training, about"""
EPOCHS = 30
"""of it, at most"""
TOGETHER = 0.2
"""share of samples that have all fields, from which they are fused"""


WIDTH = 116
"""letters of a line of comment"""


class Machine(NamedTuple):
    """The sizes that a kind of machine trains in minutes."""

    name: str
    batch: int
    lr: float
    dim: int


CPU = Machine("a CPU", 128, 1e-3, 128)
GPU = Machine("a GPU", 1024, 5e-4, 512)


class Choice(NamedTuple):
    """An objective, what it needs of the model, and why it was chosen."""

    name: str
    objective: dict[str, Any]
    fusion: dict[str, Any] | None
    why: str


class Synergy(NamedTuple):
    """What `wb synergy` found on the data."""

    word: str
    """fuse, pairs are enough, or cannot tell: of the field for which fusing helps most"""
    sentences: list[str]
    """one of each field"""
    samples: int

    def __str__(self) -> str:
        return f"wb synergy, of {self.samples:,} samples: {' '.join(self.sentences)}"


def choose_objective(facts: Facts, machine: Machine, synergy: Synergy | None = None) -> Choice:
    """Choose the plainest objective that uses what is there; whether three fields and more are fused by what was found
    on them, where that was asked."""
    names, looked = list(facts.kinds), facts.found.usable
    whole = facts.together(names) / looked
    apart = [pair for pair in combinations(names, 2) if not facts.together(pair)]
    if apart:
        terms = [{"between": list(pair)} for pair in combinations(names, 2) if facts.together(pair)]
        why = f"no sample has {' and '.join(apart[0])} together, so those pairs are contrasted that meet"
        return Choice("terms", {"name": "terms", "terms": terms}, None, why)
    if len(names) == 2:
        several = facts.kinds.get("text") == "text" and facts.found.captions["per_image"][-1:] > [1]
        if set(names) == {"image", "text"} and (machine is GPU or several):
            fusion = {"name": "transformer", "layers": 2, "heads": 4, "readout": "mean"}
            why = "a picture has two views here" + (", and texts are several" if several else "")
            why += ": every view with every text, and a fusion that is there while training only (arXiv 2603.02767)."
            return Choice(
                "ito",
                {"name": "ito"},
                fusion,
                f"{why} A step of clip takes half the time: train it, too, as the baseline to beat",
            )
        return Choice("clip", {"name": "clip"}, None, "two fields: each against the other, the baseline of all others")
    if whole < TOGETHER:
        why = f"{whole:.0%} of the samples have all of {', '.join(names)}: too few to fuse, so pairs are contrasted"
        return Choice("clip", {"name": "clip"}, None, why)
    if synergy and synergy.word == "pairs are enough":
        why = f"{len(names)} fields, whose pairs are enough: each against each. {synergy}"
        return Choice("clip", {"name": "clip"}, None, why)
    if len(names) == 3:
        why = "three fields: all pairs, and every two fused against the third (arXiv 2511.21331). "
        why += str(
            synergy
            or "Whether fusing helps these data, wb synergy says in a minute: where it finds that "
            "pairs are enough, take clip"
        )
        return Choice("confu", {"name": "confu", "scale": {"learn": True}}, {"name": "mlp", "hidden": 256}, why)
    why = (
        f"{len(names)} fields: a random order of them a step, each against the fusion of those before it, which stays "
        f"linear in their number. {synergy or 'wb synergy says whether fusing helps, and clip takes pairs alone'}"
    )
    fusion = {"name": "deep_set", "hidden": 256}
    return Choice("confu_chain", {"name": "confu_chain", "scale": {"learn": True}}, fusion, why)


def _encoder(name: str, facts: Facts, machine: Machine) -> dict[str, Any]:
    """Choose the tower of a field by its kind and the machine."""
    kind = facts.kinds[name]
    if kind == "image":
        if machine is GPU:
            return {"name": "open_clip", "model": "ViT-B-32"}
        config = {"timm_model_name": "edgenext_xx_small", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
        return {"name": "open_clip", "config": config, "augment": {"crop": [0.5, 1.0], "flip": 0.0}}
    if kind == "text":
        if machine is GPU:
            return {"name": "open_clip", "model": "ViT-B-32"}
        longest = (facts.found.captions["tokens"] or [CONTEXT])[-1]
        context = min(CONTEXT, 8 * math.ceil(longest / 8))
        return {"name": "open_clip", "config": {"context_length": context, "width": 128, "heads": 4, "layers": 3}}
    if kind == "audio":
        return {"name": "audio", "model": "edgenext_xx_small" if machine is CPU else "convnext_tiny"}
    if kind == "sequence":
        return {"name": "sequence"}
    return {"name": "mlp", "depth": 2, "width": 128}


class Length(NamedTuple):
    """How long is trained, by batches of which size."""

    batch: int
    epochs: int
    steps: int

    @staticmethod
    def of(facts: Facts, machine: Machine) -> Length:
        """Choose a power of two that goes twice into an epoch at least, and about STEPS steps."""
        held_out = 0.1 if "%" in str(facts.block.get("validation", "")) else 0.0
        train = max(2, round(facts.samples * (1 - held_out)))
        batch = 2 ** int(math.log2(max(2, min(machine.batch, train // 2))))
        epochs = max(1, min(EPOCHS, math.ceil(STEPS * batch / train)))
        return Length(batch, epochs, epochs * (train // batch))


def write_recipe(
    name: str, facts: Facts, machine: Machine, command: str, synergy: Synergy | None = None
) -> tuple[str, Choice]:
    """Write a recipe as commented YAML; returns it, and the objective that was chosen."""
    choice, length = choose_objective(facts, machine, synergy), Length.of(facts, machine)
    seen = f"{facts.found.inspected:,} of {facts.found.pairs:,} samples"
    larger = (
        "; add pretrained: laion2b_s34b_b79k to both to begin from published weights"
        if machine is GPU
        else "; on a GPU take larger ones, as {name: open_clip, model: ViT-B-32}"
    )
    lines = [
        f"# {command}",
        *_comment(f"{length.steps} steps on {machine.name}. Written by wb init, of what {seen} hold; change any line."),
        *(row for line in describe_facts(facts) for row in _comment(line)),
        f"name: {_flow(name)}",
        "",
        *(row for note in facts.notes for row in _comment(note)),
        *_block("data", _data(facts, choice)),
        "",
        *_comment(f"towers for {machine.name}, from scratch{larger}"),
        "model:",
        f"  dim: {machine.dim}",
        "  encoders:",
        *(f"    {field}: {_flow(_encoder(field, facts, machine))}" for field in facts.kinds),
        *([f"  fusion: {_flow(choice.fusion)}"] if choice.fusion else []),
        "",
        *_comment(f"{choice.name}: {choice.why}"),
        f"objective: {_flow(choice.objective)}",
        "",
        *_training(length, machine),
        "",
        *_evaluation(facts, length),
        "parallel: {workers: 2}",
    ]
    return "\n".join(lines) + "\n", choice


def _data(facts: Facts, choice: Choice) -> dict[str, Any]:
    """Give the data block; ITO sees two views of a picture, and two texts where there are several."""
    data = dict(facts.block)
    if choice.name == "ito":
        fields = {"image": {}, "text": {}} | {name: dict(block) for name, block in data.get("fields", {}).items()}
        fields["image"]["views"] = 2
        if facts.found.captions["per_image"][-1:] > [1]:
            fields["text"]["at_most"] = 2
        data["fields"] = fields
    return data


def _training(length: Length, machine: Machine) -> list[str]:
    chance = f"knowing nothing is ln {length.batch} = {math.log(length.batch):.2f} a term"
    return [
        *_comment(
            f"each sample is contrasted with the {length.batch - 1} others of its batch: {chance}. "
            "wb check --overfit tries the rate"
        ),
        "train:",
        f"  for: {length.epochs} epochs",
        f"  batch: {length.batch}",
        *(
            [f"  microbatch: {min(length.batch, 256)} # encoded at once; gradients stay exact"]
            if machine is GPU
            else []
        ),
        f"  lr: {machine.lr:g}",
        f"  warmup: {max(1, length.steps // 10)} steps",
    ]


def _evaluation(facts: Facts, length: Length) -> list[str]:
    return [
        "# of the split that is held out: the share of queries whose right answer is among the first 1, 5, 10",
        "eval:",
        f"  every: {max(1, length.epochs // 5)} epochs",
        "  best: retrieval/mean_recall",
        "  retrieval: {split: validation}",
        *_probe(facts),
    ]


def _probe(facts: Facts) -> list[str]:
    """Write a probe of the first label, as a comment: its classes may be few in what is held out."""
    labels = facts.block.get("labels", {})
    return (
        [f"  # probe: {{label: {next(iter(labels))}}} # how well a label is read from the embeddings"] if labels else []
    )


def describe_facts(facts: Facts) -> list[str]:
    """Write what was found, a line each."""
    found, looked = facts.found, facts.found.usable
    fields = ", ".join(f"{name} ({kind}, {found.fields[name] / looked:.0%})" for name, kind in facts.kinds.items())
    lines = [f"fields, and the share of samples that have each: {fields}"]
    if len(found.combinations) > 1:
        together = ", ".join(f"{there} {n / looked:.0%}" for there, n in list(found.combinations.items())[:4])
        lines.append(f"together: {together}")
    if found.images["sizes"]:
        small, middle, large = (f"{w} x {h}" for w, h in found.images["sizes"])
        lines.append(f"pictures: {small} to {large}, median {middle}; {facts.twice} are there more than once")
    if found.captions["number"]:
        scripts = ", ".join(f"{name.lower()} {share:.0%}" for name, share in facts.scripts.items() if share > 0.01)
        lengths = " to ".join(
            dict.fromkeys(str(n) for n in (found.captions["tokens"][0], found.captions["tokens"][-1]))
        )
        shared = found.captions["shared"]
        lines.append(f"texts: {lengths} tokens, letters {scripts or 'none'}; {shared:.1%} are those of another sample")
    if labels := facts.block.get("labels"):
        lines.append(f"labels, for probes only: {', '.join(labels)}")
    lines.append(f"bad samples among those looked at: {len(found.bad)}")
    return lines


def _comment(text: str) -> list[str]:
    """Write a text as lines of comment."""
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False)]


def _block(name: str, tree: dict[str, Any]) -> list[str]:
    """Write a section with a key a line, and what is in it on that line."""
    return [f"{name}:", *(f"  {key}: {_flow(value)}" for key, value in tree.items())]


def _flow(value: object) -> str:
    """Write a value on one line."""
    return write_yaml(value, flow=True, width=10**6).strip().removesuffix("\n...").strip()


__all__ = ["CPU", "GPU", "Choice", "Machine", "Synergy", "choose_objective", "describe_facts", "write_recipe"]
