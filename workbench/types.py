"""The few types that every part of the workbench speaks. The only logic here is the reading of a side's name, and what
an objective does unless it says otherwise.

Letters in shapes: n samples in a micro-batch · b rows of this rank · B rows of all ranks · k views of a sample ·
l tokens · h width of an encoder · d width of the shared space · q queries · c candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from synthetic.theory.optima import Optimum
    from synthetic.theory.truth import Truth


@dataclass(frozen=True)
class Modality:
    """A modality's raw samples: `vector` (float tensors of `shape`), `image` (PIL) or `text` (str)."""

    kind: Literal["vector", "image", "text"]
    shape: tuple[int, ...] = ()
    count: int = 1
    """items of it that a training sample has, at most"""


@dataclass(frozen=True, slots=True)
class Features:
    """An encoder's output for n samples. Nothing here is normalised: only the model normalises."""

    z: Float[Tensor, "n d"]
    """the tower's own projection into the shared space"""
    pooled: Float[Tensor, "n h"]
    """the vector before that projection"""
    tokens: Float[Tensor, "n l d"] | None = None
    """every token after the final norm, projected into the shared space"""
    positions: Float[Tensor, "l d"] | None = None
    """the token positions as a fusion module should see them (not yet added to `tokens`)"""
    mask: Bool[Tensor, "n l"] | None = None
    """True where a token is real"""
    cls: int | None = None
    """index of the class token, where there is one"""


@dataclass(frozen=True, slots=True)
class View:
    """k unit embeddings of each of b samples, and which of them exist."""

    z: Float[Tensor, "b k d"]
    valid: Bool[Tensor, "b k"]


Option = Literal["all", "tokens", "positions"]


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a contrast: a modality, a second head on it, or a fusion of modalities.

    `image` is the modality through its head, `image@ssl` through a second one, `image+text` a fusion, and `+image` the
    fusion of one modality alone. A fused side may have options, which its name shows after colons: `image+text:all`
    fuses every combination of views instead of zipping them, `:tokens` and `:positions` stop the gradient there.

    A side equals its name and has the name's hash, so that `views["image"]` finds the view of Side(("image",)).
    """

    members: tuple[str, ...]
    fused: bool = False
    head: str | None = None
    options: frozenset[Option] = frozenset()

    @staticmethod
    @cache
    def parse(name: str | Side) -> Side:
        """Read the name of a side; a side is returned as it is. Raises ValueError when `name` is not a side."""
        if isinstance(name, Side):
            return name
        body, *options = name.split(":")
        body, at, head = body.partition("@")
        members = tuple(body.removeprefix("+").split("+"))
        fused = "+" in body
        known: dict[str, Option] = {"all": "all", "tokens": "tokens", "positions": "positions"}
        if (
            not all(m.isidentifier() for m in members)
            or len(set(members)) < len(members)
            or not known.keys() >= set(options)
            or (options and not fused)
            or (fused and at)
            or bool(at) != bool(head)
        ):
            raise ValueError(f"{name!r} is not a side: write 'image', 'image@head', '+image' or 'image+text'")
        return Side(members, fused, head or None, frozenset(known[option] for option in options))

    @staticmethod
    def joining(members: Sequence[str]) -> Side:
        """The plain side of one modality, the fusion of several."""
        return Side(tuple(members), fused=len(members) > 1)

    @property
    def plain(self) -> bool:
        """Whether it is a modality through its own head."""
        return not self.fused and self.head is None

    @cached_property
    def _name(self) -> str:
        body = "+".join(self.members)
        body = f"+{body}" if self.fused and len(self.members) == 1 else body
        return ":".join([body + (f"@{self.head}" if self.head else ""), *sorted(self.options)])

    def __str__(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return self._name == str(other) if isinstance(other, (Side, str)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._name)


Views = dict[Side, View]


@dataclass(frozen=True, slots=True)
class Pool:
    """All ranks' rows: what this rank's rows are contrasted with."""

    views: Views
    ids: Int64[Tensor, " B"]
    offset: int = 0
    """where this rank's rows begin"""
    group: ProcessGroup | None = None
    """the ranks' process group, for a kernel that sums over them; None when there is one process"""
    step: int = 0
    seed: int = 0
    world: int = 1
    """number of ranks"""


