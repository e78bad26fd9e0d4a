"""A block of a recipe as a pydantic model, and its mistakes in plain words.

The trap: pydantic takes `true` for the number 1, and says `Input should be a valid dictionary or instance of Model`
where a person wants to read which key is wrong and what to write there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler  # pydantic 2.10 has it only there
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from workbench.errors import did_you_mean

COUNTED, MOST = {"layers", "depth", "heads", "blocks"}, 4096
"""keys of which as many modules are made one after the other, and the largest number of them"""
BLOCK = "expected a block of keys"
WORDS = {
    "model_type": BLOCK,
    "model_attributes_type": BLOCK,
    "dict_type": BLOCK,
    "string_type": "expected a text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "finite_number": "expected a finite number",
    "missing": "is missing",
}
"""{pydantic's type of error: what is said of it}; of others what pydantic says"""


class Section(BaseModel):
    """A block of a recipe: immutable, and an unknown key is an error that suggests the right one."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        arbitrary_types_allowed=True,
        populate_by_name=True,
        allow_inf_nan=False,
        alias_generator=lambda field: field.rstrip("_"),
    )
    synonyms: ClassVar[Mapping[str, str]] = {}
    """{what other programs call a key: its name here}, for suggestions"""

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            section = handler(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(cls.__name__, reraise_below(error, cls)) from None
        if isinstance(value, Mapping):
            cls._refuse_booleans(value, section)
        if lines := list(_uncountable(value)):
            raise ValidationError.from_exception_data(cls.__name__, lines)
        return section

    @classmethod
    def _refuse_booleans(cls, value: Mapping[str, object], section: Self) -> None:
        """Raises ValidationError where a number was made of true or false."""
        lines: list[InitErrorDetails] = []
        for name, field in cls.model_fields.items():
            key = field.alias if field.alias and field.alias in value else name
            if key in value and _boolean_became_number(value[key], getattr(section, name)):
                lines.append(InitErrorDetails(type=make_error("expected a number"), loc=(key,), input=value[key]))
        if lines:
            raise ValidationError.from_exception_data(cls.__name__, lines)


def _uncountable(value: object, at: tuple[str | int, ...] = ()) -> Iterator[InitErrorDetails]:
    """Find numbers of layers and the like that a build would count up to for hours, at any depth of a block."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            number = isinstance(item, int | float) and not isinstance(item, bool)
            if key in COUNTED and number and item > MOST:
                said = f"more than {MOST:,} {key}: no model has so many"
                yield InitErrorDetails(type=make_error(said), loc=(*at, str(key)), input=item)
            else:
                yield from _uncountable(item, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _uncountable(item, (*at, index))


def _boolean_became_number(given: object, read: object) -> bool:
    if isinstance(given, bool):
        return isinstance(read, int | float) and not isinstance(read, bool)
    if isinstance(given, Sequence) and isinstance(read, Sequence) and not isinstance(given, str):
        return len(given) == len(read) and any(map(_boolean_became_number, given, read))
    return False


def reraise_below(
    error: ValidationError, section: type[Section] | None = None, at: tuple[str, ...] = ()
) -> list[InitErrorDetails]:
    """Turn a caught error into lines that can be raised again below key `at`, in plain words.

    `section` is the block whose keys were read: a wrong key is compared with its fields.
    """
    return [
        InitErrorDetails(type=make_error(_say(line, section)), loc=(*at, *line["loc"]), input=line["input"])
        for line in error.errors()
    ]


def _say(line: ErrorDetails, section: type[Section] | None) -> str:
    kind, loc, given = line["type"], line["loc"], line["input"]
    if section is not None and len(loc) == 1 and kind in ("extra_forbidden", "missing"):
        key = str(loc[0])
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        if kind == "extra_forbidden":
            return f"unknown key '{key}'{did_you_mean(section.synonyms.get(key, key), fields)}"
        meaning = fields[key].description if key in fields else None
        return f"is missing{f': {meaning}' if meaning else ''}"
    said = WORDS.get(kind, line["msg"].removeprefix("Value error, "))
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"{said}: put it in quotes"
    return said


def make_error(message: str) -> PydanticCustomError:
    """Make an error that pydantic reports with this message, whatever braces are in it."""
    return PydanticCustomError("recipe", "{message}", {"message": message})


def make_error_at(loc: tuple[str, ...], message: str, value: object) -> ValidationError:
    """Make an error of one line for the key at `loc`, seen from the block that is being read."""
    line = InitErrorDetails(type=make_error(message), loc=loc, input=value)
    return ValidationError.from_exception_data(loc[-1], [line])


def from_preset(value: object, presets: Mapping[str, Mapping[str, object]], what: str) -> object:
    """Put a preset's keys below those that a block says itself; a bare name is short for `{name: NAME}`.

    Raises ValidationError for a name that no preset has; `what` is what the presets are of.
    """
    block = {"name": value} if isinstance(value, str) else value
    if not isinstance(block, dict) or "name" not in block:
        return block
    name = block["name"]
    if not isinstance(name, str) or name not in presets:
        raise make_error_at(("name",), f"no {what} '{name}'{did_you_mean(str(name), presets)}", name)
    return {**presets[name], **{key: item for key, item in block.items() if key != "name"}}
