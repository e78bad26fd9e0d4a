"""The values that parts of the workbench hand to each other. The only logic here is the reading of a side's name.

Letters in shapes: n samples in a micro-batch · b rows of this rank · B rows of all ranks · k views of a sample ·
l tokens · h width of an encoder · d width of the shared space · q queries · c candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


Kind = Literal["vector", "image", "text", "audio", "sequence"]


@dataclass(frozen=True)
class Modality:
    """A modality's raw samples, which are of one of these kinds:

    - `image`: an RGB picture of PIL
    - `text`: a str
    - `audio`: (waveform, rate), one channel of float32 [n], n >= 1, and its samples a second, as the file has it
    - `vector`: a float32 tensor of `shape`
    - `sequence`: a float32 tensor of frames [l, d], l >= 1
    """

    kind: Kind
    shape: tuple[int, ...] = ()
    """of a vector its own; of audio (samples,) at `rate`, of a sequence (frames, d): the most that an encoder reads"""
    count: int = 1
    """items of it that a training sample has, at most"""
    rate: int = 0
    """samples a second that an encoder of audio reads, whatever the files have"""
    measured: bool = False
    """whether its numbers are readings in units of their own, which encoders standardise by the training split"""


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
        """Make the plain side of one modality, or the fusion of several."""
        return Side(tuple(members), fused=len(members) > 1)

    @property
    def plain(self) -> bool:
        """Whether it is a modality through its own head."""
        return not self.fused and self.head is None

    @cached_property
    def without_options(self) -> Side:
        """The same side as every sample has it: zipped, and learning from all that it is made of."""
        return replace(self, options=frozenset()) if self.options else self

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
    targets: dict[str, Tensor] = field(default_factory=dict)
    """{label: its class of each item [n], -1 where unknown; classes of which it has several, bool [n, classes]; a
    number [n], NaN where unknown}"""
    samples: Int64[Tensor, " n"] | None = None
    """the sample that each is part of, where several samples may have one id; None: each id is one"""

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


@dataclass(frozen=True)
class ClassTable:
    """An evaluation class by class: a row for each of c classes, and which were taken for which."""

    names: tuple[str, ...]
    columns: dict[str, Tensor]
    """{precision, recall, f1, support, ...: [c]}"""
    pairs: Int64[Tensor, "m 3"] | None = None
    """(class, answer, number of items) of every pair that occurs; None where items have several classes, or no answer
    is given"""


Transform = Callable[[Any], Tensor]
"""raw item -> model input; a random one draws from torch's global generator, which the feed seeds per item"""


class Question(NamedTuple):
    """A way to find one modality from others: the sides that ask, and the side that is searched."""

    query: tuple[Side, ...]
    candidates: Side
