"""Fields: the named parts of a sample, and what is made of the cells that hold them. One class for each kind.

    fields: {image: {from: poster}, speech: {kind: audio, from: wav, seconds: 4}}

A field whose name is that of a kind need not say its kind. What a field reads are raw items, as an encoder's transform
gets them: PIL images, texts, sounds, float32 vectors [d] and sequences [l, d].

The trap: an empty cell is no bad one. It makes a list of no items, and the sample lacks that modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PositiveFloat, PositiveInt, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema
from torch import Tensor, nn

from workbench.errors import did_you_mean
from workbench.loading.captions import clean, flat
from workbench.loading.cells import first_file, is_empty, read_encoded
from workbench.loading.decode import MAX_PIXELS, PixelLimit, decode_image
from workbench.loading.numbers import as_numbers, read_numbers
from workbench.loading.paths import as_tuple
from workbench.loading.sounds import Sound, as_sound, decode_sound, require_soundfile
from workbench.recipe.section import Section, make_error, make_error_at, reraise_below
from workbench.types import Modality

Keys = str | tuple[str, ...]
"""a column, a dotted key or a member of a tar; or several"""
Pick = Literal["random", "first", "longest"]
"""which texts a sample shows, when there are more than it may"""
Draw = Callable[[], np.random.Generator]
"""makes a generator, which takes longer than most fields that need none"""
RESERVED = {"id", "single", "fused", "concatenated"}
"""what other things are called where fields are named, too: a column of embeddings, and what a probe may look at; as
are the methods of the module that holds the encoders"""
LONGEST_SOUND = 3600.0
"""seconds that a model may be asked to read at once: more is a slip of the pen"""


class FieldSection(Section):
    """The settings that all kinds of fields share."""

    from_: Keys | None = Field(
        default=None,
        description="a column, a dotted key or a member of a tar, or several; null: the source's usual one",
    )
    required: bool = Field(default=False, description="a sample without it is bad, and not only without it")
    shuffle: bool = Field(
        default=False, description="a control: training takes it from another sample, drawn anew each time"
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """List where it is read from."""
        return as_tuple(self.from_ or ())

    @property
    def nothing(self) -> str:
        """Say what is wrong with a sample in which it is missing."""
        raise NotImplementedError

    def modality(self) -> Modality:
        """Declare what an encoder gets."""
        raise NotImplementedError

    def read(self, cells: Sequence[object], root: str | Path) -> list[Any]:
        """Make raw items of the cells, one for each of `keys`; none where all are empty. `root` is the folder that
        relative paths start from. Raises OSError and ValueError for what cannot be used."""
        raise NotImplementedError

    def choose(self, items: list[Any], draw: Draw) -> list[Any]:
        """Choose those that a training sample shows; `draw` makes the random numbers of this field."""
        return items

    def prepare(self) -> None:
        """Raise ValueError where a program that reads it is not installed."""


class ImageField(FieldSection):
    """A picture: bytes, a path, {bytes, path} or base64; of several columns, the first that is filled."""

    kind: Literal["image"] = "image"
    views: PositiveInt = Field(default=1, description="augmentations of each picture")
    max_pixels: PixelLimit = Field(default=MAX_PIXELS, description="larger pictures are bad samples")

    @property
    def nothing(self) -> str:
        return "no picture: its cell is empty"

    def modality(self) -> Modality:
        return Modality("image", count=self.views)

    def read(self, cells: Sequence[object], root: str | Path) -> list[Image.Image]:
        cell = first_file(cells)
        return [] if cell is None else [decode_image(read_encoded(cell, root, "picture"), self.max_pixels)]

    def choose(self, items: list[Image.Image], draw: Draw) -> list[Image.Image]:
        return items * self.views


class TextField(FieldSection):
    """Texts: a cell holds one or a list of them, and those of all columns are the sample's."""

    kind: Literal["text"] = "text"
    at_most: PositiveInt = Field(default=1, description="texts that a sample shows; missing ones are marked invalid")
    pick: Pick = Field(
        default="random", description="which, when there are more: random ones without repetition, first, or longest"
    )
    classes: Path | None = Field(
        default=None,
        description="file with the name of a class in each line, where members of tars are numbers of classes (cls); "
        "null: classnames.txt beside the tars, or above",
    )

    @property
    def nothing(self) -> str:
        return "no caption"

    def modality(self) -> Modality:
        return Modality("text", count=self.at_most)

    def read(self, cells: Sequence[object], root: str | Path) -> list[str]:
        return clean(flat(cells))

    def choose(self, items: list[str], draw: Draw) -> list[str]:
        if self.pick == "random":
            items = [items[i] for i in draw().permutation(len(items))]
        elif self.pick == "longest":
            items = sorted(items, key=len, reverse=True)
        return items[: self.at_most]


class AudioField(FieldSection):
    """A sound: the bytes of a wav, flac, ogg or mp3, a path, {bytes, path} or {array, sampling_rate}."""

    kind: Literal["audio"] = "audio"
    seconds: PositiveFloat = Field(
        default=4.0,
        le=LONGEST_SOUND,
        description="length that a model reads: longer sounds are cut, shorter ones padded",
    )
    rate: PositiveInt = Field(default=16000, le=10**6, description="samples a second that a model reads")

    @property
    def nothing(self) -> str:
        return "no sound: its cell is empty"

    def modality(self) -> Modality:
        return Modality("audio", (round(self.seconds * self.rate),), rate=self.rate)

    def read(self, cells: Sequence[object], root: str | Path) -> list[Sound]:
        cell = first_file(cells)
        if cell is None:
            return []
        if isinstance(cell, dict) and "array" in cell:
            return [as_sound(cell["array"], cell.get("sampling_rate"))]
        return [decode_sound(read_encoded(cell, root, "sound"))]

    def prepare(self) -> None:
        require_soundfile()


