"""Everything that knows there is more than one process.

Convention: every process returns `world` times its share of the loss, so that the mean over processes of losses and of
gradients is the single-process value. Objectives see the pool and never call torch.distributed themselves.

The trap: when one process fails, the others fail wherever they wait for it, in words that explain nothing.
`meeting` says RankLost or RankLate in their place, and what the process was waiting for.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from workbench.errors import RankLate, RankLost
from workbench.types import Pool, View, Views

TIMEOUT = 1800.0
LATE = ("timed out", "timeout")
LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "socket closed", "remote process")
"""what backends (gloo, NCCL, the store) say when another process does not come, or is gone"""
OTHERS = ("cuda error", "caught ")
"""how errors of a GPU and of data workers begin, which may use the same words"""


class Parallel:
    """This process's place among all: one process unless torchrun started several.

    `timeout`: seconds that one waits for another.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        cuda = torch.cuda.is_available()
        place = int(os.environ.get("LOCAL_RANK", 0))
        if cuda and place >= torch.cuda.device_count():
            raise ValueError(
                f"process {place} of this machine has no GPU of its own, it has {torch.cuda.device_count()}: start as "
                "many processes with --nproc"
            )
        self.timeout = timedelta(seconds=timeout)
        if "RANK" in os.environ and not dist.is_initialized():
            with meeting("the start of all"):
                dist.init_process_group("nccl" if cuda else "gloo", timeout=self.timeout)
        self.group: Any = dist.group.WORLD if dist.is_initialized() else None
        self.world = dist.get_world_size() if self.group else 1
        self.rank = dist.get_rank() if self.group else 0
        self.device = torch.device("cuda", place) if cuda else torch.device("cpu")
        self._averaged: set[nn.Parameter] = set()
        """by DistributedDataParallel"""
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
        mesh = init_device_mesh(self.device.type, (copies, self.world // copies), mesh_dim_names=names)
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before torch 2.14
        for name in names:  # new groups begin with the backend's own
            set_timeout(self.timeout, mesh.get_group(name))
        return mesh

    def pool(self, views: Views, ids: Tensor, step: int, seed: int) -> Pool:
        """All processes' rows, gathered with gradient."""
        if self.group is None:
            return Pool(views, ids, step=step, seed=seed)
        gathered = {
            side: View(_Gather.apply(view.z, self.group), _gather(view.valid, self.group))  # type: ignore[arg-type]
            for side, view in views.items()
        }
        return Pool(gathered, _gather(ids, self.group), self.rank * len(ids), self.group, step, seed, self.world)

    def replicated(self, module: nn.Module) -> nn.Module:
        """The module in torch's DistributedDataParallel: its gradients are averaged beside the backward pass.

        What had no gradient on any process has none after, or weight decay would move here what it leaves alone in
        one process.
        """
        trainable = [p for p in module.parameters() if p.requires_grad]
        if self.group is None or not trainable:
            return module
        self._averaged = set(trainable)
        # the option that follows it sends buffers at the start
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
        return DistributedDataParallel(
            module, find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False
        )

    def alone(self, module: nn.Module) -> AbstractContextManager[None]:
        """A block whose gradients stay with this process for now; they are averaged with those of a later one."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean over processes of the gradients that neither DistributedDataParallel nor FSDP averages, in one message a
        dtype; what had none on any process has none after."""
        if self.group is None:
            return
        trainable = [
            p for p in parameters if p.requires_grad and not isinstance(p, DTensor) and p not in self._averaged
        ]
        for dtype in dict.fromkeys(p.dtype for p in trainable):
            same = [p for p in trainable if p.dtype == dtype]
            missing = [p.grad is None for p in same]
            # a part that this process did not use still takes part in the sum, and says so
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in same]
            used = gradients[0].new_tensor(missing).logical_not().to(dtype)
            flat = torch.cat([used, *(g.flatten() for g in gradients)])
            with meeting("the sum of the gradients"):
                dist.all_reduce(flat, group=self.group)
            used, *means = flat.split([len(same), *(g.numel() for g in gradients)])
            anywhere = used.tolist() if any(missing) else [1.0] * len(same)  # waits for the device only where it must
            for p, g, mean, n in zip(same, gradients, means, anywhere, strict=True):
                if n:
                    p.grad = g.copy_((mean / self.world).view_as(g))

    def average(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean over processes of scalars."""
        if self.group is None:
            return values
        flat = torch.stack([x.detach().float().reshape(()) for x in values.values()])
        with meeting("the mean of the metrics"):
            dist.all_reduce(flat, group=self.group)
        return dict(zip(values, flat / self.world, strict=True))

    def any(self, flag: bool) -> bool:
        """True on every process when it is true on one."""
        if self.group is None:
            return flag
        shared = torch.tensor(float(flag), device=self.device)
        with meeting("the start of a step"):
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.group)
        return bool(shared)

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        """Every process's value, on every process: for what is rare and small. `what` names it to people."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world
        with meeting(what):
            dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self, what: str) -> None:
        """Until all are here; `what` the first one is doing, for people who have to wait in vain."""
        if self.group is not None:
            with meeting(what):
                dist.barrier(group=self.group)

    def explained(self, what: str = "the loss or the divided weights") -> AbstractContextManager[None]:
        """`meeting` for a block in which torch and the kernels gather and sum by themselves."""
        return meeting(what, self.timeout) if self.group is not None else nullcontext()

    def close(self) -> None:
        if self.group is not None:
            dist.destroy_process_group()


@contextmanager
def meeting(what: str, timeout: timedelta | None = None) -> Iterator[None]:
    """Raises RankLate or RankLost where a backend says in its own words that others did not come, or are gone.

    `timeout` is how long they were waited for, where the block does more than that.
    """
    began = time.monotonic()
    try:
        yield
    except (RankLate, RankLost):
        raise
    except RuntimeError as error:
        said = str(error).lower()
        if said.startswith(OTHERS):
            raise
        if any(word in said for word in LATE):
            waited = timeout.total_seconds() if timeout else time.monotonic() - began
            raise RankLate(
                f"waited {waited:.0f} s in vain for other processes, at {what}: one of them is stopped, "
                "stuck (a disk or network that hangs), or slower than parallel.timeout allows (an evaluation, a save, "
                "a compilation): raise it, or look at that process. The same command goes on from the last checkpoint"
            ) from error
        if any(word in said for word in LOST):
            raise RankLost(
                f"another process is gone, noticed at {what}: what it says is the reason; if it says nothing, it was "
                "killed, or the network failed. The same command goes on from the last checkpoint"
            ) from error
        raise


def _gather(x: Tensor, group: Any) -> Tensor:
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    with meeting("the gathering of the embeddings"):
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
        with meeting("the gradients of the embeddings"):
            dist.all_reduce(total, group=ctx.group)
        begin = dist.get_rank(ctx.group) * ctx.rows
        return total[begin : begin + ctx.rows], None
