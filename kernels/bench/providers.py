"""Who is measured: dense torch, the field's packages, and the backends of `kernels`.

Peers are asked for the same number as everybody else: both directions, the textbook gradient, no rescaling. What they
cannot be asked for (several positives, a gradient of the scale) they are spared, not charged for.

Traps
- memeff's default gradient is rescaled (stable=True), and its temperature is a plain number without a gradient.
- inf-cl has one direction and folds the scale into the features; head_dim must be a power of two (256 is its default).
- pytorch-metric-learning normalises again unless told, takes a diagonal out when the two label tensors are one object,
  and its NTXentLoss compares each pair with each pair: memory is cubic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kernels.bench.problem import SCALE, Inputs, Problem, evaluate
from kernels.dispatch import BACKENDS

if TYPE_CHECKING:
    from jaxtyping import Float

Loss = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Provider:
    name: str
    build: Callable[[Problem, str], Loss]
    """(problem, device) -> its loss; imports the package, so that a missing one is an error here"""
    losses: tuple[str, ...]
    package: str | None = None
    """the distribution that has it"""
    many: bool = True
    """whether a row may have several positives"""
    devices: tuple[str, ...] = ("cpu", "cuda")
    least: Callable[[Problem], float] = lambda problem: 0.0
    """bytes without which it is not worth trying"""

    def covers(self, problem: Problem, device: str) -> bool:
        return problem.loss in self.losses and (self.many or problem.positives == 1) and device in self.devices

    @property
    def version(self) -> str:
        return "" if self.package is None else metadata.version(self.package)


def dense_infonce(z: Inputs) -> Float[Tensor, ""]:
    S = z.scale * (z.x @ z.y.T).float()
    P = (z.ids[:, None] == z.ids).float()
    T = P / P.sum(1, keepdim=True)  # symmetric, as both sides have the same ids
    return -((T * S.log_softmax(1)).sum(1).mean() + (T * S.log_softmax(0)).sum(0).mean()) / 2


def dense_sigmoid(z: Inputs) -> Float[Tensor, ""]:
    sign = 2.0 * (z.ids[:, None] == z.ids) - 1.0
    return -logsigmoid(sign * (z.scale * (z.x @ z.y.T).float() + z.bias)).sum() / len(z.x)


def _dense(problem: Problem, device: str) -> Loss:
    return {"infonce": dense_infonce, "sigmoid": dense_sigmoid}[problem.loss]


def _compiled(problem: Problem, device: str) -> Loss:
    # On the CPU it is compiled at a small size, so that the compiler's own memory is not the loss's.
    return torch.compile(_dense(problem, device), dynamic=device == "cpu")


def _open_clip(problem: Problem, device: str) -> Loss:
    module = import_module("open_clip.loss")
    clip, sigmoid = module.ClipLoss(), module.SigLipLoss()
    return _in_autocast(
        problem,
        device,
        lambda z: clip(z.x, z.y, z.scale) if problem.loss == "infonce" else sigmoid(z.x, z.y, z.scale, z.bias),
    )


def _open_clip_chunked(problem: Problem, device: str) -> Loss:
    SigLipLoss = import_module("open_clip.loss").SigLipLoss
    if "chunk_size" not in inspect.signature(SigLipLoss).parameters:
        raise NotImplementedError("this version's SigLipLoss has no chunk_size")
    loss = SigLipLoss(chunk_size=1024)
    return _in_autocast(problem, device, lambda z: loss(z.x, z.y, z.scale, z.bias))


def _in_autocast(problem: Problem, device: str, loss: Loss) -> Loss:
    """As its training loop calls it: products in half precision, the softmax in float32."""

    def autocast(z: Inputs) -> Tensor:
        with torch.autocast(device, z.x.dtype, enabled=z.x.dtype != torch.float32):
            return loss(z)

    return autocast


def _metric_learning(name: str) -> Callable[[Problem, str], Loss]:
    def build(problem: Problem, device: str) -> Loss:
        dot = import_module("pytorch_metric_learning.distances").DotProductSimilarity(normalize_embeddings=False)
        kind = getattr(import_module("pytorch_metric_learning.losses"), name)
        one = kind(temperature=1 / SCALE, distance=dot)

        def both(z: Inputs) -> Tensor:
            rows, columns = z.ids, z.ids.clone()
            return (
                one(z.x, rows, ref_emb=z.y, ref_labels=columns) + one(z.y, rows, ref_emb=z.x, ref_labels=columns)
            ) / 2

        return both

    return build


def _memeff(problem: Problem, device: str) -> Loss:
    loss = import_module("memeff").MemoryEfficientCLIPLoss(1 / SCALE, normalized_inputs=True, stable=False)
    return lambda z: loss(z.x, z.y)


def _inf_cl(problem: Problem, device: str) -> Loss:
    if problem.d % 256:
        raise NotImplementedError(f"D = {problem.d} is no multiple of its head_dim, 256")
    one = import_module("inf_cl").cal_inf_loss

    def both(z: Inputs) -> Tensor:
        # its own `scale` argument needs torch.distributed, and would round half-precision features once more
        return (one(z.x.float() * z.scale, z.y) + one(z.y.float() * z.scale, z.x)) / 2

    return both


def _ours(backend: str) -> Callable[[Problem, str], Loss]:
    def build(problem: Problem, device: str) -> Loss:
        if backend not in BACKENDS:
            raise NotImplementedError("this build has no such backend")
        return lambda z: evaluate(problem.loss, z, backend)

    return build


def _per_logit(infonce: float, sigmoid: float) -> Callable[[Problem], float]:
    return lambda problem: (sigmoid if problem.loss == "sigmoid" else infonce) * problem.n**2


SOFTMAX, SIGMOID, BOTH = ("infonce",), ("sigmoid",), ("infonce", "sigmoid")
ALL = ("infonce", "each", "sigmoid")
OPEN_CLIP, METRIC_LEARNING = "open_clip_torch", "pytorch-metric-learning"

_LIST = (
    Provider("triton", _ours("triton"), ALL, devices=("cuda",)),
    Provider("chunked", _ours("chunked"), ALL),
    Provider("memeff", _memeff, SOFTMAX, "memeff", many=False, devices=("cuda",)),
    Provider("inf-cl", _inf_cl, SOFTMAX, "inf-cl", many=False, devices=("cuda",)),
    Provider("dense", _dense, BOTH, least=_per_logit(20, 12)),
    Provider("compile", _compiled, BOTH, least=_per_logit(8, 4)),
    Provider("open_clip", _open_clip, BOTH, OPEN_CLIP, many=False, least=_per_logit(4, 4)),
    Provider("open_clip chunked", _open_clip_chunked, SIGMOID, OPEN_CLIP, many=False, least=_per_logit(2, 2)),
    Provider("pml SupCon", _metric_learning("SupConLoss"), SOFTMAX, METRIC_LEARNING, least=_per_logit(20, 0)),
    Provider(
        "pml NTXent",
        _metric_learning("NTXentLoss"),
        SOFTMAX,
        METRIC_LEARNING,
        many=False,
        least=lambda problem: 25.0 * problem.n**3,
    ),
)
PROVIDERS = {provider.name: provider for provider in _LIST}
OURS = ("triton", "chunked")


def named(names: list[str]) -> list[Provider]:
    """Raises ValueError for a name that nobody has."""
    for name in names:
        if name not in PROVIDERS:
            raise ValueError(f"no provider is called {name!r}: choose among {', '.join(PROVIDERS)}")
    return [PROVIDERS[name] for name in names]


def why(error: BaseException) -> str:
    """Why there is no measurement, in one line."""
    if isinstance(error, ImportError):
        return f"{error.name or error} is not installed (pip install 'multimodal-workbench[bench]')"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = isinstance(error, NotImplementedError | MemoryError | ValueError)  # meant for people
    return (first if said and first else f"{type(error).__name__}: {first}")[:160]
