"""Critics: small scores of a query with a target, trained by InfoNCE, and asked on samples that they never saw.

A critic adds scores: each is a scaled cosine between what it makes of some fields and a reading of the target of its
own. Critics are nested, so that what one can say the next can say, too: `x`; then `x` and `y`, late fusion; then `x`,
`y` and a score of both fused. Towers, fusion and optimizer are the workbench's own.

The trap: the best of many epochs must not be chosen by the samples that judge it. One part of the samples trains, one
says when to stop, and the third is only asked in the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from workbench.encoders import mlp as tower
from workbench.fusion import mlp as fusion
from workbench.scale import Scale
from workbench.seeds import generator, seed_torch
from workbench.training.optim import AdamW
from workbench.types import Modality, Side

if TYPE_CHECKING:
    from workbench.studies.synergy.samples import Numbers

Group = tuple[str, ...]
"""fields that a score reads together"""
Embedded = tuple[Tensor, Tensor]
"""queries and targets, whose inner products are the sums of scores"""

WIDTH, DIM = 64, 32
"""of a tower, and of what its cosines are taken of"""
SCALE = Scale(init=5.0, min=0.1)
"""of every score: low at first, as all logits of an untrained critic are noise"""
STEPS, WARMUP, RATE = 300, 20, 2e-3
"""the same budget for every critic; the rate falls to 0 as a cosine"""
SCALE_RATE = 10
"""times the rate: a score that can be sure of something has to grow a long way"""
DECAY = 1e-2
AVERAGING = 0.95
"""of weights over steps: a critic that stops early stops at a high rate, whose noise this takes away"""
EVERY, PATIENCE, BETTER = 15, 6, 2e-3
"""steps after which the choosing samples are asked. A training ends when they have not said better of any critic, by so
many nats, for that many times; not before half of its steps, as what only two fields tell is found late, all at once"""
CHOOSING, ASKED = 4, 16
"""batches that say when to stop, and that a trained critic is asked on"""
CHOSEN_BY = 8
"""one in so many samples that are not held out says when to stop"""


class Critic(nn.Module):
    """The sum of one score for each group of fields with a target."""

    def __init__(
        self, groups: Sequence[Group], target: str, sizes: Mapping[str, int], measured: Collection[str]
    ) -> None:
        super().__init__()
        self.groups, self.target = tuple(groups), target
        members = list(dict.fromkeys(name for group in groups for name in group))
        vectors = {name: Modality("vector", (sizes[name],), measured=name in measured) for name in [*members, target]}
        self.towers = nn.ModuleDict({n: tower.MLP(v, WIDTH, width=WIDTH, depth=2) for n, v in vectors.items()})
        fused = [Side(group, fused=True) for group in groups if len(group) > 1]
        widths = dict.fromkeys(members, WIDTH)
        self.fusion = fusion.MLP(fused, widths, DIM, hidden=2 * WIDTH, dropout=0.0, final_activation=False)
        self.heads = nn.ModuleDict({group[0]: nn.Linear(WIDTH, DIM) for group in groups if len(group) == 1})
        self.target_heads = nn.ModuleList(nn.Linear(WIDTH, DIM) for _ in groups)
        self.log_scales = nn.ParameterList(SCALE.parameter() for _ in groups)

    def forward(self, x: Mapping[str, Float[Tensor, "n _"]]) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s"]]:
        """Embed queries and targets such that a sum of scores is one inner product: scaled unit rows side by side."""
        features = {name: reader(x[name]) for name, reader in self.towers.items()}
        queries, targets = [], []
        for group, head, log_scale in zip(self.groups, self.target_heads, self.log_scales, strict=True):
            if len(group) == 1:
                query = self.heads[group[0]](features[group[0]].pooled)
            else:
                query = self.fusion(Side(group, fused=True), features)
            root = (log_scale / 2).exp()
            queries.append(F.normalize(query, dim=1) * root)
            targets.append(F.normalize(head(features[self.target].pooled), dim=1) * root)
        return torch.cat(queries, 1), torch.cat(targets, 1)

    def measure(self, x: Mapping[str, Float[Tensor, "n _"]]) -> None:
        """Fit what standardises readings to the samples that train."""
        for name, reader in self.towers.items():
            assert isinstance(reader, tower.MLP)
            if reader.needs_items:
                reader.measure(x[name])


class Parts(NamedTuple):
    """The rows that train, that say when to stop, and that are held out for the end."""

    train: Int64[Tensor, " a"]
    choose: Int64[Tensor, " b"]
    held_out: Int64[Tensor, " c"]


def divide(ids: Int64[Tensor, " n"], number: int, seed: int) -> list[Parts]:
    """Divide samples `number` times, so that each is held out once; equal ids stay together."""
    known = ids.unique()
    order = known[torch.randperm(len(known), generator=generator(seed, "synergy", "parts"))]
    parts = []
    for part in range(number):
        held_out = order[part::number]
        rest = order[torch.arange(len(order)) % number != part]
        rest = rest[torch.randperm(len(rest), generator=generator(seed, "synergy", "choose", part))]
        choose, train = rest[: len(rest) // CHOSEN_BY], rest[len(rest) // CHOSEN_BY :]
        parts.append(Parts(*(torch.isin(ids, own).nonzero()[:, 0] for own in (train, choose, held_out))))
    return parts


def draw_batches(
    ids: Int64[Tensor, " n"], batch: int, number: int, draw: torch.Generator
) -> list[Int64[Tensor, " batch"]]:
    """Draw batches of rows no two of which have the same id, so that no candidate is a false negative by its id.

    A pass takes one row of every id, and leaves out what does not fill a batch. Raises ValueError where none is full.
    """
    batches: list[Tensor] = []
    while len(batches) < number:
        order = torch.randperm(len(ids), generator=draw)
        _, first = np.unique(ids[order].numpy(), return_index=True)
        one_each = order[np.sort(first)]
        if len(one_each) < batch:
            raise ValueError(f"{len(one_each)} different ids do not fill a batch of {batch}")
        batches += one_each[: len(one_each) // batch * batch].view(-1, batch)
    return batches[:number]


def usable_nats(queries: Float[Tensor, "... b d"], targets: Float[Tensor, "... b d"]) -> Float[Tensor, ...]:
    """Compute ln B - InfoNCE of both directions: the nats that a critic uses on a batch, or on each of many.

    Written out here, as `kernels` contrasts one batch at a time, and critics are trained many at once.
    """
    logits = queries @ targets.transpose(-1, -2)
    log_sums = (logits.logsumexp(-1) + logits.logsumexp(-2)) / 2
    return math.log(logits.shape[-1]) - (log_sums - logits.diagonal(dim1=-2, dim2=-1)).mean(-1)


class Fitted(NamedTuple):
    """What a trained critic uses on samples that it never saw, in nats."""

    nats: float
    from_half: float
    """when it was trained on half of the samples"""


@dataclass(frozen=True)
class Trial:
    """A critic to train, on every division of the samples."""

    groups: tuple[Group, ...]
    target: str

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(name for group in self.groups for name in group), self.target)))


def fit(
    trial: Trial, numbers: Numbers, rows: Int64[Tensor, " m"], parts: Sequence[Parts], batch: int, seed: int
) -> list[Fitted]:
    """Train a critic on each division of the samples, and another on half of what trains there; ask both on the same
    held-out batches.

    A function of its arguments alone: what is drawn of torch's global generator is put back afterwards.
    """
    x, ids = {name: numbers.inputs[name][rows] for name in trial.members}, numbers.ids[rows]
    trained = [own for number, part in enumerate(parts) for own in (part.train, _halve(part.train, ids, seed, number))]
    critics = []
    for number, own in enumerate(trained):
        with torch.random.fork_rng(devices=[]):
            seed_torch(seed, "synergy", "critic", number // 2, *trial.members)
            critic = Critic(trial.groups, trial.target, {n: v.shape[1] for n, v in x.items()}, numbers.measured)
        critic.measure({name: values[own] for name, values in x.items()})
        critics.append(critic)

    def batches(what: str, of_part: Sequence[Tensor], number: int) -> Int64[Tensor, "critics number batch"]:
        # all critics of a division are asked on the same batches: their differences are paired
        drawn = [
            own[torch.stack(draw_batches(ids[own], batch, number, generator(seed, "synergy", what, part)))]
            for part, own in enumerate(of_part)
        ]
        return torch.stack(drawn).repeat_interleave(2, 0)

    bank = Bank(critics)
    orders = [generator(seed, "synergy", "order", number // 2) for number in range(len(trained))]
    _train(bank, x, ids, trained, orders, batches("choose", [part.choose for part in parts], CHOOSING))
    nats = bank.ask(x, batches("held out", [part.held_out for part in parts], ASKED)).tolist()
    return [Fitted(*pair) for pair in zip(nats[::2], nats[1::2], strict=True)]


def _halve(rows: Int64[Tensor, " n"], ids: Tensor, seed: int, part: int) -> Int64[Tensor, " m"]:
    """Take the rows of half of the ids."""
    known = ids[rows].unique()
    half = known[torch.randperm(len(known), generator=generator(seed, "synergy", "half", part))[::2]]
    return rows[torch.isin(ids[rows], half)]


class Bank:
    """Critics of one form, side by side: their weights are stacked, so that one step trains all of them.

    Each is trained by its own loss on its own batch, as if it were alone: the sum of their losses has the gradient of
    each at its own weights. It is several times as fast, as the time of so small a step is that of its many calls.
    """

    def __init__(self, critics: Sequence[Critic]) -> None:
        self.form = critics[0]
        self.weights, self.buffers = stack_module_state(list(critics))
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.kept = self.averages
        self.best = torch.full((len(critics),), -math.inf)

    def embed(self, weights: Mapping[str, Tensor], x: Mapping[str, Tensor]) -> Embedded:
        """Embed queries and targets [critics, n, s], each critic its own n rows."""

        def one(own: Mapping[str, Tensor], buffers: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Embedded:
            return functional_call(self.form, (dict(own), dict(buffers)), (dict(rows),))

        return torch.vmap(one)(dict(weights), self.buffers, dict(x))

    def nats(self, x: Mapping[str, Tensor], rows: Int64[Tensor, "critics batch"]) -> Float[Tensor, " critics"]:
        """Compute the usable nats of each critic on a batch of its own, with a gradient."""
        return usable_nats(*self.embed(self.weights, {name: values[rows] for name, values in x.items()}))

    @torch.no_grad()
    def ask(
        self, x: Mapping[str, Tensor], rows: Int64[Tensor, "critics number batch"], averages: bool = False
    ) -> Float[Tensor, " critics"]:
        """Take the mean over batches of what each critic uses, with its best weights or its averages as they are."""
        weights = self.averages if averages else self.kept
        found = []
        for batch in rows.unbind(1):
            queries, targets = self.embed(weights, {name: values[batch] for name, values in x.items()})
            found.append(usable_nats(queries, targets))
        return torch.stack(found).mean(0)

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Move the averages towards the weights; of the first steps they are a plain mean."""
        for name, weight in self.weights.items():
            self.averages[name].lerp_(weight, max(1 - AVERAGING, 1 / step))

    def keep(self, values: Float[Tensor, " critics"]) -> bool:
        """Keep the averages of those critics that have got better; tell whether any did by an amount that counts."""
        better, matters = values > self.best, bool((values > self.best + BETTER).any())
        self.best = torch.where(better, values, self.best)
        self.kept = {
            name: torch.where(better.view(-1, *[1] * (now.ndim - 1)), now, self.kept[name])
            for name, now in self.averages.items()
        }
        return matters

    @torch.no_grad()
    def constrain(self) -> None:
        """Put the scales back within their limits: after an update."""
        for name, weight in self.weights.items():
            if name.startswith("log_scales"):
                SCALE.limit_(weight)

    def optimizer(self) -> AdamW:
        """Make AdamW, with weight decay on matrices only and a higher rate for scales."""
        named = list(self.weights.items())
        scales = [weight for name, weight in named if name.startswith("log_scales")]
        matrices = [weight for _, weight in named if weight.ndim > 2]
        vectors = [weight for name, weight in named if weight.ndim == 2 and not name.startswith("log_scales")]
        groups = [
            {"params": matrices, "weight_decay": DECAY, "lr_scale": 1.0},
            {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
            {"params": scales, "weight_decay": 0.0, "lr_scale": SCALE_RATE},
        ]
        return AdamW(groups, lr=RATE, fused=True)


def _train(
    bank: Bank,
    x: Mapping[str, Tensor],
    ids: Tensor,
    trained: Sequence[Tensor],
    orders: Sequence[torch.Generator],
    choose: Int64[Tensor, "critics number batch"],
) -> None:
    """Take up to STEPS optimizer steps, each critic on its own rows; keep what the choosing batches like best."""
    optimizer, since, batch = bank.optimizer(), 0, choose.shape[-1]
    waiting = [list[Tensor]() for _ in trained]
    for step in range(1, STEPS + 1):
        for queue, rows, order in zip(waiting, trained, orders, strict=True):
            if not queue:  # the next pass
                own = ids[rows]
                queue += [rows[one] for one in draw_batches(own, batch, max(1, len(own.unique()) // batch), order)]
        rate = RATE * min(1, step / WARMUP) * (1 + math.cos(math.pi * step / STEPS)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss = -bank.nats(x, torch.stack([queue.pop() for queue in waiting])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bank.constrain()
        bank.average(step)
        if step % EVERY == 0 or step == STEPS:
            since = 0 if bank.keep(bank.ask(x, choose, averages=True)) else since + 1
            if since >= PATIENCE and step >= STEPS / 2:
                return
