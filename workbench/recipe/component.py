"""A component is one class in one file; its keyword-only arguments are its recipe.

    objective: {name: ito, lambda: 2}              # recipe
    class ITO(Terms):                              # workbench/objectives/ito.py
        def __init__(self, modalities, *, lambda_: NonNegativeFloat = 2.0): ...

Arguments before the `*` come from the build, arguments after it from the recipe: types, defaults and documentation are
read from the signature. `name` is the file's name, so adding a component is adding a file; `path.to.module:Class` or
`file.py:Class` takes one from the user's own code. A trailing underscore (`lambda_`) is Python's way of spelling a
keyword; the recipe writes `lambda`. `**more` hands keywords on to the class that a component inherits from: the recipe
has those, too, and they are declared and documented there.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from workbench.errors import RecipeError, did_you_mean

KINDS = {
    "encoder": "workbench.encoders",
    "fusion": "workbench.fusion",
    "objective": "workbench.objectives",
    "data": "workbench.data",
    "eval": "workbench.evals",
    "task": "synthetic",
}
"""{what a recipe calls it: the package that holds it}"""


def names(kind: str) -> list[str]:
    """Components of a kind, found without importing them: listing never pays for torch."""
    return sorted(_files(kind))


def _files(kind: str) -> dict[str, str]:
    """{name: file} of a kind. Tasks are written as in the literature: `xor_flip.py` is xor-flip, `and_.py` is and."""
    package = importlib.import_module(KINDS[kind])
    files = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and m.name[0] != "_"]
    return {file.rstrip("_").replace("_", "-") if kind == "task" else file: file for file in files}


def summary(kind: str, name: str) -> str:
    """First line of the documentation of a component's file, read without importing it."""
    spec = importlib.util.find_spec(f"{KINDS[kind]}.{_files(kind)[name]}")
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ")


@cache
def load(kind: str, name: str) -> type:
    """The class behind a name. Raises PydanticCustomError (a ValueError) that names what there is."""
    if ":" in name:
        return _load_from_user(kind, name)
    files = _files(kind)
    if name not in files:
        raise _error(f"no {kind} named '{name}'{did_you_mean(name, files)}")
    module = importlib.import_module(f"{KINDS[kind]}.{files[name]}")
    (component,) = (getattr(module, public) for public in module.__all__)
    return component


def _load_from_user(kind: str, name: str) -> type:
    path, _, attribute = name.rpartition(":")
    try:
        module = _module_from_file(Path(path)) if path.endswith(".py") else _module_from_path(path)
    except (ImportError, FileNotFoundError) as error:
        raise _error(f"{kind} '{name}': cannot import '{path}': {error}") from None
    component = getattr(module, attribute, None)
    if not inspect.isclass(component):
        classes = sorted(n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__)
        raise _error(f"{kind} '{name}': '{path}' has no class '{attribute}'{did_you_mean(attribute, classes)}")
    return component


def _module_from_path(path: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not see the current folder, a researcher expects it to
        sys.path.insert(0, here)
    return importlib.import_module(path)


def _module_from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.resolve()}")
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # data loader workers pickle classes by module name
    spec.loader.exec_module(module)
    return module


def _error(message: str) -> PydanticCustomError:
    return PydanticCustomError("component", "{message}", {"message": message})


def wrong_name(name: Any, message: str) -> ValidationError:
    """The error of a block's `name`: its line, as a bare word's, may be in another file than the block's keys."""
    line = InitErrorDetails(type=_error(message), loc=("name",), input=name)
    return ValidationError.from_exception_data("name", [line])


class Section(BaseModel):
    """A block of a recipe: immutable, and an unknown key is an error that suggests the right one."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        populate_by_name=True,
        alias_generator=lambda field: field.rstrip("_"),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_keys(cls, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            raise ValidationError.from_exception_data(cls.__name__, relay(error, known)) from None


def relay(error: ValidationError, known: list[str] | None = None, at: tuple[str, ...] = ()) -> list[InitErrorDetails]:
    """The lines of a caught error, to be raised again below key `at`, with a suggestion for a wrong key."""
    lines = []
    for line in error.errors():
        loc, message = line["loc"], line["msg"].removeprefix("Value error, ")
        if line["type"] == "extra_forbidden" and known is not None and len(loc) == 1:
            message = f"unknown key '{loc[0]}'{did_you_mean(str(loc[0]), known)}"
        lines.append(InitErrorDetails(type=_error(message), loc=(*at, *loc), input=line["input"]))
    return lines


@cache
def schema(component: type) -> type[Section]:
    """The pydantic model of a component's keyword-only arguments."""
    fields: dict[str, Any] = {}
    for owner in declarers(component):
        hints = get_type_hints(owner.__init__, include_extras=True)
        for p in inspect.signature(owner.__init__).parameters.values():
            if p.kind is p.KEYWORD_ONLY:
                fields.setdefault(p.name, (hints.get(p.name, Any), ... if p.default is p.empty else p.default))
    return create_model(component.__name__, __base__=Section, **fields)


def declarers(component: type) -> Iterator[type]:
    """The classes whose `__init__` declares a component's keywords: its own, and those that get its `**more`."""
    for owner in component.__mro__[:-1]:
        if "__init__" in vars(owner):
            yield owner
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(owner.__init__).parameters.values()):
                return


@dataclass(frozen=True)
class Spec:
    """A validated `{name: ..., key: value}` block, ready to build."""

    kind: str
    name: str
    settings: Section

    @property
    def is_own(self) -> bool:
        """Whether it comes from the user's own code, as file.py:Class."""
        return ":" in self.name

    def build(self, *args: Any) -> Any:
        """The component itself; `args` are what the build gives, the rest comes from the recipe.

        Raises RecipeError with the component's own words when it refuses them.
        """
        settings = {key: getattr(self.settings, key) for key in type(self.settings).model_fields}
        try:
            return load(self.kind, self.name)(*args, **settings)
        except ValueError as error:
            raise RecipeError(f"{self.kind} '{self.name}': {error}") from error

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings.model_dump(mode="json", by_alias=True)}


def validate(kind: str, value: Any, default_name: str | None = None) -> Spec:
    """`mlp` or `{name: mlp, width: 64}` -> Spec. Raises pydantic errors with the key inside the block."""
    if isinstance(value, Spec):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if value is None and default_name:  # `retrieval:` alone is an evaluator with its defaults
        value = {}
    if not isinstance(value, dict):
        raise _error(
            f"expected the name of a component of kind '{kind}' or a block with a name{did_you_mean('', names(kind))}"
        )
    name = value.get("name", default_name)
    if not isinstance(name, str):
        raise _error(f"this block needs a name{did_you_mean('', names(kind))}")
    settings = {key: item for key, item in value.items() if key != "name"}
    try:
        found = load(kind, name)
    except PydanticCustomError as error:
        raise wrong_name(name, error.message()) from None
    return Spec(kind, name, schema(found).model_validate(settings))


def component(kind: str, *, optional: bool = False) -> Any:
    """Annotation of a recipe field (or of another component's argument) that names a component of `kind`."""

    def read(value: Any, _: Any) -> Spec | None:
        return None if optional and value is None else validate(kind, value)

    write = PlainSerializer(lambda spec: spec and spec.as_dict())
    return Annotated[Any, WrapValidator(read), write, WithJsonSchema({"type": kind})]  # the type that `wb show` prints
