"""Everything that knows there is more than one process.

Convention: every process returns `world` times its share of the loss, so that the mean over processes of losses and of
gradients is the single-process value. Objectives see the pool and never call torch.distributed themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from workbench.types import Pool, View, Views


class Parallel:
    """This process's place among all: one process unless torchrun started several."""

    def __init__(self) -> None:
        cuda = torch.cuda.is_available()
        if "RANK" in os.environ and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        self.group: Any = dist.group.WORLD if dist.is_initialized() else None
        self.world = dist.get_world_size() if self.group else 1
        self.rank = dist.get_rank() if self.group else 0
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)

    def mesh(self, copies: int = 1) -> DeviceMesh:
        """Processes that weights are divided over: all, or those of each of so many copies of the model. Raises
        ValueError when the copies do not come out even, or there is one process."""
        if self.world == 1 or self.world % copies or self.world == copies:
            raise ValueError(
                f"parallel: {copies} {'copy' if copies == 1 else 'copies'} of a model divided over several processes "
                f"cannot be had of {self.world}: start a multiple with --nproc, or set parallel.strategy=ddp"
            )
        if copies == 1:
            return init_device_mesh(self.device.type, (self.world,))
        names = ("copies", "shares")
        return init_device_mesh(self.device.type, (copies, self.world // copies), mesh_dim_names=names)

    def pool(self, views: Views, ids: Tensor, step: int, seed: int) -> Pool:
        """All processes' rows, gathered with gradient."""
        if self.group is None:
            return Pool(views, ids, step=step, seed=seed)
        gathered = {
            side: View(_Gather.apply(view.z, self.group), _gather(view.valid, self.group))  # type: ignore[arg-type]
            for side, view in views.items()
        }
        return Pool(gathered, _gather(ids, self.group), self.rank * len(ids), self.group, step, seed)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Mean over processes of every gradient, in one message a dtype."""
        if self.group is None:
            return
        with_gradient = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]  # FSDP's are averaged
        for p in with_gradient:  # a part that this process did not use still takes part in the sum
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for dtype in {p.dtype for p in with_gradient}:
            gradients = [p.grad for p in with_gradient if p.dtype == dtype and p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat, group=self.group)
            for g, mean in zip(gradients, (flat / self.world).split([g.numel() for g in gradients]), strict=True):
                g.copy_(mean.view_as(g))

    def average(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean over processes of scalars."""
        if self.group is None:
            return values
        flat = torch.stack([x.detach().float().reshape(()) for x in values.values()])
        dist.all_reduce(flat, group=self.group)
        return dict(zip(values, flat / self.world, strict=True))

    def any(self, flag: bool) -> bool:
        """True on every process when it is true on one."""
        if self.group is None:
            return flag
        shared = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.group)
        return bool(shared)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's value, on every process: for what is rare and small."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        if self.group is not None:
            dist.barrier(group=self.group)

    def close(self) -> None:
        if self.group is not None:
            dist.destroy_process_group()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same value with `factor` times the gradient."""
    return x if factor == 1 else x * factor - (x * (factor - 1)).detach()


def _gather(x: Tensor, group: Any) -> Tensor:
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, x.contiguous(), group=group)
    return torch.cat(rows)


class _Gather(torch.autograd.Function):
    """All processes' rows; the gradient of a row is the sum over processes of what each says about it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.rows = group, len(x)
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        total = upstream[0].clone()
        dist.all_reduce(total, group=ctx.group)
        begin = dist.get_rank(ctx.group) * ctx.rows
        return total[begin : begin + ctx.rows], None
