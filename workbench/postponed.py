"""Imports libraries without what they import themselves and are hardly ever asked for here: seconds of every start.

    with postponed("transformers"):
        import open_clip               # transformers is imported when open_clip first uses it, if ever

Inside of the block imports find stand-ins, which import the real thing when they are used. Where a library needs it
there and then, everything goes on with the real modules. torch's compiler is left out, too, where a library tells it to
leave a function alone: saying so imports the compiler.

The trap: a stand-in is no class. A library that derives a class from one gets an error.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from kernels.registration import hide_from_compiler

OF_TORCHVISION = (
    "torch._dynamo.utils", "torchvision.datasets", "torchvision.models", "torchvision.models.feature_extraction"
)  # fmt: skip
"""torchvision imports torch's compiler to ask, in an operator that nobody here uses, whether there is one; and models
and data sets of its own, as timm does, which are a hundred modules"""
OF_OPEN_CLIP = (
    *OF_TORCHVISION, "open_clip.push_to_hf_hub", "timm", "timm.layers",
    "transformers", "transformers.modeling_outputs", "transformers.generation",
)  # fmt: skip
"""open_clip imports timm for its trunks, transformers, where it is installed, for towers of Hugging Face, and what
publishes a model there"""
disable = torch.compiler.disable


class Later(ModuleType):
    """Stands for a module, or for something in it; imports the module when it is called or asked for a value."""

    def __init__(self, module: str, name: str = "") -> None:
        super().__init__(name or module)
        self._module, self._name = module, name

    def _resolve(self) -> Any:
        _drop_stand_ins()
        module = import_module(self._module)
        return getattr(module, self._name) if self._name else module

    def __getattr__(self, name: str) -> Any:
        if self._name or sys.modules.get(self._module) is not self:
            return getattr(self._resolve(), name)
        # still in the block: a library takes things by name, and `inspect` asks every module for its file
        if name.startswith("__"):
            raise AttributeError(name)
        return Later(self._module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._resolve()(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._resolve())


class _Finder:
    """Notices that more of a package is imported than what is postponed, and makes way for all of it."""

    def __init__(self, stand_ins: Collection[str]) -> None:
        self.stand_ins = stand_ins

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        # not a search of sys.modules: this is asked a thousand times, of thousands. A whole library whose parts are
        # postponed is what the block is for; an inner package takes its parts by name to work with them at once
        inner = "." in name
        related = (m for m in self.stand_ins if (inner and m.startswith(f"{name}.")) or name.startswith(f"{m}."))
        if any(isinstance(sys.modules.get(module), Later) for module in related):
            _drop_stand_ins()
            return find_spec(name)
        return None


def _drop_stand_ins() -> None:
    for name, module in list(sys.modules.items()):
        if isinstance(module, Later):
            del sys.modules[name]


def _disable_later(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Do as torch.compiler.disable does, but for the compiler's import."""
    if not callable(fn) or args or kwargs:
        return disable(fn, *args, **kwargs)
    hidden = hide_from_compiler(fn)
    hidden._torchdynamo_disable = True  # pyright: ignore[reportFunctionMemberAccess] how the compiler knows such a function
    return hidden


@contextmanager
def postponed(*modules: str) -> Iterator[None]:
    """Put stand-ins into the place of these modules, where they are installed and not imported yet."""
    # of an inner module only the package is looked for: to look inside would import the package
    stand_ins = {m: Later(m) for m in modules if m not in sys.modules and find_spec(m.partition(".")[0])}
    finder = _Finder(stand_ins)
    sys.modules.update(stand_ins)
    sys.meta_path.insert(0, finder)
    torch.compiler.disable = _disable_later
    try:
        yield
    finally:
        torch.compiler.disable = disable
        sys.meta_path.remove(finder)
        _drop_stand_ins()
