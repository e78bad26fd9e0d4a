"""Everything that knows there is more than one process.

Convention: every process returns `world` times its share of the loss, so that the mean over processes, of losses and of
gradients alike, is the value that a single process would have. Objectives see the pool of all rows and never call
torch.distributed themselves.

The trap: when one process fails, the others fail wherever they wait for it, in words that explain nothing. `meeting`
raises RankLost or RankLate instead, and names what the process was waiting for.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from workbench.distributed.dtensor import is_dtensor
from workbench.errors import RankLate, RankLost
from workbench.types import Pool, View, Views

T = TypeVar("T")
TIMEOUT = 1800.0
"""seconds that one process waits for another, unless the recipe says otherwise"""
LATE = ("timed out", "timeout")
LOST = ("connection closed", "connection reset", "broken pipe", "connection refused", "socket closed", "remote process")
"""what backends (gloo, NCCL, the store) say when another process does not come, or is gone"""
OTHERS = ("cuda error", "caught ")
"""how errors of a GPU and of data workers begin, which may use the same words"""


def device() -> torch.device:
    """The device of this process: its GPU, or the CPU where there is none. Raises ValueError where it has no GPU left.

    Asking changes nothing: neither is a process group joined nor a CUDA context made.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK", 0))
    if place >= torch.cuda.device_count():
        raise ValueError(
            f"process {place} of this machine has no GPU of its own, it has {torch.cuda.device_count()}: start as "
            "many processes with --nproc"
        )
    return torch.device("cuda", place)


