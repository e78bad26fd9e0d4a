"""A component is one class in one file; its keyword-only arguments are its recipe.

    objective: {name: ito, lambda: 2}              # recipe
    class ITO(Terms):                              # workbench/objectives/ito.py
        def __init__(self, modalities, *, lambda_: NonNegativeFloat = 2.0): ...

Arguments before the `*` come from the build, arguments after it from the recipe: types, defaults and documentation are
read from the signature. `name` is the file's name, so adding a component is adding a file; `path.to.module:Class` or
`file.py:Class` takes one from the user's own code. A trailing underscore (`lambda_`) is Python's way of spelling a
keyword; the recipe writes `lambda`. `**more` hands keywords on to the class that a component inherits from: the recipe
has those, too, and they are declared and documented there.

The trap: nothing here may import torch, or `wb ls objective` would wait for it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PydanticUserError, create_model
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from workbench.errors import RecipeError, did_you_mean
from workbench.recipe.kept_code import KeptName
from workbench.recipe.renamed import rename
from workbench.recipe.section import Section, make_error, make_error_at

Built = TypeVar("Built", covariant=True)

KINDS = {
    "encoder": "workbench.encoders",
    "fusion": "workbench.fusion",
    "objective": "workbench.objectives",
    "data": "workbench.data",
    "eval": "workbench.evals",
    "callback": "workbench.callbacks.optional",
    "task": "synthetic",
}
"""{what a recipe calls it: the package that holds it}"""
NOUNS = {"fusion": "fusion module", "data": "data set", "eval": "evaluator"}
"""{kind: what a sentence calls it, where that is another word}"""
METHODS = {
    "encoder": ("forward", "transform"),
    "fusion": ("forward",),
    "objective": ("forward",),
    "data": ("batches",),
    "eval": ("run",),
    "callback": (),
    "task": ("sample", "observe", "truth"),
}
"""{kind: what a class of one's own must at least have, so that a wrong one is told by name}"""
HOOKS = ("on_start", "on_gradients", "on_step", "on_end", "on_exit")
"""the times at which a run calls a callback, of which it must hear one"""


def names(kind: str) -> list[str]:
    """List the components of a kind without importing them: listing never pays for torch."""
    return sorted(_files(kind))


def _files(kind: str) -> dict[str, str]:
    """Find {name: file} of a kind. Tasks are written as in the literature: `xor_flip.py` is xor-flip, `and_.py` is
    and."""
    package = importlib.import_module(KINDS[kind])
    files = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and m.name[0] != "_"]
    return {file.rstrip("_").replace("_", "-") if kind == "task" else file: file for file in files}


def summary(kind: str, name: str) -> str:
    """Read the first line of the documentation of a component's file, without importing it."""
    spec = importlib.util.find_spec(f"{KINDS[kind]}.{_files(kind)[name]}")
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def load(kind: str, name: str) -> type:
    """Return the class behind a name. Raises PydanticCustomError (a ValueError) that names what there is."""
    if isinstance(name, KeptName):
        module, _, attribute = name.rpartition(":")
        return _load_own(kind, f"{name.copy}:{attribute}", Path.cwd(), "" if module.endswith(".py") else module)
    if ":" in name:
        return _load_own(kind, name, Path.cwd())
    return _load_shipped(kind, name)


@cache
def _load_shipped(kind: str, name: str) -> type:
    files = _files(kind)
    if name not in files:
        raise make_error(f"no {kind} named '{name}'{did_you_mean(name, files)}")
    module = importlib.import_module(f"{KINDS[kind]}.{files[name]}")
    (component,) = (getattr(module, public) for public in module.__all__)
    return component


