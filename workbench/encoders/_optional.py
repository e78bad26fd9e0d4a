"""Packages that only some encoders need: they are extras, imported when such an encoder is built."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch


def require(package: str, extra: str) -> ModuleType:
    """Import a package. Raises ValueError that says which extra has it, where it is not installed."""
    try:
        # what `wb check` builds has no numbers, but a constant of a package that is imported meanwhile stays for good
        with torch.device("cpu"):
            return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"it needs the package {package} ({error}): pip install 'multimodal-workbench[{extra}]'"
        ) from None
