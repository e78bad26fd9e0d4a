"""The most memory that a step holds at once, counted on tensors without values: nothing is allocated.

Every operation hands out tensors; their storages live until Python and autograd let go of them, on fake tensors at the
same moments as on real ones. So what a checkpointed block computes again, what autocast casts, and which activations
are gone before the last gradient is there, all counts as it happens.

The trap: memory that an operation takes and frees inside of itself is not seen, nor what an allocator cuts off.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside of a `with` block, as long as they live.

    `peak` is the most at once; `peak_besides` the most without gradients of parameters, which some trainings keep from
    step to step (DistributedDataParallel its buckets, micro-batches their sum). Of `known` nothing is counted.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], known: Iterable[Tensor]) -> None:
        super().__init__()
        self.parameters = [p for p in parameters if p.requires_grad]
        self.peak = self.peak_besides = 0
        self._live = self._gradients = 0
        # held here, so that no address is given to another storage while it stands for this one
        self._known = [x.untyped_storage() for x in (*self.parameters, *known)]
        self._seen: dict[int, weakref.ref[torch.UntypedStorage] | None] = {s._cdata: None for s in self._known}
        self._hooks = ExitStack()

    def __enter__(self) -> LiveMemory:
        for p in self.parameters:
            self._hooks.callback(p.register_post_accumulate_grad_hook(self._gradient_is_there).remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                self._meet(x.untyped_storage())
        self.peak = max(self.peak, self._live)
        self.peak_besides = max(self.peak_besides, self._live - self._gradients)
        return made

    def _meet(self, storage: torch.UntypedStorage) -> None:
        """Count a storage from now until it is freed; one that is known, or counted already, not again."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def leave(_: object) -> None:
            del self._seen[key]
            self._live -= size

        self._seen[key] = weakref.ref(storage, leave)
        self._live += size

    def _gradient_is_there(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._gradients += parameter.grad.untyped_storage().nbytes()