@cache
def _load_own(kind: str, name: str, here: Path, kept_module: str = "") -> type:
    """Import the user's own class, seen from the folder `here`. What their code raises becomes one message with its
    line. Where `name` has a run's copy of a module, `kept_module` is the module's name.

    Loaded once: a class that is loaded again is another class, which no worker process could unpickle.
    """
    path, _, attribute = name.rpartition(":")
    if not path or not attribute or (path.startswith(".") and not path.endswith(".py")):
        raise make_error(f"{kind} '{name}': write file.py:Class, or path.to.module:Class")
    try:
        if kept_module:
            module = _kept_module(kept_module, Path(path))
        else:
            module = _module_from_file(Path(path)) if path.endswith(".py") else _module_from_path(path)
    except (Exception, SystemExit) as error:
        kept = kept_module or (path.endswith(".py") and _is_kept(Path(path)))
        remedy = f"; it is the run's copy: remove {path}, and the original is used" if kept else ""
        raise make_error(f"{kind} '{name}': cannot import '{path}': {_say(error)}{remedy}") from error
    component = getattr(module, attribute, None)
    if not inspect.isclass(component):
        classes = sorted(n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__)
        raise make_error(f"{kind} '{name}': '{path}' has no class '{attribute}'{did_you_mean(attribute, classes)}")
    return component


def _say(error: BaseException) -> str:
    """Say an error of the user's code, with the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    if isinstance(error, ModuleNotFoundError | FileNotFoundError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def _module_from_path(path: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not see the current folder, a researcher expects it to
        sys.path.insert(0, here)
    return importlib.import_module(path)


def _kept_module(name: str, copy: Path) -> ModuleType:
    """Import a run's copy of a module under the module's own name, so that its package is the copied one, too."""
    root = copy.parents[name.count(".") + (copy.name == "__init__.py")]
    with _beside_first(root):
        module = importlib.import_module(name)
    if module.__file__ != str(copy):
        raise ImportError(f"'{name}' is {module.__file__}, and not the copy")
    return module


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.resolve()}: if it has moved, write its new place there")
    whole = path.resolve()
    # two files of one name are two modules: data workers pickle classes by the name of their module
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}_{zlib.crc32(str(whole).encode()):08x}", whole)
    assert spec is not None
    assert spec.loader is not None
    if str(whole.parent) not in sys.path:  # last: what lies beside the file is found, and hides nothing
        sys.path.append(str(whole.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with _beside_first(whole.parent) if _is_kept(whole) else nullcontext():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _is_kept(file: Path) -> bool:
    """Tell whether a file is a run's copy: RUN/code/FOLDER/file.py."""
    return len(file.parents) > 2 and file.parents[1].name == "code" and (file.parents[2] / "code.json").is_file()


@contextmanager
def _beside_first(folder: Path) -> Iterator[None]:
    """Let a run's copy import the copies beside it, even where what they were copied from can be imported, too.

    No bytecode is written: a run's folder holds what a training puts there, and may be read-only.
    """
    copied = {file.stem for file in folder.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in copied]:
        if not str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{folder}/"):
            del sys.modules[name]
    importlib.invalidate_caches()  # the copies may have been written a moment ago
    writes_nothing, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes_nothing


@cache
def schema(component: type) -> type[Section]:
    """Make the pydantic model of a component's keyword-only arguments. Raises what pydantic does for a wrong type."""
    fields: dict[str, Any] = {}
    for owner in declarers(component):
        hints = get_type_hints(owner.__init__, include_extras=True)
        for p in inspect.signature(owner.__init__).parameters.values():
            if p.kind is p.KEYWORD_ONLY:
                fields.setdefault(p.name, (hints.get(p.name, Any), ... if p.default is p.empty else p.default))
    return create_model(component.__name__, __base__=Section, **fields)


def declarers(component: type) -> Iterator[type]:
    """Find the classes whose `__init__` declares a component's keywords: its own, and those that get its `**more`."""
    for owner in component.__mro__[:-1]:
        if "__init__" in vars(owner):
            yield owner
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(owner.__init__).parameters.values()):
                return


