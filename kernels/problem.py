"""One contrast, as the checks hand it to every backend: a frozen value in the place of a dozen arguments.

Traps
- A field that one loss does not have keeps its default, which means nothing there: the sigmoid loss does not read
  `positives` and `symmetric`, the log-sum-exps read neither those nor weights.
- Only the backend `chunked` reads `prefixes`, and only kernels.matryoshka, which knows that, asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from kernels.autograd import NOTHING_WANTED, Wanted

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup

Average = Literal["mean", "logsum", "each"]
"""how a row's loss is made of its positives: see kernels.multi_positive_infonce"""
Exclude = Literal["none", "self", "group"]
"""which pairs count in nothing: none; an item with itself; those of equal ids"""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Holds the inputs and options of one contrast of rows x with columns y.

    x and y have one dtype; scale, bias and weights have the dtype that logits are summed in (float64 for float64
    inputs, else float32); everything is on one device. Weights are >= 0 or were refused, and 0 means absent.
    """

    x: Float[Tensor, "m d"]
    y: Float[Tensor, "n d"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None
    """added to every logit; the sigmoid loss has one"""
    x_ids: Int64[Tensor, " m"] | None = None
    y_ids: Int64[Tensor, " n"] | None = None
    """equal ids are positives, or with exclude="group" the pairs that do not count"""
    x_weight: Float[Tensor, " m"] | None = None
    y_weight: Float[Tensor, " n"] | None = None
    x_log_weight: Float[Tensor, " m"] | None = None
    y_log_weight: Float[Tensor, " n"] | None = None
    """added to the logits of each row and of each column"""
    x_guide: Float[Tensor, "m e"] | None = None
    y_guide: Float[Tensor, "n e"] | None = None
    """in the place of x and y where cosines tell false negatives"""

    exclude: Exclude = "none"
    x_offset: int = 0
    """with exclude="self" row i is the same item as column x_offset + i"""
    positives: Average = "mean"
    symmetric: bool = True
    """whether columns have a loss, too"""
    label_smoothing: float = 0.0
    """the share of a target that is spread over all that counts"""
    hardness: float = 0.0
    """times its cosine, which gets no gradient there, it is added to the logit of a pair that is no positive"""
    false_negative_margin: float | None = None
    """how far above that of a row's positives a cosine has to be for its pair to leave the denominator"""
    relative_margin: bool = False
    """whether the margin is times the positives' cosine"""
    prefixes: Sequence[int] = ()
    """numbers of leading dimensions, two or more, whose losses are added up; none where it is one loss of the whole"""
    prefix_weights: Sequence[float] = ()
    """how much the loss of each counts"""
    group: ProcessGroup | None = None
    """of the ranks whose strips of rows make up the whole batch"""
    wanted: Wanted = NOTHING_WANTED
    """the gradients that are computed together with the value"""
    backend: str = "reference"
    """the one that computes it"""

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Returns every tensor of the problem."""
        weights = self.x_weight, self.y_weight, self.x_log_weight, self.y_log_weight
        return self.x, self.y, self.scale, self.bias, self.x_ids, self.y_ids, *weights, self.x_guide, self.y_guide

    @property
    def ids(self) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " n"]]:
        """Returns (x_ids, y_ids) of a problem that has positives."""
        assert self.x_ids is not None
        assert self.y_ids is not None
        return self.x_ids, self.y_ids

    @property
    def log_weights(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]] | None:
        """Returns (x_log_weight, y_log_weight), zeros in the place of the one that is missing; None without both."""
        r, c = self.x_log_weight, self.y_log_weight
        if r is None and c is None:
            return None
        zeros = self.scale.new_zeros
        return zeros(len(self.x)) if r is None else r, zeros(len(self.y)) if c is None else c

    @property
    def self_offset(self) -> int | None:
        """Returns the column that row 0 itself is, or None where rows and columns are different items."""
        return self.x_offset if self.exclude == "self" else None
