"""The Multimodal Workbench: write an alignment objective or a fusion module once, run it from XOR to pretraining.

`workbench.load(RUN)` gives a trained dual encoder; everything else is reached through the `wb` command.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.runs.inference import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imported on demand: `wb --help` must not pay for torch
        from workbench.runs.inference import load

        return load
    raise AttributeError(f"module 'workbench' has no attribute '{name}'")