@dataclass(frozen=True)
class Spec(Generic[Built]):
    """A validated block `{name: ..., key: value}` of a recipe, which can build the component that it describes."""

    kind: str
    name: str
    settings: Section

    @property
    def is_own(self) -> bool:
        """True where the class is the user's own, from outside of the workbench."""
        return ":" in self.name

    def build(self, *args: object) -> Built:
        """Construct the component: `args` are what the build gives, everything else comes from the recipe.

        Raises RecipeError with the component's own words when it refuses them.
        """
        settings = {key: getattr(self.settings, key) for key in type(self.settings).model_fields}
        component = load(self.kind, self.name)
        try:
            inspect.signature(component).bind(*args, **settings)
        except TypeError as error:
            raise RecipeError(f"{self.kind} '{self.name}': its class cannot be built so: {error}") from None
        try:
            return component(*args, **settings)
        except ValueError as error:
            raise RecipeError(f"{self.kind} '{self.name}': {error}") from error

    def as_dict(self) -> dict[str, object]:
        """Write the block out with every default, and with the absolute path of a file of one's own."""
        path, _, attribute = self.name.rpartition(":")
        name = f"{Path(path).resolve()}:{attribute}" if path.endswith(".py") else self.name
        return {"name": name, **self.settings.model_dump(mode="json", by_alias=True)}


def validate(kind: str, value: object, default_name: str | None = None) -> Spec[object]:
    """Read `mlp` or `{name: mlp, width: 64}`. Raises pydantic errors with the key inside of the block."""
    if isinstance(value, Spec):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        noun = NOUNS.get(kind, kind)
        raise make_error(f"expected the name of one {noun}, or a block with a name{did_you_mean('', names(kind))}")
    name = value.get("name", default_name)
    if not isinstance(name, str):
        raise make_error(f"this block needs a name{did_you_mean('', names(kind))}")
    settings = {key: item for key, item in value.items() if key != "name"}
    if renamed := rename(kind, {"name": name, **settings}):
        now, said = renamed
        old = next(key for key in settings if key not in now)
        raise make_error_at((old,), said, settings[old])
    try:
        found = schema(load(kind, name))
    except PydanticCustomError as error:
        # the line of `name`, as of a bare word, may be in another file than the block's keys
        raise make_error_at(("name",), error.message(), name) from None
    except (ValueError, TypeError, NameError, PydanticUserError) as error:
        raise make_error_at(("name",), f"the arguments of its class cannot be checked: {error}", name) from error
    return Spec(kind, name, found.model_validate(settings))


def refuse_other_class(spec: Spec[object]) -> Spec[object]:
    """Return the block as it is; raises pydantic errors for a class of one's own that lacks what its kind must have."""
    component = load(spec.kind, spec.name)
    absent = [method for method in METHODS[spec.kind] if not callable(getattr(component, method, None))]
    if absent:
        said = f"{spec.kind} '{spec.name}': the class has no method '{absent[0]}', so it is no {spec.kind}"
        raise make_error_at(("name",), said, spec.name)
    if spec.kind == "callback" and not any(_is_written(component, hook) for hook in HOOKS):
        own = [name for name in dir(component) if name.startswith("on_") and name not in HOOKS]
        guess = did_you_mean(own[0] if own else "", HOOKS)
        said = f"callback '{spec.name}': the class has no method that a run calls{guess}"
        raise make_error_at(("name",), said, spec.name)
    return spec


def _is_written(component: type, hook: str) -> bool:
    """Tell a hook that a class writes from those of the engine's Callback, which do nothing."""
    method = getattr(component, hook, None)
    return callable(method) and getattr(method, "__module__", "") != "workbench.engine"


@dataclass(frozen=True)
class Component:
    """Marks a recipe field whose value names a component: `Annotated[Spec[Encoder], Component("encoder")]`."""

    kind: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(Spec.as_dict)
        return core_schema.no_info_plain_validator_function(self.read, serialization=write)

    def __get_pydantic_json_schema__(self, found: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, object]:
        return {"type": self.kind}  # what `wb show` prints as the type

    def read(self, value: object) -> Spec[object]:
        """Validate a field's value. Raises pydantic errors."""
        return refuse_other_class(validate(self.kind, value))
