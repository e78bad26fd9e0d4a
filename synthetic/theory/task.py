"""The contract that every task file meets.

A task is one file of this package with one class, whose keyword-only arguments are its recipe. It states its process
twice: `sample` draws it, `joint` enumerates it, and a test holds the two together for every task there is.
Codes are abstract symbols; `observe` turns them into inputs. Whatever is random in `observe`'s maps (code books) has
its own seed among the task's arguments: a model probed on a world of another seed is tested on nothing.

A task may also have these attributes, which `Missing`, `Hub` and the rendered tasks show:

    seen    {modalities seen together: share of the samples}, independent of the codes; default: always all of them
    given   the modalities that the target is predicted from; default: all other modalities
    kinds   {modality: vector | image | text}; default: vector. `observe` gives uint8 [n, h, w, 3], or list[str]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from synthetic.theory.joint import Joint
    from synthetic.theory.truth import Truth


class Task(Protocol):
    """A synthetic task: what every file of `synthetic/` has a class for."""

    @property
    def modalities(self) -> tuple[str, ...]: ...

    @property
    def target(self) -> str:
        """Name the variable to be predicted: a modality, or a label that no encoder sees."""
        ...

    @property
    def codes(self) -> Mapping[str, int]:
        """Give the size of the alphabet of every modality, and of variables that are never shown."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Give the shape of one input of each modality; () where it is an image or a text."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw n independent complete samples: {variable: int64 codes [n]}, latents [n, d] where they are
        continuous."""
        ...

    def observe(self, modality: str, codes: Tensor) -> Tensor | list[str]:
        """Show these codes as an encoder sees them: float32 [n, *shape] unless the modality is of another kind."""
        ...

    def joint(self) -> Joint | None:
        """Enumerate the exact distribution of the codes; None where the task is continuous."""
        ...

    def truth(self, batch: int = 256) -> Truth:
        """Compute everything known of the task; the optima are those at contrastive batch size `batch`."""
        ...
