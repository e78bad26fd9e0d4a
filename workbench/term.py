"""One contrast between two sides, as a recipe writes it, and the arguments of kernels that its refinements become.

Refinements (label smoothing, false negatives, balance, prefixes) are for any number of positives and on every backend;
kernels/README.md has their formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from kernels import matryoshka
from workbench.contrasts import TermRows, count_of_each
from workbench.recipe.component import Section
from workbench.scale import Scale
from workbench.types import Option, Pool, Side, View

if TYPE_CHECKING:
    from jaxtyping import Float

Stop = Literal["tokens", "positions", "scale", "fused"]
"""a place where a term stops its gradient: at what its fused side reads, at the scale, or at the fused vector itself"""


class FalseNegatives(Section):
    """Says which candidates leave a denominator because they may be positives: GISTEmbed (arXiv 2402.16829)."""

    margin: float = Field(
        default=0.0, description="how far its cosine is above the mean of the row's positives; below 0 drops more"
    )
    relative: bool = Field(default=False, description="whether the margin is times that mean cosine")
    guide: str | None = Field(
        default=None,
        description="a side, best of a locked encoder, between whose vectors of two samples the cosine is meant: with "
        "guide: text and margin: -0.2 samples whose texts' cosine is above 0.8 are no negatives",
    )


class Term(Section):
    """One contrast between two sides."""

    between: tuple[str, str]
    loss: Literal["infonce", "sigmoid", "align_uniform"] = "infonce"
    positives: Literal["pairwise", "mean", "logsum", "each"] | None = Field(
        default=None,
        description="default: pairwise, each view against each view in its own contrast; for a side and itself, each",
    )
    views: Literal["zip", "all"] = Field(default="zip", description="how a fused side combines its members' views")
    weight: NonNegativeFloat = 1.0
    scale: Literal["shared"] | Scale = "shared"
    detach: tuple[Stop, ...] = Field(default=(), description="stop the gradient there")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target that is spread over all candidates"
    )
    hardness: NonNegativeFloat = Field(
        default=0.0, description="negatives count exp(hardness times their cosine) times: 9 in arXiv 2503.04812"
    )
    false_negatives: FalseNegatives | None = Field(
        default=None, description="drop candidates that are nearer than the positives; {} for the usual rule"
    )
    balance: bool = Field(
        default=False, description="each id counts once in a denominator, however many rows of the batch have it"
    )
    matryoshka: tuple[PositiveInt, ...] | dict[PositiveInt, NonNegativeFloat] | None = Field(
        default=None, description="numbers of leading dimensions, or {number: weight}; the loss is summed over them"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Term:
        for name in (*self.between, *self.guides):
            Side.parse(name)
        if self.is_self and self.positives == "pairwise":
            raise ValueError(
                f"{self.between[0]} against itself has no pairs of sides: positives must be mean, logsum or each"
            )
        if self.loss == "sigmoid" and self.positives in ("logsum", "each"):
            raise ValueError(f"a sigmoid term judges every pair by itself: positives {self.positives!r} does not apply")
        if self.label_smoothing and self.false_negatives is not None:
            raise ValueError(
                "label_smoothing spreads the target over every candidate and false_negatives takes candidates away: "
                "remove one of the two"
            )
        if self.matryoshka is not None and not len(set(self.matryoshka)) == len(self.matryoshka) > 0:
            raise ValueError(
                f"matryoshka is {list(self.matryoshka)}: name one or more numbers of dimensions, each once"
            )
        if self.loss != "infonce" and self.of_softmax:
            raise ValueError(
                f"{', '.join(self.of_softmax)}: they are about a row's denominator, which loss {self.loss} has not; "
                "remove them, or take loss: infonce"
            )
        if self.loss == "align_uniform":
            self._refuse_for_centroids()
        if "fused" in self.detach and sum(side.fused for side in map(Side.parse, self.between)) != 1:
            raise ValueError(
                f"detach: [fused] lets a fused side teach one that is not, and this term is between "
                f"{self.between[0]} and {self.between[1]}: remove it, or name one fused side"
            )
        return self

    def _refuse_for_centroids(self) -> None:
        if self.is_self:
            raise ValueError(f"align_uniform brings two sides together, and {self.between[0]} stands on both")
        if self.positives not in (None, "pairwise"):
            raise ValueError(f"align_uniform pairs view with view: positives {self.positives!r} does not apply")
        if self.scale != "shared" or "scale" in self.detach:
            raise ValueError("align_uniform measures distances and has no scale: remove scale, and it from detach")
        if self.matryoshka is not None:
            raise ValueError("align_uniform contrasts centroids of whole vectors: remove matryoshka")

    @property
    def is_self(self) -> bool:
        return self.between[0] == self.between[1]

    @property
    def guides(self) -> list[str]:
        """List the side whose vectors judge what is a false negative, if one is named."""
        named = None if self.false_negatives is None else self.false_negatives.guide
        return [] if named is None else [named]

    @property
    def name(self) -> str:
        return "~".join(self.between)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Read the two sides, with this term's options."""
        a, b = (self._with_options(Side.parse(name)) for name in self.between)
        return a, b

    def _with_options(self, side: Side) -> Side:
        if not side.fused:
            return side
        options: set[Option] = {"all"} if self.views == "all" else set()
        options |= {stop for stop in self.detach if stop == "tokens" or stop == "positions"}
        return Side(side.members, True, None, frozenset(options))

    @property
    def of_softmax(self) -> list[str]:
        """List what is set and belongs to a denominator, which only infonce has."""
        given = {
            "label_smoothing": self.label_smoothing > 0,
            "hardness": self.hardness > 0,
            "false_negatives": self.false_negatives is not None,
            "balance": self.balance,
        }
        return [name for name, is_given in given.items() if is_given]

    @property
    def plain(self) -> bool:
        """Say whether nothing is refined."""
        return not self.of_softmax and self.matryoshka is None

    def over_prefixes(self, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return the loss, or its sum over the prefixes of the dimensions that are named."""
        return loss if self.matryoshka is None else partial(matryoshka, loss, prefixes=self.matryoshka)


class Refined(TypedDict, total=False):
    """Keywords of kernels.multi_positive_infonce."""

    label_smoothing: float
    hardness: float
    false_negative_margin: float
    relative_margin: bool
    x_guide: Float[Tensor, "m d"]
    y_guide: Float[Tensor, "n d"]
    x_log_weight: Float[Tensor, " m"]
    y_log_weight: Float[Tensor, " n"]


def refine(term: Term, x: TermRows, everyone: TermRows, y: TermRows, pool: Pool) -> Refined:
    """Make the keywords of a term for rows x, which are some of everyone's, and columns y."""
    options = Refined()
    if term.label_smoothing:
        options["label_smoothing"] = term.label_smoothing
    if term.hardness:
        options["hardness"] = term.hardness
    if term.false_negatives is not None:
        options["false_negative_margin"] = term.false_negatives.margin
        options["relative_margin"] = term.false_negatives.relative
    for guide in term.guides:
        options["x_guide"], options["y_guide"] = _guide_rows(pool.views[Side.parse(guide)], x, everyone, y, pool)
    if term.balance:
        # An id's rows together weigh 1: class averaging of BCL (Zhu et al. 2022, arXiv 2207.09052)
        options["x_log_weight"] = -count_of_each(x.ids, everyone).clamp(min=1).log()
        options["y_log_weight"] = -count_of_each(y.ids, y).clamp(min=1).log()
    return options


def _guide_rows(
    guide: View, x: TermRows, everyone: TermRows, y: TermRows, pool: Pool
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "n d"]]:
    """Give each row of x and of y its sample's first vector of the guide, without a gradient.

    NaN where a sample has none: no comparison with it is true, so that it drops nothing and is never dropped.
    """
    num = len(pool.ids)
    judge = torch.where(guide.valid[:, :1], guide.z[:, 0], torch.nan).detach()
    of_rows, of_columns = len(everyone.ids) // num, len(y.ids) // num  # a sample's rows stand side by side
    own = judge[pool.offset : pool.offset + len(x.ids) // of_rows]
    return own.repeat_interleave(of_rows, 0), judge.repeat_interleave(of_columns, 0)