class Parallel:
    """This process's place among all that train one run: the only one, unless it has `join`ed others.

    Args:
        group: the processes that train together; None for a process by itself.
        timeout: seconds that one of them waits for another.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, timeout: float = TIMEOUT) -> None:
        self.group, self.timeout = group, timedelta(seconds=timeout)
        self.device = device()
        self.world = dist.get_world_size(group) if group else 1
        self.rank = dist.get_rank(group) if group else 0
        self._averaged_by_ddp: set[nn.Parameter] = set()

    @staticmethod
    def join(timeout: float = TIMEOUT) -> Parallel:
        """Meet the processes that torchrun, or `--nproc`, started with this one; without them, be one by itself.

        Raises ValueError when the environment promises others that cannot be found, RankLate or RankLost when they do
        not come.
        """
        if not dist.is_initialized():
            if "RANK" not in os.environ:
                refuse_lonely_tasks()
                return Parallel(timeout=timeout)
            if missing := [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
                raise ValueError(
                    f"RANK={os.environ['RANK']} is set without {', '.join(missing)}, so the other processes cannot "
                    "be found: start them with `wb pretrain --nproc N` or torchrun, or unset RANK to train in one"
                )
            place = device()
            if place.type == "cuda":
                torch.cuda.set_device(place)  # NCCL and `.cuda()` take the current device
            with meeting("the start of all"):
                backend = "nccl" if place.type == "cuda" else "gloo"
                dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        return Parallel(dist.group.WORLD, timeout)

    def mesh(self, copies: int = 1) -> DeviceMesh:
        """The processes that weights are divided over: all, or for several copies of the model those of each copy.

        Raises ValueError when the processes cannot be dealt out evenly to the copies, or there is only one.
        """
        if self.world == 1 or self.world % copies or self.world == copies:
            raise ValueError(
                f"parallel: {copies} {'copy' if copies == 1 else 'copies'} of a model divided over several processes "
                f"cannot be had of {self.world}: start a multiple with --nproc, or set parallel.strategy=ddp"
            )
        if copies == 1:
            return init_device_mesh(self.device.type, (self.world,))
        names = ("copies", "shards")
        mesh = init_device_mesh(self.device.type, (copies, self.world // copies), mesh_dim_names=names)
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before torch 2.14
        for name in names:  # a new group starts with the backend's own timeout, not with ours
            set_timeout(self.timeout, mesh.get_group(name))
        return mesh

    def pool(self, views: Views, ids: Tensor, step: int, seed: int) -> Pool:
        """Gather the rows of all processes, with gradient, for the objective to contrast this process's rows with.

        ids: this process's sample ids [b]; the same number of rows on every process.
        """
        if self.group is None:
            return Pool(views, ids, step=step, seed=seed)
        gathered = {
            side: View(_Gather.apply(view.z, self.group), _gather(view.valid, self.group))  # type: ignore[arg-type]
            for side, view in views.items()
        }
        return Pool(gathered, _gather(ids, self.group), self.rank * len(ids), self.group, step, seed, self.world)

    def wrap_in_ddp(self, module: nn.Module) -> nn.Module:
        """Wrap the module in DistributedDataParallel, which averages gradients while the backward pass still runs.

        Parameters that no process used keep no gradient (`find_unused_parameters`): a zero gradient would let weight
        decay and AdamW's moments move here what they leave alone in a single process.
        """
        trainable = [p for p in module.parameters() if p.requires_grad]
        if self.group is None or not trainable:  # torch refuses to wrap a module without any
            return module
        self._averaged_by_ddp = set(trainable)
        with warnings.catch_warnings():
            # torch 2.14 would have us pass the option that replaces this one, which sends all buffers at the start
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            return DistributedDataParallel(
                module, find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False
            )

    def without_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Let the gradients of a block stay with this process: DDP averages them with those of a later backward."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average over processes the gradients that neither DDP nor FSDP averages: the objective's scale and bias, and
        what a callback has unfrozen since DDP was told what to average.

        One message for each dtype. A parameter that no process used has no gradient afterwards, as after DDP.
        """
        if self.group is None:
            return
        trainable = [p for p in parameters if p.requires_grad and not is_dtensor(p) and p not in self._averaged_by_ddp]
        for dtype in dict.fromkeys(p.dtype for p in trainable):
            same = [p for p in trainable if p.dtype == dtype]
            missing = [p.grad is None for p in same]
            # every process has to send as many numbers: without a gradient it sends zeros, and a flag that says so
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in same]
            used = gradients[0].new_tensor(missing).logical_not().to(dtype)
            flat = torch.cat([used, *(g.flatten() for g in gradients)])
            with meeting("the sum of the gradients"):
                dist.all_reduce(flat, group=self.group)
            used, *sums = flat.split([len(same), *(g.numel() for g in gradients)])
            # a process that used everything knows the answer; reading the sum would wait for the device
            users = used.tolist() if any(missing) else [1.0] * len(same)
            for p, g, total, number in zip(same, gradients, sums, users, strict=True):
                if number:
                    p.grad = g.copy_((total / self.world).view_as(g))

    def average(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average scalars over processes."""
        if self.group is None:
            return values
        flat = torch.stack([x.detach().float().reshape(()) for x in values.values()])
        with meeting("the mean of the metrics"):
            dist.all_reduce(flat, group=self.group)
        return dict(zip(values, flat / self.world, strict=True))

    def any(self, flag: bool) -> bool:
        """Return True on every process when `flag` is true on at least one."""
        if self.group is None:
            return flag
        shared = torch.tensor(float(flag), device=self.device)
        with meeting("the start of a step"):
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.group)
        return bool(shared)

    def gather_objects(self, value: T, what: str) -> list[T]:
        """Return every process's value, in the order of ranks: for rare and small ones, as they are pickled.

        `what` names the occasion to people who wait for it in vain.
        """
        if self.group is None:
            return [value]
        values: list[T] = [value] * self.world
        with meeting(what):
            dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self, what: str) -> None:
        """Wait until every process is here. `what` names the occasion to people who wait for it in vain."""
        if self.group is not None:
            with meeting(what):
                dist.barrier(group=self.group)

    def explained(self, what: str = "the loss or the divided weights") -> AbstractContextManager[None]:
        """Explain failures of a block as `meeting` does: in it torch and the kernels gather and sum by themselves."""
        return meeting(what, self.timeout) if self.group is not None else nullcontext()

    def leave(self) -> None:
        """Leave the process group. Not after an error: the others would have to take part, and do not come any more."""
        if self.group is not None:
            dist.destroy_process_group()


@contextmanager
def meeting(what: str, timeout: timedelta | None = None) -> Iterator[None]:
    """Raise RankLate or RankLost when a backend says in its own words that others did not come, or are gone.

    Backends raise plain RuntimeErrors, so their words are all there is to go by. `timeout` is how long the others were
    waited for, in a block that does more than wait; without it the time since its beginning is said.
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


def refuse_lonely_tasks() -> None:
    """Raise ValueError where srun started several tasks of one command, none of which knows of the others.

    Each would train the whole recipe by itself. In a batch script outside of srun, Slurm's variables look alike but for
    the number of tasks of the step, so only what is certain is refused.
    """
    number, tasks = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if number > 0 or tasks > 1:
        raise ValueError(
            f"this is task {number} of {os.environ.get('SLURM_NTASKS', tasks)} that srun started, and none of them "
            "knows of the others: start one task a node, and in it `wb pretrain --nproc N` or torchrun"
        )


def _gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Concatenate x of all processes in the order of ranks, without gradient."""
    rows = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    with meeting("the gathering of the embeddings"):
        dist.all_gather(rows, x.contiguous(), group=group)
    return torch.cat(rows)


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes; the gradient of a row is the sum of what each process says about it.

    `torch.distributed.all_gather` has no gradient. The sum is right because each process's loss is its own function of
    all rows, and what is optimised is the mean of these losses.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.rows = group, len(x)
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        total = upstream[0].clone()
        with meeting("the gradients of the embeddings"):
            dist.all_reduce(total, group=ctx.group)
        begin = dist.get_rank(ctx.group) * ctx.rows
        return total[begin : begin + ctx.rows], None
