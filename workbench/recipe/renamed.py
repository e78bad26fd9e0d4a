"""Keys that recipes once had, and what is written now: `image_key: photo` is `fields: {image: {from: photo}}`.

A person's recipe that has them is told the new words; that of a run of an older version is read as it was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

SOURCES = ("csv", "folder", "hf", "json", "parquet", "shards")
IMAGE = {"img_key": "from", "image_key": "from", "views": "views", "max_pixels": "max_pixels"}
TEXT = {"caption_key": "from", "captions": "at_most", "pick": "pick", "classes": "classes"}
"""{key as it was: what the field calls it}"""
USUAL: Mapping[str, object] = {"views": 1, "captions": 1, "pick": "random", "max_pixels": 89_478_485}
"""what needed not be said, in the defaults of resolved recipes"""
EVALUATORS: Mapping[str, Mapping[str, str]] = {"zeroshot": {"target": "label", "templates": "prompts"}}
"""{evaluator: {key as it was: as it is}}"""


def rename(kind: str, block: Mapping[str, object]) -> tuple[dict[str, object], str] | None:
    """Write a block of a recipe in today's words, and say to somebody who wrote it what to write; None where it is in
    today's words already."""
    name = str(block.get("name"))
    if kind == "data" and (now := translate(block)):
        return now, say_renamed([key for key in block if key not in now], now)
    words = EVALUATORS.get(name, {}) if kind == "eval" else {}
    old = [key for key in block if key in words]
    if not old:
        return None
    said = ", ".join(f"{words[key]}: {_flow(block[key])}" for key in old)
    return {words.get(key, key): value for key, value in block.items()}, f"{' and '.join(old)}: write it as {said}"


def rename_all(tree: Mapping[str, object]) -> dict[str, object]:
    """Write the recipe of a run of an older version in today's words: the run then goes on as it would have."""
    found = dict(tree)
    if isinstance(data := tree.get("data"), Mapping) and (renamed := rename("data", data)):
        found["data"] = renamed[0]
    if isinstance(evals := tree.get("eval"), Mapping):
        blocks = {key: {"name": key, **block} for key, block in evals.items() if isinstance(block, Mapping)}
        now = {key: renamed[0] for key, block in blocks.items() if (renamed := rename("eval", block))}
        found["eval"] = {**evals, **now}
    return found


def translate(block: Mapping[str, object]) -> dict[str, object] | None:
    """Write a block of data in today's words; None where it is in these already."""
    name = block.get("name")
    old = {key: value for key, value in block.items() if key in IMAGE | TEXT}
    if name not in SOURCES or not old:
        return None
    rest = {key: value for key, value in block.items() if key not in old}
    given = rest.pop("fields", None)
    fields = cast(dict[str, dict[str, object]], dict(given) if isinstance(given, Mapping) else {})
    for field, words in (("image", IMAGE), ("text", TEXT)):
        said = {words[key]: _key(str(name), key, value) for key, value in old.items() if _says(key, value, words)}
        if said:
            fields[field] = {**said, **(fields.get(field) or {})}
    return {**rest, **({"fields": fields} if fields else {})}


def _says(key: str, value: object, words: Mapping[str, str]) -> bool:
    return key in words and value is not None and value != USUAL.get(key)


def _key(source: str, key: str, value: object) -> object:
    """Write where a field is read from: of tars, a bare word was a key in their JSON, an ending had a dot."""
    if source == "shards" and key == "caption_key" and isinstance(value, str):
        return value[1:] if value.startswith(".") else f"json:{value}"
    if source == "shards" and key == "image_key" and isinstance(value, str) and ";" in value:
        return value.split(";")
    return value


def say_renamed(old: Sequence[str], now: Mapping[str, object]) -> str:
    """Tell somebody who has written old keys what to write now, in one line."""
    keys = " and ".join(old)
    if "fields" not in now:
        return f"{keys}: there is no such key any more, and what it says is usual: leave it out"
    return f"{keys}: write it as fields: {_flow(now['fields'])}"


def _flow(value: object) -> str:
    """Write a value as YAML does on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.search(r"[{}\[\],:#'\"]", value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
