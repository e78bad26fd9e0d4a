"""What can be known of a relation through imperfect eyes and ears: the ceiling of a contrastive loss on real data.

A synthetic task's exact floor belongs to who perceives perfectly. Of pictures and voices that training has not seen,
towers of this size perceive less, whatever the objective. So the same towers are trained as classifiers of the symbols
behind each modality, on the same rows; their posteriors on held-out rows, calibrated, say what is knowable:

 1. p(i | x) for every modality, calibrated by one temperature on the held-out split itself. That favours the ceiling.
 2. If the modalities are independent given their symbols, the density ratio that the optimal critic needs is

        r(x, y, z) = p(x, y, z) / (p(x) p(y) p(z))
                   = sum_{i,j,k} p(i | x) p(j | y) p(k | z) P(i, j, k) / (P(i) P(j) P(k)),

    and that of fewer modalities is the sum over their symbols alone. Perfect posteriors give the symbols' own ratios.
 3. The objective's loss with log r in the place of its logits, on the same batches of held-out rows as its own loss.

What an objective recovers of NI - ceiling is thereby told apart from what its towers cannot see. The ceiling is that
of these towers, data and steps, no bound: an objective may see better than its classifiers did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from synthetic.theory.joint import Joint
from workbench.build import Parts, build_parts
from workbench.distributed.processes import Parallel
from workbench.loading.feed import Feed
from workbench.loading.kept import repeats
from workbench.loading.paths import Paths
from workbench.loading.samples import Samples
from workbench.objectives.symile import Symile
from workbench.recipe.schema import Recipe
from workbench.runs.measuring import measure
from workbench.seeds import generator, seed_torch
from workbench.terms import Term, Terms
from workbench.training.schedule import Schedule
from workbench.types import Objective

Posteriors = Mapping[str, Float64[Tensor, "n k"]]
"""{modality: the probability of each symbol for each row}"""
TEMPERATURES = torch.logspace(-1.5, 0.5, 81, dtype=torch.float64)


class Ceiling(NamedTuple):
    """A loss in nats that a critic with given posteriors has, and its standard error."""

    loss: float
    loss_se: float


class Seen(NamedTuple):
    """What classifiers say of the rows of a split, and what is true of them."""

    logits: dict[str, Float[Tensor, "n k"]]
    symbols: dict[str, Int64[Tensor, " n"]]


def calibrate(logits: Float[Tensor, "n k"], symbols: Int64[Tensor, " n"]) -> Float64[Tensor, "n k"]:
    """Turn logits into probabilities at the temperature that makes these symbols most likely (Guo et al. 2017)."""
    logits = logits.double()
    nats = torch.stack([F.cross_entropy(logits * t, symbols) for t in TEMPERATURES])
    return (logits * TEMPERATURES[nats.argmin()]).softmax(1)


def infonce(
    law: Joint, posteriors: Posteriors, a: Sequence[str], b: Sequence[str], rows: Int64[Tensor, " m"]
) -> Float64[Tensor, ""]:
    """Compute symmetric InfoNCE of a batch of rows between two groups of modalities, with log r as logits."""
    told = _told(law, {m: posteriors[m][rows] for m in (*a, *b)}, a, b)
    target = torch.arange(len(rows))
    return (F.cross_entropy(told, target) + F.cross_entropy(told.T, target)) / 2


def symile(
    law: Joint, posteriors: Posteriors, rows: Int64[Tensor, " m"], shuffle: torch.Generator
) -> Float64[Tensor, ""]:
    """Compute Symile's loss of a batch with shuffled negatives (as `workbench.objectives.symile`), with log r as
    logits."""
    mine = {m: posteriors[m][rows] for m in law.codes}
    losses = []
    for anchor in law.codes:
        others = [m for m in law.codes if m != anchor]
        shuffled = {m: mine[m][torch.randperm(len(rows), generator=shuffle)] for m in others}
        logits = _told(law, {anchor: mine[anchor], **shuffled}, (anchor,), others)
        true = _told(law, mine, (anchor,), others).diagonal()
        logits = torch.where(torch.eye(len(rows), dtype=torch.bool), true, logits)
        losses.append(F.cross_entropy(logits, torch.arange(len(rows))))
    return torch.stack(losses).mean()


def _told(law: Joint, posteriors: Posteriors, a: Sequence[str], b: Sequence[str]) -> Float64[Tensor, "n n"]:
    """Compute log r between the rows' groups a and the rows' groups b, the members of each being independent."""
    joint = law.marginal((*a, *b))
    weight = joint.probability.copy()
    for m in (*a, *b):
        value, alone = joint.group((m,))
        weight /= alone[value]
    seen = {m: posteriors[m][:, torch.from_numpy(code.copy())] for m, code in joint.columns((*a, *b)).items()}
    left, right = (torch.stack([seen[m] for m in group]).prod(0) for group in (a, b))  # rows x outcomes
    return ((left * torch.from_numpy(weight)) @ right.T).clamp(min=1e-300).log()


def ceiling_of(
    objective: Objective, law: Joint, posteriors: Posteriors, batches: Sequence[Int64[Tensor, " m"]]
) -> Ceiling:
    """Compute the loss that an objective has on batches of rows with log r in the place of its logits.

    Raises ValueError for an objective that is neither Symile with `n` negatives nor a sum of InfoNCE terms.
    """
    if isinstance(objective, Symile) and objective.negatives == "n":
        shuffle = generator("perceivers")
        losses = [symile(law, posteriors, rows, shuffle) for rows in batches]
    elif isinstance(objective, Terms) and all(t.loss == "infonce" and not t.is_self for t in objective.terms):
        losses = [_add(objective.terms, law, posteriors, rows) for rows in batches]
    else:
        raise ValueError(f"{type(objective).__name__}: no ceiling is known but of Symile and of sums of InfoNCE")
    values = torch.stack(losses)
    return Ceiling(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def _add(terms: Sequence[Term], law: Joint, posteriors: Posteriors, rows: Int64[Tensor, " m"]) -> Float64[Tensor, ""]:
    """Add up the weighted terms of a batch."""
    sides = [(term.weight, *term.sides) for term in terms]
    return torch.stack([w * infonce(law, posteriors, a.members, b.members, rows) for w, a, b in sides]).sum()


def perceive(recipe: Recipe, labels: Mapping[str, str], splits: Sequence[str], steps: int) -> dict[str, Seen]:
    """Train each of a recipe's towers to tell the label of its modality, and ask them about held-out splits.

    Towers, rows, batch, rate and decay are the recipe's; a linear head on `pooled` and cross-entropy take the place of
    its objective. Returns what they see of each split, in the order of its rows.

    Args:
        recipe: whose towers and data are taken; the weights that it begins with are not.
        labels: {modality: label of the data}.
        splits: names of held-out splits.
        steps: of training.

    Raises RecipeError where data and towers do not fit, and ValueError where there is no such label or split.
    """
    parts = build_parts(recipe.model_copy(update={"model": recipe.model.model_copy(update={"init": None})}))
    measure(parts, Parallel())
    heads = _train(parts, labels, steps)
    parts.model.eval()
    found: dict[str, Seen] = {}
    with torch.no_grad():
        for split in splits:
            items = parts.data.split(split).items
            inputs = {m: parts.transforms(train=False)[m] for m in labels}
            logits = {
                m: heads[m](parts.model.encoders[m](torch.stack([inputs[m](x) for x in items[m].raw])).pooled)
                for m in labels
            }
            found[split] = Seen(logits, {m: items[m].targets[label] for m, label in labels.items()})
    return found


def _train(parts: Parts, labels: Mapping[str, str], steps: int) -> nn.ModuleDict:
    """Train towers and heads together; the losses add up, and share nothing."""
    data, encoders, train, seed = parts.data, parts.model.encoders, parts.recipe.train, parts.recipe.seed
    symbols = {m: _symbols(data, m, label) for m, label in labels.items()}
    seed_torch(seed, "perceivers")
    heads = nn.ModuleDict({m: nn.Linear(encoders[m].width, int(symbols[m].max()) + 1) for m in labels})
    weights = [p for part in (*encoders.values(), heads) for p in part.parameters()]
    optimizer = torch.optim.AdamW(weights, train.lr, train.betas, weight_decay=train.weight_decay)
    schedule = Schedule(train.lr, steps // 20, steps)
    parts.model.train()
    batches = data.batches(0, Feed(parts.transforms(train=True), train.batch, seed))
    for step, batch in enumerate(islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        losses = [
            F.cross_entropy(heads[m](encoders[m](batch.inputs[m][:, 0]).pooled), symbols[m][batch.ids]) for m in labels
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return heads


def _symbols(data: Samples[Paths], modality: str, label: str) -> Int64[Tensor, " n"]:
    """Read the label of every training row: that of the first row with the same item, as an item shows one symbol."""
    item, first = repeats(data.train, modality)
    return data.label_readers[label].read(data.train, first.tolist())[torch.from_numpy(item)]
