"""ConFu by a chain: one random order of the modalities a step, each contrasted with the fusion of those before it.

The trap: sides change from step to step. The order is drawn from (seed, step) alone, or processes would not meet.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.objectives._subset import some_member
from workbench.seeds import seed_for
from workbench.terms import Scale, Term, Terms, scale_gradient, shown
from workbench.types import Loss, Objective, Pool, Question, Side, View, Views

if TYPE_CHECKING:
    from synthetic.theory.optima import Optimum
    from synthetic.theory.truth import Truth

__all__ = ["ConFuChain"]


class ConFuChain(Objective):
    """L = sum_{k=2..M} NCE(fuse(X_pi(<k)), X_pi(k)) for a permutation pi drawn from (seed, step): M - 1 terms.

    Each term bounds I(X_pi(<k); X_pi(k)) from below, and by the chain rule these add up to the total correlation under
    every order: an estimate of what `confu` with `fuse: subsets` sums over 2^M subsets, after arXiv 2511.21331. The
    first prefix is one modality with its own projection, so that one-to-one retrieval stays. It wants a fusion that
    all subsets share (deep_set, transformer) and three modalities or more. A sample that misses the target, or all of
    the prefix, leaves that term; of a prefix that it has in part, it gives the fusion of that part. Time 8 (M - 1)
    B^2 d and M - 2 fusions of B rows a step; memory M B d.

    Args:
        scale: factor on cosines: {init, learn, max}; ConFu keeps the temperature at 0.07.
    """

    def __init__(self, modalities: Sequence[str], *, scale: Scale = Scale(learn=False)) -> None:
        super().__init__()
        if len(modalities) < 3:
            raise ValueError(f"confu_chain fuses two modalities or more, the model has {list(modalities)}: use clip")
        self.modalities, self.fuses_partly = tuple(modalities), True
        self.seed = torch.initial_seed()  # the build seeds it from the run's seed, alike on every process
        possible = [
            Term(between=("+".join(prefix), target))
            for size in range(1, len(modalities))
            for prefix in combinations(modalities, size)
            for target in modalities
            if target not in prefix
        ]
        self.possible = Terms(modalities, possible, scale)
        self.all_sides = self.possible.all_sides
        self.total_weight = len(modalities) - 1.0

    def chain(self, step: int) -> list[Term]:
        """Draw the terms of a step, from the shortest prefix on."""
        order = random.Random(seed_for(self.seed, "confu-chain", step)).sample(self.modalities, len(self.modalities))
        prefixes = ["+".join(m for m in self.modalities if m in order[:k]) for k in range(1, len(order))]
        return [Term(between=pair) for pair in zip(prefixes, order[1:], strict=True)]

    def sides(self, step: int) -> Sequence[Side]:
        """Name every modality by itself, and the fused prefixes of this step's order."""
        return [Side((m,)) for m in self.modalities] + [term.sides[0] for term in self.chain(step)[1:]]

    def scale(self) -> Float[Tensor, 1]:
        return self.possible.scale()

    def constrain(self) -> None:
        self.possible.constrain()

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Add up the step's terms; logs hold each by the size of its prefix."""
        mine, everyone = _partly_there(z), replace(pool, views=_partly_there(pool.views))
        terms = {
            f"{k}_to_1": self.possible.contrast(term, mine, everyone, self.scale())
            for k, term in enumerate(self.chain(pool.step), 1)
        }
        total = torch.stack([found.loss for found in terms.values()]).sum()
        return Loss(scale_gradient(total, pool.world), shown(terms, self.scale()))

    def ask(self, others: Sequence[str], target: str) -> Question | None:
        """Ask by the fusion of all others; of one, by the modality itself."""
        return self.possible.ask(others, target)

    def query_sides(self, others: Sequence[str], target: str) -> list[Side]:
        return self.possible.query_sides(others, target)

    def optimum(self, truth: Truth) -> Optimum | None:
        """Give the optimum averaged over the orders."""
        return truth.confu_chain()


def _partly_there(views: Views) -> Views:
    """Call a fused row valid when one of its members is."""
    return {
        side: View(view.z, some_member([views[Side((m,))].valid for m in side.members])) for side, view in views.items()
    }
