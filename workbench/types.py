"""The few types that every part of the workbench speaks. No logic lives here beyond reading the name of a side.

Letters in shapes: n samples in a micro-batch · b rows of this rank · k views of a sample · l tokens · h width of an
encoder · d width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Modality:
    """What one modality's raw samples are: `vector` (float tensors of `shape`), `image` (PIL) or `text` (str)."""

    kind: Literal["vector", "image", "text"]
    shape: tuple[int, ...] = ()
    count: int = 1
    """items of it that a training sample has, at most"""


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder says of n samples. Nothing here is normalised: only the model normalises."""

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


Views = dict[str, View]
"""{side name: View}"""


@dataclass(frozen=True)
class Side:
    """One side of a contrast: a modality, a second head on it, or a fusion of modalities.

    `image` its head · `+image` a fused singleton · `image+text` fused · `image@ssl` a second head. Options of a fused
    side follow a colon: `image+text:all` fuses every combination of views instead of zipping them, `:tokens` and
    `:positions` stop the gradient there.
    """

    members: tuple[str, ...]
    fused: bool = False
    head: str | None = None
    options: frozenset[str] = frozenset()

    @staticmethod
    @cache
    def parse(name: str) -> Side:
        """Raises ValueError when `name` is not a side."""
        body, *options = name.split(":")
        body, at, head = body.partition("@")
        members = tuple(body.removeprefix("+").split("+"))
        fused = "+" in body
        if (
            not all(m.isidentifier() for m in members)
            or len(set(members)) < len(members)
            or not set(options) <= {"all", "tokens", "positions"}
            or (options and not fused)
            or (fused and at)
            or bool(at) != bool(head)
        ):
            raise ValueError(f"{name!r} is not a side: write 'image', 'image@head', '+image' or 'image+text'")
        return Side(members, fused, head or None, frozenset(options))

    def __str__(self) -> str:
        body = "+".join(self.members)
        body = f"+{body}" if self.fused and len(self.members) == 1 else body
        return ":".join([body + (f"@{self.head}" if self.head else ""), *sorted(self.options)])


@dataclass(frozen=True, slots=True)
class Pool:
    """All ranks' rows: what this rank's rows are contrasted with."""

    views: Views
    ids: Int64[Tensor, " B"]
    offset: int = 0
    """where this rank's rows begin"""
    group: Any = None
    """torch.distributed group of the ranks, None when there is one process"""
    step: int = 0
    seed: int = 0


class Skipped(NamedTuple):
    """A bad sample that was left out or replaced: what a person finds it by, and what is wrong with it."""

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
        """The same in pinned memory, from which a GPU copies while it computes; torch's loader asks for it."""

        def pin(tree: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.pin_memory() for name, x in tree.items()}

        return Batch(pin(self.inputs), pin(self.valid), self.ids.pin_memory(), pin(self.targets), self.skipped)

    def to(self, device: torch.device) -> Batch:
        def move(tree: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: x.to(device, non_blocking=True) for name, x in tree.items()}

        ids = self.ids.to(device, non_blocking=True)
        return Batch(move(self.inputs), move(self.valid), ids, move(self.targets), self.skipped)


@dataclass(frozen=True, slots=True)
class Loss:
    """What is optimised and what is shown are different returns."""

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
        self, side: str, features: Mapping[str, Features], present: Mapping[str, Bool[Tensor, " n"]] | None = None
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


class Objective(Protocol):
    """The only part that mixes samples. An nn.Module; owns scale and bias (shape [1]). It never changes z in place."""

    all_sides: Sequence[Side]
    """every side it may ever ask for: what the model must be able to give"""

    def sides(self, step: int) -> Sequence[Side]:
        """sides needed at this step (a stochastic objective draws them from (seed, step), never from the rank)"""
        ...

    def __call__(self, z: Views, pool: Pool) -> Loss: ...

    def score(self, query: Views, candidates: Views) -> Float[Tensor, "q c"]: ...


@dataclass(frozen=True)
class Context:
    """What an evaluator sees of a run."""

    embed: Callable[..., Views]
    """embed(raw items by modality (rows aligned), side names, valid={modality: bool [n]}: default all) -> Views in fp32
    on the CPU, k = 1, no gradient"""
    objective: Any
    data: Data
    batch: int
    seed: int


class Evaluator(Protocol):
    """Yields facts; the engine decides when, the recipe key is the prefix of the names."""

    def run(self, context: Context) -> Iterator[tuple[str, float]]: ...
