"""The costs of a recipe as a table for people."""

from __future__ import annotations

from workbench.recipe.schema import Recipe
from workbench.runs.cost import PEAK, PROBE, UTILISATION, Cost


def print_cost(recipe: Recipe, found: Cost) -> None:
    """Print the costs of a recipe on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe.name}: one step on fake tensors", show_header=False)
    table.add_row("tried", f"forward, backward, AdamW; the objective on real rows of {PROBE} samples")
    table.add_row("parameters", f"{found.total_parameters / 1e6:.1f} M parameters")
    for name, count in found.parameters.items():
        frozen = found.frozen.get(name)
        table.add_row(f"  {name}", _millions(count) + (f", {_millions(frozen)} of them frozen" if frozen else ""))
    trainable = _millions(found.total_parameters - found.total_frozen)
    table.add_row("  together", f"{trainable} trainable, {_millions(found.total_frozen)} frozen")
    again = ", forward again for micro-batches" if found.samples_at_once < found.batch else ""
    flops = f"{found.flops_per_sample / 1e9:.1f} GFLOPs, forward and backward{again}, all views"
    table.add_row("FLOPs per sample", flops)
    table.add_row("memory, states", f"{found.state_bytes / 2**30:.2f} GiB: fp32 weights, gradients, AdamW moments")
    activations = f"{found.activation_bytes / 2**30:.2f} GiB: {found.samples_at_once_each} samples at once"
    table.add_row("memory, activations", f"{activations}, {found.activation_bytes_per_sample / 2**20:.1f} MiB each")
    embeddings = found.embedding_bytes_per_sample * found.batch / 2**30
    table.add_row(
        "memory, embeddings", f"{embeddings:.2f} GiB: all sides' rows of the batch of {found.batch}, and gradients"
    )
    states = f"states divided by {found.shares}" if found.shares > 1 else "with all states on each"
    gpus = "one GPU" if found.processes == 1 else f"{found.processes} GPUs"
    table.add_row("memory, a GPU", f"{found.memory_bytes / 2**30:.2f} GiB, {states}; the loss adds its chunks")
    if found.hours is not None and found.gpu_hours is not None and found.total_samples is not None:
        speed = f"{UTILISATION:.0%} of an H100's {PEAK / 1e12:.0f} TFLOP/s (dense bf16)"
        table.add_row("time", f"{found.hours:,.1f} hours on {gpus}, {found.gpu_hours:,.1f} GPU-hours")
        table.add_row("", f"for {found.total_samples:,.0f} samples at {speed}, never waiting for data or the network")
    else:
        table.add_row("time", "not known: the length of the data is not, and train.for is in epochs")
    Console().print(table)


def _millions(count: int) -> str:
    """Write a count in millions, or as it is where that would read as 0.00."""
    return f"{count / 1e6:.2f} M" if count >= 1e4 else f"{count}"
