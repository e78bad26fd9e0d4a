"""The Multimodal Workbench: write an alignment objective or a fusion module once, run it from XOR to pretraining.

`workbench.load(RUN)` gives a trained dual encoder; `workbench.train(RECIPE)` and `workbench.sweep(SWEEP)` do what
`wb pretrain` and `wb sweep` do, and return what these print. Everything else is reached through the `wb` command.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.runs.inference import load
    from workbench.studies.calls import sweep, train

__version__ = "0.2.0"
__all__ = ["__version__", "load", "sweep", "train"]


def __getattr__(name: str) -> object:
    # imported on demand: `wb --help` must not pay for torch
    if name == "load":
        from workbench.runs.inference import load

        return load
    if name in ("train", "sweep"):
        from workbench.studies import calls

        return getattr(calls, name)
    raise AttributeError(f"module 'workbench' has no attribute '{name}'")
