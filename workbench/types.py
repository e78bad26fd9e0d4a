"""The contracts of the parts that a recipe names: what an encoder, a fusion, an objective, a data set or an evaluator
is asked for, and what it does unless it says otherwise.

They exchange the values of `workbench.values`, which can be had from here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.values import (
    Batch,
    Classes,
    ClassTable,
    Features,
    Items,
    Kind,
    Loss,
    Modality,
    Option,
    Pool,
    Question,
    Sample,
    Side,
    Skipped,
    Split,
    Transform,
    View,
    Views,
)

if TYPE_CHECKING:
    from synthetic.theory.optima import Optimum
    from synthetic.theory.truth import Truth

__all__ = [
    "Batch",
    "Checks",
    "ClassTable",
    "Classes",
    "Context",
    "Data",
    "Embed",
    "Encoder",
    "Evaluator",
    "Features",
    "Fusion",
    "HasItems",
    "Items",
    "Kind",
    "Loss",
    "Modality",
    "Objective",
    "Option",
    "Pool",
    "Question",
    "Sample",
    "Side",
    "Skipped",
    "Split",
    "Transform",
    "View",
    "Views",
]


class Encoder(nn.Module):
    """The tower of one modality: n model inputs to their `Features`. Row i of these depends on row i of `x` alone.

    A tower of your own writes `width`, `transform` and `forward`; every other line has a default that claims nothing.
    """

    width: int
    """length of `Features.pooled`"""
    has_projection: bool = True
    """whether `Features.z` lies in the shared space; where it does not, `model.head: linear` has to bring it there"""
    has_tokens: bool = False
    """whether `forward(x, tokens=True)` gives `Features.tokens`"""
    has_class_token: bool = False
    """whether it then gives `Features.cls`, too"""
    needs_items: bool = False
    """whether `measure` has to see items of the training split before the first step"""
    context_length: int | None = None
    """token ids of a text that it reads, after which it cuts; None where it reads no text, or all of it"""
    padding_is_read: bool = True
    """whether a fusion may read tokens of padding, which `Model` says; where none does, training may leave them out"""

    __call__: Callable[..., Features]

    @property
    def holder(self) -> Encoder:
        """Give the encoder that holds the weights: itself, but for one that `shared` makes."""
        return self

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        """Encode model inputs [n, ...]. `tokens` is only passed to an encoder that `has_tokens`."""
        raise NotImplementedError

    def transform(self, train: bool) -> Transform:
        """Give the map of one raw item to one row of `x`: an augmentation where `train`, and a tokenizer for texts."""
        raise NotImplementedError

    def borrow(self, encoders: Mapping[str, Encoder], modalities: Mapping[str, Modality]) -> None:
        """Take what is shared from the other encoders of the model: `build` calls it when all are there.

        Raises ValueError where what it needs is not among them.
        """

    def load_pretrained(self) -> None:
        """Replace the drawn weights by published ones. `build` calls it, unless a checkpoint's weights follow."""

    def measure(self, items: Iterable[Any]) -> None:
        """Fit what no gradient does, as means and spreads of numbers, to raw items of the training split.

        A training calls it before its first step, where the encoder `needs_items`, and copies the buffers to all
        processes; later a checkpoint has them. Raises ValueError for items that cannot be measured.
        """

    def repeated(self) -> Sequence[nn.Module]:
        """List the layers that are alike: each is compiled, and divided over processes, by itself."""
        return ()

    def depths(self) -> Mapping[str, int]:
        """Give the layer of each parameter, by its name, from 0 upwards, for `train.layer_decay`."""
        return {}

    def fitted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Resize weights of such an encoder for another input size, as position embeddings, to this one's size."""
        return weights


class Fusion(nn.Module):
    """Fuses the features of a side's members into one vector, sample by sample.

    `build` constructs it as Fusion(sides, {modality: Encoder.width}, dim of the shared space, **settings).
    """

    kept_at_inference: bool = True
    """False where it only helps training: `workbench.load` then leaves it away"""
    needs_tokens: bool = False
    """whether it reads `Features.tokens`, which cost time and memory"""
    needs_class_token: bool = False
    """whether some member of each side has to give `Features.cls`"""
    reads_padding: bool = True
    """False where tokens that are not real never matter, nor how many there are: a training then leaves them out"""

    __call__: Callable[..., Tensor]

    def forward(
        self, side: Side, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
    ) -> Float[Tensor, "n d"]:
        """Fuse n samples. `present` is False where a sample lacks a member; its features must not matter then."""
        raise NotImplementedError

    def repeated(self) -> Sequence[nn.Module]:
        """List the layers that are alike: each is compiled by itself."""
        return ()


class Data(Protocol):
    """A data set: training batches as a pure function of (seed, step), and named evaluation splits."""

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    def __len__(self) -> int:
        """Count the samples of an epoch."""
        ...

    def batches(self, start: int, feed: Any) -> Iterator[Batch]:
        """Yield batches without end, as if `start` optimizer steps were consumed; `feed` is a loading.feed.Feed."""
        ...

    def split(self, name: str) -> Split:
        """Find an evaluation set. Raises ValueError naming those there are."""
        ...


