"""Wrong recipes without end: `wb check` ends each in `ok` or in messages, never in a traceback, never in a hang.

`just fuzz` runs it for long. The seed of every run is printed, and a failure shows the recipe, which WB_FUZZ_SEED draws
again.
"""

from __future__ import annotations

import random
import time
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from fuzzing import LONG, SECONDS, Hang, fresh_seed, limit

from workbench.errors import explain
from workbench.recipe.schema import RecipeError, load_recipe
from workbench.recipe.yaml_file import recipe_names, shipped_recipes
from workbench.runs.cost import assemble

RECIPES = 2000
"""at most, unless WB_FUZZ asks for long"""

VALUES: list[object] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, 10**30, 0.0, -0.5, 1e-30, 0.5, 1e30, float("inf"),
    float("nan"), "", " ", "~", "x", "clip", "mlp", "open_clip", "ito", "xor", "emoji", "terms", "retrieval", "probe",
    "1", "1e400", "0 epochs", "1 steps", "1e400 steps", "3 fortnights", "-1 epochs", "é", "🚀", "a\u0301", "\u202e",
    "a\tb", "../x", "/", "a+b", "+a", "a@x", "a:b", "x.py:Y", "os:path", ":", ".x:Y", "*", "{0..3}", "null", "image",
    "text", "a", "b", "c", [], {}, [1, 2], ["a"], ["a", "b"], {"name": "mlp"}, {"name": 3}, {"name": None},
    {"a": {"b": {"c": 1}}}, [[[]]], {"between": ["a", "b"]}, [{"between": ["a", "b"]}], {"init": -1}, {1: 2},
    "x" * 5000, list(range(300)),
]  # fmt: skip
KEYS = ["name", "é", "", "on", "<<", "x-y", "extends", 3, None]
BYTES = [
    b"\x00", b"\x07", b"\x1b", b"\xff", b"\xe9", b"\t", b"\r", b"\n", b"- ", b": ", b"&a ", b"*a", b"<<: *a", b"!!int ",
    b"{", b"}", b"[", b"]", b"'", b'"', b"#", b"|", b">", b"%", b"@", b"`", b"?", b"---\n", b"...\n", b"~", b"1e9",
    b"\xf0\x9f\x9a\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"010", b"1:30", b"2024-13-45", b"!!python/object:x ", b"[" * 50,
]  # fmt: skip


def places(tree: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every path of keys and places in a tree."""
    if isinstance(tree, dict):
        return [at, *(place for key, item in tree.items() for place in places(item, (*at, key)))]
    if isinstance(tree, list):
        return [at, *(place for index, item in enumerate(tree) for place in places(item, (*at, index)))]
    return [at]


def value(draw: random.Random) -> object:
    """A strange value, which no other place of a tree shares: one list that is put into itself has no end."""
    return deepcopy(draw.choice(VALUES))


def change(tree: dict, draw: random.Random) -> None:
    """Put a strange value, key or neighbour somewhere."""
    *above, last = draw.choice([place for place in places(tree) if place])
    block: object = tree
    for key in above:
        assert isinstance(block, dict | list)
        block = block[key]  # type: ignore[index]
    assert isinstance(block, dict | list)
    kind = draw.random()
    if kind < 0.6:
        block[last] = value(draw)  # type: ignore[index]
    elif kind < 0.75:
        del block[last]  # type: ignore[index]
    elif isinstance(block, dict):
        block[draw.choice([str(last)[:-1] + "x", *KEYS])] = value(draw)
    else:
        block.append(value(draw))


def damage(content: bytes, draw: random.Random) -> bytes:
    """Cut, repeat or insert bytes."""
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(content) + 1)
        to = min(len(content), at + draw.randrange(0, 12))
        piece = draw.choice([b"", *BYTES, content[at:to] * 2])
        content = content[:at] + piece + content[to:]
    return content


def recipe(draw: random.Random) -> bytes:
    """A recipe that is somehow wrong, most of the time."""
    name = draw.choice(recipe_names())
    if draw.random() < 0.4:
        content = (shipped_recipes() / name).read_bytes().replace(b"extends: ../", b"extends: ")
        return damage(content, draw)
    tree = load_recipe(name).as_dict() if draw.random() < 0.5 else {"extends": name, "seed": 1, "train": {"lr": 1e-3}}
    for _ in range(draw.randrange(1, 4)):
        change(tree, draw)
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=draw.random() < 0.5)
    return (
        damage(text.encode("utf-8", "surrogatepass"), draw) if draw.random() < 0.2 else text.encode("utf-8", "replace")
    )


def check(path: Path, overrides: tuple[str, ...] = ()) -> str:
    """Do what `wb check` does; return what it says. Raises AssertionError for what would be a traceback or a hang."""
    try:
        with limit():
            assemble(load_recipe(path, overrides))
    except (RecipeError, ValueError) as error:
        return str(error)
    except Hang:
        raise AssertionError("it hangs") from None
    except Exception as error:
        said = explain(error)
        assert not said.startswith("an unforeseen"), said
        return said
    return "ok"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.filterwarnings("ignore:.*the recipe's folder, and in the current one")  # told, and no traceback
def test_no_recipe_ends_in_a_traceback_or_a_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = fresh_seed()
    path, said = tmp_path / "r.yaml", dict[str, int]()
    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until and (LONG or number < RECIPES):
        draw = random.Random(f"{seed}/{number}")
        content = recipe(draw)
        path.write_bytes(content)
        overrides = (f"{draw.choice(['seed', 'train.lr', 'model.dim', 'eval.x', 'objective'])}={draw.choice(VALUES)}",)
        try:
            answer = check(path, overrides if draw.random() < 0.2 else ())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, recipe {number}: {error}\n{content.decode(errors='replace')}") from None
        assert answer.strip()
        said["ok" if answer == "ok" else "told"] = said.get("ok" if answer == "ok" else "told", 0) + 1
        number += 1
    with capsys.disabled():
        print(f" fuzz: seed {seed}, {number} recipes, {said}")
    assert said.get("told", 0) > number / 4  # it does throw wrong ones
