"""How much memory the kernels may take for a chunk of dL/dS, the gradient with respect to the logits."""

_limit = 2**30


def set_scratch_limit(num_bytes: int) -> None:
    """Bounds the memory of a chunk of dL/dS on a CUDA device, 1 GiB by default.

    The loss and its gradients change by rounding only. Less memory makes more and smaller launches, which cost time
    below a few hundred MiB.
    Raises ValueError for less than 1 MiB.
    """
    global _limit
    if num_bytes < 2**20:
        raise ValueError(f"a scratch limit of {num_bytes} bytes holds no chunk: give at least {2**20} (1 MiB)")
    _limit = num_bytes


def scratch_limit() -> int:
    """Returns the bound in bytes."""
    return _limit