class Skipped(NamedTuple):
    """A bad sample that was left out or replaced: the name that a person finds it by, and what is wrong with it."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's samples on one rank. Every leaf has leading dimension b; inputs are [b, k, ...]."""

    inputs: dict[str, Tensor]
    valid: dict[str, Bool[Tensor, "b k"]]
    ids: Int64[Tensor, " b"]
    targets: dict[str, Tensor] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    """bad samples that others of this batch stand in for"""

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> Batch:
        """Copy every tensor into pinned memory, from which a GPU copies while it computes: torch's loader calls it."""

        def pin(tree: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.pin_memory() for name, x in tree.items()}

        return Batch(pin(self.inputs), pin(self.valid), self.ids.pin_memory(), pin(self.targets), self.skipped)

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to the device, without waiting for it where the batch is pinned."""

        def move(tree: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.to(device, non_blocking=True) for name, x in tree.items()}

        ids = self.ids.to(device, non_blocking=True)
        return Batch(move(self.inputs), move(self.valid), ids, move(self.targets), self.skipped)


@dataclass(frozen=True, slots=True)
class Loss:
    """An objective's value on a batch: `total` is optimised; `logs`, scalars by name, are only shown."""

    total: Float[Tensor, ""]
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Sample:
    """One raw training sample: k raw items of each modality (fewer where some are missing)."""

    inputs: dict[str, list[Any]]
    id: int
    targets: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """n raw examples of one modality; items of two modalities match when their ids are equal."""

    raw: Sequence[Any]
    ids: Int64[Tensor, " n"]
    targets: dict[str, Int64[Tensor, " n"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Classes:
    """Zero-shot classes of a target: their names, and for each the texts whose mean embedding stands for it."""

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Split:
    """An evaluation set: independent lists of items a modality, linked by ids. With `paired`, row i of every
    modality belongs to the same sample; else a fused side joins items by their ids."""

    items: dict[str, Items]
    classes: dict[str, Classes] = field(default_factory=dict)
    paired: bool = False


Transform = Callable[[Any], Tensor]
"""raw item -> model input; a random one draws from torch's global generator, which the feed seeds per item"""


class Encoder(nn.Module):
    """The tower of one modality: n model inputs to their `Features`. Row i of these depends on row i of `x` alone.

    A tower of your own writes `width`, `transform` and `forward`; every other line has a default that claims nothing.
    """

    width: int
    """length of `Features.pooled`"""
    has_tokens: bool = False
    """whether `forward(x, tokens=True)` gives `Features.tokens`"""
    has_class_token: bool = False
    """whether it then gives `Features.cls`, too"""
    context_length: int | None = None
    """token ids of a text that it reads, after which it cuts; None where it reads no text, or all of it"""

    __call__: Callable[..., Features]

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        """Encode model inputs [n, ...]. `tokens` is only passed to an encoder that `has_tokens`."""
        raise NotImplementedError

    def transform(self, train: bool) -> Transform:
        """Give the map of one raw item to one row of `x`: an augmentation where `train`, and a tokenizer for texts."""
        raise NotImplementedError

    def load_pretrained(self) -> None:
        """Replace the drawn weights by published ones. `build` calls it, unless a checkpoint's weights follow."""

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
        """samples in an epoch"""
        ...

    def batches(self, start: int, feed: Any) -> Iterator[Batch]:
        """Endless and replayable: `start` optimizer steps are already consumed. `feed` is a loading.feed.Feed."""
        ...

    def split(self, name: str) -> Split:
        """Raises ValueError naming the splits there are."""
        ...


class Question(NamedTuple):
    """A way to find one modality from others: the sides that ask, and the side that is searched."""

    query: tuple[Side, ...]
    candidates: Side


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


@dataclass(frozen=True)
class Context:
    """The part of a run that an evaluator sees."""

    embed: Embed
    objective: Objective
    data: Data
    batch: int
    seed: int


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