class VectorField(FieldSection):
    """A row of numbers: a list, a .npy, or several columns of numbers."""

    kind: Literal["vector"] = "vector"
    dim: PositiveInt | None = Field(default=None, description="how many numbers; null: as many as the first one has")

    @property
    def nothing(self) -> str:
        return "no vector: its cell is empty"

    def modality(self) -> Modality:
        assert self.dim is not None, "a source finds it before"
        return Modality("vector", (self.dim,), measured=True)

    def read(self, cells: Sequence[object], root: str | Path) -> list[Tensor]:
        if len(cells) == 1:
            found = read_numbers(first_file(cells), root)
        elif any(map(is_empty, cells)):
            found = None  # a reading that lacks some of its numbers is none
        else:
            found = torch.cat([as_numbers(read_numbers(cell, root)).flatten() for cell in cells])
        if found is None:
            return []
        vector = as_numbers(found)
        if vector.ndim == 0:
            vector = vector[None]
        if vector.ndim != 1:
            raise ValueError(f"is of shape {' x '.join(map(str, vector.shape))}, and a vector is a row of numbers")
        if not len(vector):
            raise ValueError("a vector of no numbers")
        if self.dim is not None and len(vector) != self.dim:
            raise ValueError(f"a vector of {len(vector)} numbers, where others have {self.dim}: pad or cut it")
        return [vector]


class SequenceField(FieldSection):
    """Frames [l, d] of any length l: a list of lists of numbers, or a .npy; a list of numbers has frames of one."""

    kind: Literal["sequence"] = "sequence"
    at_most: PositiveInt = Field(default=64, le=2**20, description="frames that a model reads; longer ones are cut")
    dim: PositiveInt | None = Field(default=None, description="numbers in a frame; null: as many as the first one has")

    @property
    def nothing(self) -> str:
        return "no sequence: its cell is empty"

    def modality(self) -> Modality:
        assert self.dim is not None, "a source finds it before"
        return Modality("sequence", (self.at_most, self.dim), measured=True)

    def read(self, cells: Sequence[object], root: str | Path) -> list[Tensor]:
        cell = first_file(cells)
        if cell is None:
            return []
        frames = as_numbers(read_numbers(cell, root))
        frames = frames[:, None] if frames.ndim == 1 else frames
        if frames.ndim != 2:
            shape = " x ".join(map(str, frames.shape))
            raise ValueError(
                f"is {f'of shape {shape}' if shape else 'one number'}, and a sequence is of frames x numbers"
            )
        if not frames.numel():
            raise ValueError("a sequence of no frames, or of frames without numbers")
        if self.dim is not None and frames.shape[1] != self.dim:
            raise ValueError(
                f"its frames have {frames.shape[1]} numbers, where others have {self.dim}: pad or cut them"
            )
        return [frames]


KINDS: Mapping[str, type[FieldSection]] = {
    "image": ImageField,
    "text": TextField,
    "audio": AudioField,
    "vector": VectorField,
    "sequence": SequenceField,
}


class Fields(dict[str, FieldSection]):
    """The fields of a sample by their names, as the block `fields` of a recipe has them."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(cls.as_dict)
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=write)

    @classmethod
    def __get_pydantic_json_schema__(cls, found: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, object]:
        kinds = [handler(kind.__pydantic_core_schema__) for kind in KINDS.values()]
        return {"type": "fields", "additionalProperties": {"anyOf": kinds}}  # `wb show` prints each of them below

    @classmethod
    def parse(cls, value: object) -> Fields:
        """Read a block {name: {kind: ..., from: ...}}. Raises pydantic errors with the key inside of it."""
        if isinstance(value, Fields):
            return value
        if not isinstance(value, Mapping):
            raise make_error("expected a block of fields, as {image: {from: poster}, text: {from: plot}}")
        found, lines = cls(), list[InitErrorDetails]()
        for name, block in value.items():
            try:
                found[str(name)] = _read_field(str(name), block)
            except ValidationError as error:
                lines += reraise_below(error, None, (str(name),))
        if lines:
            raise ValidationError.from_exception_data("fields", lines)
        return found

    def as_dict(self) -> dict[str, object]:
        """Write every field with its kind and all settings."""
        return {
            name: {"kind": cast(Any, field).kind, **field.model_dump(mode="json", by_alias=True)}
            for name, field in self.items()
        }


def _read_field(name: str, block: object) -> FieldSection:
    """Read one field. Raises pydantic errors."""
    if isinstance(block, FieldSection):
        return block
    if name in RESERVED or hasattr(nn.ModuleDict(), name):
        raise make_error_at(("name",), f"a field cannot be called '{name}': it is a word of our own: say {name}_", name)
    if not name.isidentifier():
        raise make_error_at(
            ("name",), f"'{name}' cannot name a field: sides are written with it, as 'a+b' and 'a@b'", name
        )
    if isinstance(block, str | list):
        block = {"from": block}
    if not isinstance(block, Mapping):
        raise make_error_at(("kind",), "expected a block, as {kind: audio, from: wav}", block)
    kind = block.get("kind", name)
    if not isinstance(kind, str) or kind not in KINDS:
        said = f"no kind of field '{kind}'" if "kind" in block else f"field '{name}' needs a kind"
        raise make_error_at(("kind",), said + did_you_mean(str(kind), KINDS), kind)
    return KINDS[kind].model_validate({**block, "kind": kind})
