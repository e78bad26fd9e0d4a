"""Who is measured: dense torch, the field's packages, and the backends of `kernels`.

Peers are asked for the same number as everybody else: both directions, the textbook gradient, no rescaling. What they
cannot be asked for (several positives, a gradient of the scale) they are spared, not charged for.

Traps
- memeff's default gradient is rescaled (stable=True), and its temperature is a plain number without a gradient.
- inf-cl has one direction and folds the scale into the features; head_dim must be a power of two (256 is its default).
- sentence-transformers' cached loss has its scale as a plain number, and calls backward() itself.
- siglip-kernel takes log t; with several positives its fused_siglip_plus_loss weighs each by one over their number and
  divides by N^2, so that its work is that of the sigmoid loss here and its number is another.
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
from torch.nn.functional import logsigmoid, softplus

from kernels.bench.workload import SCALE, Inputs, Workload, evaluate
from kernels.dispatch import BACKENDS

if TYPE_CHECKING:
    from jaxtyping import Float

Loss = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Provider:
    """Describes an implementation of losses: how it is built, and what it can be asked for."""

    name: str
    build: Callable[[Workload, str], Loss]
    """(workload, device) -> its loss; imports the package, so that a missing one is an error here"""
    losses: tuple[str, ...]
    package: str | None = None
    """the distribution that has it"""
    many: bool = True
    """whether a row may have several positives"""
    devices: tuple[str, ...] = ("cpu", "cuda")
    same: Callable[[Workload], bool] = lambda workload: True
    """whether its number is the workload's, so that errors mean something"""
    least: Callable[[Workload], float] = lambda workload: 0.0
    """bytes without which it is not worth trying"""

    def covers(self, workload: Workload, device: str) -> bool:
        """Says whether it can be asked for this workload on this device."""
        return workload.loss in self.losses and (self.many or workload.positives == 1) and device in self.devices

    @property
    def version(self) -> str:
        """Returns the version of its package, "" where it has none."""
        return "" if self.package is None else metadata.version(self.package)


def dense_infonce(z: Inputs) -> Float[Tensor, ""]:
    """Computes InfoNCE with the mean over positives in both directions, as one would write it in torch."""
    S = z.scale * (z.x @ z.y.T).float()
    P = (z.ids[:, None] == z.ids).float()
    T = P / P.sum(1, keepdim=True)  # symmetric, as both sides have the same ids
    return -((T * S.log_softmax(1)).sum(1).mean() + (T * S.log_softmax(0)).sum(0).mean()) / 2


def dense_sigmoid(z: Inputs) -> Float[Tensor, ""]:
    """Computes the sigmoid loss as one would write it in torch."""
    sign = 2.0 * (z.ids[:, None] == z.ids) - 1.0
    return -logsigmoid(sign * (z.scale * (z.x @ z.y.T).float() + z.bias)).sum() / len(z.x)


def dense_each(z: Inputs) -> Float[Tensor, ""]:
    """Computes `each` of the rows, each positive alone against the row's negatives, as one would write it in torch."""
    S = z.scale * (z.x @ z.y.T).float()
    P = z.ids[:, None] == z.ids
    negatives = S.masked_fill(P, -torch.inf).logsumexp(1, keepdim=True)
    return (torch.where(P, softplus(negatives - S), 0.0).sum(1) / P.sum(1)).mean()


def _build_dense(workload: Workload, device: str) -> Loss:
    return {"infonce": dense_infonce, "sigmoid": dense_sigmoid, "each rows": dense_each}[workload.loss]


def _build_compiled(workload: Workload, device: str) -> Loss:
    # On the CPU it is compiled at a small size, so that the compiler's own memory is not the loss's.
    return torch.compile(_build_dense(workload, device), dynamic=device == "cpu")


def _build_open_clip(workload: Workload, device: str) -> Loss:
    module = import_module("open_clip.loss")
    clip, sigmoid = module.ClipLoss(), module.SigLipLoss()
    return _wrap_in_autocast(
        workload,
        device,
        lambda z: clip(z.x, z.y, z.scale) if workload.loss == "infonce" else sigmoid(z.x, z.y, z.scale, z.bias),
    )


def _build_open_clip_chunked(workload: Workload, device: str) -> Loss:
    SigLipLoss = import_module("open_clip.loss").SigLipLoss
    if "chunk_size" not in inspect.signature(SigLipLoss).parameters:
        raise NotImplementedError("this version's SigLipLoss has no chunk_size")
    loss = SigLipLoss(chunk_size=1024)
    return _wrap_in_autocast(workload, device, lambda z: loss(z.x, z.y, z.scale, z.bias))


def _wrap_in_autocast(workload: Workload, device: str, loss: Loss) -> Loss:
    """Wraps a loss as open_clip's training loop does: products in half precision, the softmax in float32."""

    def autocast(z: Inputs) -> Tensor:
        with torch.autocast(device, z.x.dtype, enabled=z.x.dtype != torch.float32):
            return loss(z)

    return autocast


def _make_metric_learning(name: str) -> Callable[[Workload, str], Loss]:
    def build(workload: Workload, device: str) -> Loss:
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