@runtime_checkable
class HasItems(Protocol):
    """A data set that can read the training items of one modality by themselves, without the rest of their samples."""

    def raw_items(self, modality: str, at_most: int) -> Iterator[Any]:
        """Yield up to so many raw items, in the order of the table; missing and bad ones are left out."""
        ...


class Objective(nn.Module):
    """The loss, and the only part that mixes samples. It owns scale and bias (shape [1]) and never changes z in place.

    A subclass sets `all_sides` and writes `forward`. The rest has a default: every side is needed at every step, a
    modality is searched by the cosine with the given ones, no optimum is known, and no parameter has a limit.
    """

    all_sides: Sequence[Side]
    """every side that it may ever ask for: what the model must be able to give"""
    modalities: Sequence[str] = ()
    """the modalities that it aligns, in the recipe's order; default: those of its sides"""
    total_weight: float = 1.0
    """sum of the weights of its terms: the unit of the verdict 'blind'"""
    needs_complete: bool = False
    """whether only samples that have all of its modalities count in the loss, as in one product of all of them"""
    fuses_partly: bool = False
    """whether a sample that lacks some members of a fused side counts, fused from those that it has"""
    least_dim: int = 1
    """how many dimensions embeddings must have, as prefixes of them are contrasted"""
    scale_falls_to: float = 0.0
    """the lower limit that a learned scale may fall to: the mark of a model that has collapsed; 0 where it has none"""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_constrain)

    if TYPE_CHECKING:

        def __call__(self, z: Views, pool: Pool) -> Loss: ...

    def forward(self, z: Views, pool: Pool) -> Loss:
        """Compare this rank's rows `z` with the rows of all ranks.

        The gradient of the total is `pool.world` times that of this rank's share of the loss, so that the mean over
        ranks of gradients is the gradient of one process with all rows.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward(z: Views, pool: Pool) -> Loss")

    def sides(self, step: int) -> Sequence[Side]:
        """Name the sides needed at this step. A stochastic objective draws them from (seed, step), not by rank."""
        return self.all_sides

    def constrain(self) -> None:
        """Put the parameters back within their limits: called after every update, and after weights are loaded."""

    def scale(self) -> Float[Tensor, 1] | None:
        """Return the factor on cosines, or None where there is none."""
        return None

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]:
        """Take the cosine of every query with every candidate, the mean over the query's sides. First view of each."""
        (target,) = candidates.values()
        return torch.stack([view.z[:, 0] @ target.z[:, 0].T for view in query.values()]).mean(0)

    def ask(self, others: Sequence[str], target: str) -> Question | None:
        """Say how `target` is found from the modalities `others`; None when nothing that is trained finds it so."""
        query = tuple(Side.parse(side) for side in self.query_sides(others, target))
        return Question(query, Side.parse(self.candidate_side(target))) if query else None

    def query_sides(self, others: Sequence[str], target: str) -> Sequence[Side]:
        """List the sides that together find `target`: one fused from all `others`, else each of them by itself.

        An objective with a `score` of its own is asked by one side at a time, as nothing is known of several.
        """
        sides = list(map(Side.parse, self.all_sides))
        if self.candidate_side(target) not in sides:
            return []
        if fused := [side for side in sides if side.fused and set(side.members) == set(others)]:
            return fused[:1]
        if len(others) > 1 and type(self).score is not Objective.score:
            return []
        return [side for side in map(self.candidate_side, others) if side in sides]

    def candidate_side(self, target: str) -> Side:
        """Name the side that is searched for a modality: its own, else the first one that is made of it alone."""
        made = [side for side in map(Side.parse, self.all_sides) if side.members == (target,)]
        return next((side for side in made if side.plain), made[0] if made else Side((target,)))

    def optimum(self, truth: Truth) -> Optimum | None:
        """Give the least loss that a synthetic task allows and the loss of knowing nothing, in nats; None: unknown.

        A class that has a `forward` of its own inherits no optimum: it would be one of another loss.
        """
        return None


def _constrain(objective: Objective, _: object) -> None:
    objective.constrain()


class Embed(Protocol):
    """The model as an evaluator sees it: {modality: n raw items, rows aligned} -> {side: View}, fp32 on the CPU, k = 1.

    `valid` says which rows have a modality, by default all. There is no gradient.
    """

    def __call__(
        self,
        inputs: Mapping[str, Sequence[Any] | Tensor],
        sides: Sequence[Side],
        valid: Mapping[str, Bool[Tensor, " n"]] | None = None,
    ) -> Views: ...


def _drop(name: str, table: ClassTable) -> None:
    """Take a table that nobody wants."""


@dataclass(frozen=True)
class Context:
    """The part of a run that an evaluator sees."""

    embed: Embed
    objective: Objective
    data: Data
    batch: int
    seed: int
    report: Callable[[str, ClassTable], None] = _drop
    """takes what an evaluator says class by class, under a name that may be empty: a fact is one number"""


@runtime_checkable
class Checks(Protocol):
    """An evaluator that can say without a model, in `wb check` already, that its settings would give no number."""

    def check(self, objective: Objective, data: Data) -> None:
        """Raise ValueError where they would not, or where the number would say nothing."""
        ...


class Evaluator(Protocol):
    """A measurement of a model. The engine decides when it runs; its key in the recipe is the prefix of its names."""

    def run(self, context: Context) -> Iterator[tuple[str, float]]:
        """Yield facts as (name, value)."""
        ...
