"""Contrastive losses in linear memory: many positives per row, both directions, learnable scale and bias, weights.

Needs torch and nothing else of this repository. Trap: another distribution also installs an import package called
`kernels`; `kernels.OWNER` tells whose this one is.
"""

from kernels import reference
from kernels.dispatch import contrast_lse, multi_positive_infonce, multi_positive_sigmoid
from kernels.khatri_rao import khatri_rao_lse
from kernels.matryoshka import matryoshka
from kernels.scratch import set_scratch_limit

OWNER = "multimodal-workbench"

__all__ = [
    "OWNER",
    "contrast_lse",
    "khatri_rao_lse",
    "matryoshka",
    "multi_positive_infonce",
    "multi_positive_sigmoid",
    "reference",
    "set_scratch_limit",
]