def _build_sentence_transformers(workload: Workload, device: str) -> Loss:
    module = import_module("sentence_transformers.sentence_transformer.losses")
    loss = module.CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),  # its encoder, which is not measured
        scale=SCALE,
        similarity_fct=lambda a, b: a @ b.T,
        mini_batch_size=512,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )

    def cached(z: Inputs) -> Tensor:
        # As in its own cache of gradients: each mini-batch of rows has its backward pass before the next begins
        value = loss.calculate_loss([[z.x], [z.y]], with_backward=torch.is_grad_enabled())
        return value.detach().requires_grad_()

    return cached


def _build_memeff(workload: Workload, device: str) -> Loss:
    loss = import_module("memeff").MemoryEfficientCLIPLoss(1 / SCALE, normalized_inputs=True, stable=False)
    return lambda z: loss(z.x, z.y)


def _build_inf_cl(workload: Workload, device: str) -> Loss:
    if workload.d % 256:
        raise NotImplementedError(f"D = {workload.d} is no multiple of its head_dim, 256")
    one = import_module("inf_cl").cal_inf_loss

    def both(z: Inputs) -> Tensor:
        # its own `scale` argument needs torch.distributed, and would round half-precision features once more
        return (one(z.x.float() * z.scale, z.y) + one(z.y.float() * z.scale, z.x)) / 2

    return both


def _build_siglip_kernel(workload: Workload, device: str) -> Loss:
    module = import_module("siglip_kernel")
    if workload.positives == 1:
        return lambda z: module.fused_siglip_loss(z.x, z.y, z.scale.log(), z.bias)
    num_groups = workload.n // workload.positives  # told, it does not wait for the host
    return lambda z: module.fused_siglip_plus_loss(z.x, z.y, z.scale.log(), z.bias, z.ids, z.ids, num_groups=num_groups)


def _make_ours(backend: str) -> Callable[[Workload, str], Loss]:
    def build(workload: Workload, device: str) -> Loss:
        if backend not in BACKENDS:
            raise NotImplementedError("this build has no such backend")
        return lambda z: evaluate(workload.loss, z, backend)

    return build


def _count_per_logit(infonce: float, sigmoid: float) -> Callable[[Workload], float]:
    return lambda workload: (sigmoid if workload.loss == "sigmoid" else infonce) * workload.n**2


SOFTMAX, SIGMOID, BOTH = ("infonce",), ("sigmoid",), ("infonce", "sigmoid")
DENSE = ("infonce", "sigmoid", "each rows")
ALL = ("infonce", "each", "sigmoid", "each rows")
OPEN_CLIP, METRIC_LEARNING = "open_clip_torch", "pytorch-metric-learning"

_LIST = (
    Provider("triton", _make_ours("triton"), ALL, devices=("cuda",)),
    Provider("chunked", _make_ours("chunked"), ALL),
    Provider("memeff", _build_memeff, SOFTMAX, "memeff", many=False, devices=("cuda",)),
    Provider(
        "siglip-kernel",
        _build_siglip_kernel,
        SIGMOID,
        "siglip-kernel",
        devices=("cuda",),
        same=lambda workload: workload.positives == 1,
    ),
    Provider("inf-cl", _build_inf_cl, SOFTMAX, "inf-cl", many=False, devices=("cuda",)),
    Provider("dense", _build_dense, DENSE, least=_count_per_logit(20, 12)),
    Provider("compile", _build_compiled, DENSE, least=_count_per_logit(8, 4)),
    Provider("open_clip", _build_open_clip, BOTH, OPEN_CLIP, many=False, least=_count_per_logit(4, 4)),
    Provider(
        "open_clip chunked", _build_open_clip_chunked, SIGMOID, OPEN_CLIP, many=False, least=_count_per_logit(2, 2)
    ),
    Provider("st cached", _build_sentence_transformers, SOFTMAX, "sentence-transformers", many=False),
    Provider(
        "pml SupCon", _make_metric_learning("SupConLoss"), SOFTMAX, METRIC_LEARNING, least=_count_per_logit(20, 0)
    ),
    Provider(
        "pml NTXent",
        _make_metric_learning("NTXentLoss"),
        SOFTMAX,
        METRIC_LEARNING,
        many=False,
        least=lambda workload: 25.0 * workload.n**3,
    ),
)
PROVIDERS = {provider.name: provider for provider in _LIST}
OURS = ("triton", "chunked")


def named(names: list[str]) -> list[Provider]:
    """Returns the providers of these names. Raises ValueError for a name that nobody has."""
    for name in names:
        if name not in PROVIDERS:
            raise ValueError(f"no provider is called {name!r}: choose among {', '.join(PROVIDERS)}")
    return [PROVIDERS[name] for name in names]


def why(error: BaseException) -> str:
    """Says in one line why there is no measurement."""
    if isinstance(error, ImportError):
        return f"{error.name or error} is not installed (pip install 'multimodal-workbench[bench]')"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = isinstance(error, NotImplementedError | MemoryError | ValueError)  # its text is meant for people
    return (first if said and first else f"{type(error).__name__}: {first}")[:160]
