"""The contract that every task file meets.

A task is one file of this package with one class, whose keyword-only arguments are its recipe. It states its process
twice: `sample` draws it, `joint` enumerates it, and a test holds the two together for every task there is.
Codes are abstract symbols; `observe` turns them into inputs. Whatever is random in `observe`'s maps (code books) has
its own seed among the task's arguments: a model probed on a world of another seed is tested on nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int64
    from torch import Tensor

    from synthetic.theory.joint import Joint
    from synthetic.theory.truth import Truth


class Task(Protocol):
    modalities: tuple[str, ...]
    target: str
    """the modality to be predicted from the others"""
    codes: dict[str, int]
    """{modality: size of its alphabet}"""
    shapes: dict[str, tuple[int, ...]]
    """{modality: shape of one input}"""

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Int64[Tensor, " n"]]:
        """The codes of n independent samples, by modality."""
        ...

    def observe(self, modality: str, codes: Int64[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """What an encoder sees of these codes."""
        ...

    def joint(self) -> Joint:
        """The exact distribution of the codes."""
        ...

    def truth(self, batch: int = 256) -> Truth:
        """Everything known of the task; the optima are those at contrastive batch size `batch`."""
        ...
