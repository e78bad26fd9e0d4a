"""YAML as people mean it: what is read as what, with the right lines; what is refused, in one message with its line."""

from __future__ import annotations

import random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import RecipeError
from workbench.recipe.yaml_text import DEEPEST, parse_yaml, write_yaml


def read(text: str) -> object:
    return parse_yaml(text, lambda line: f"file:{line}").value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("1_000_000", 1_000_000),
        ("0x1f", 31),
        ("0o17", 15),
        ("0", 0),
        ("007", "007"),  # eight in YAML 1.1 where it is 010
        ("010", "010"),
        ("1:30", "1:30"),  # ninety in YAML 1.1
        ("12:30:45.5", "12:30:45.5"),
        ("2024-13-45", "2024-13-45"),
        ("2024-01-02", "2024-01-02"),
        ("2001-12-14t21:59:43.10-99:99", "2001-12-14t21:59:43.10-99:99"),
        ("3e-4", 3e-4),
        ("1.5E3", 1500.0),
        (".5", 0.5),
        ("-.5e1", -5.0),
        ("1e400", float("inf")),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("true", True),
        ("OFF", False),
        ("tRUE", "tRUE"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("nULL", "nULL"),
        ("=", "="),
        ("'12'", "12"),
        ('"12"', "12"),
        ("!!str 12", "12"),
        ("!!float 3", 3.0),
        ("a: b", {"a": "b"}),
        ("1: 2", {"1": 2}),
        ("on: [image]", {"on": ["image"]}),
        ("{yes: no}", {"yes": False}),
        ("~: 1", {"~": 1}),
        ('"\\ud83d\\ude80"', "🚀"),  # as JSON writes it
    ],
)
def test_scalars_are_what_a_person_means(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read_as_a_float() -> None:
    found = read(".nan")
    assert isinstance(found, float)
    assert found != found


def test_merges_take_what_is_not_written_and_the_first_of_several() -> None:
    text = """
one: &one {a: 1, b: 1, deep: {x: 1}}
two: &two {b: 2, c: 2}
all:
  b: 0
  <<: [*one, *two]
chain: {<<: {<<: *two, c: 3}, d: 4}
"""
    found = read(text)
    assert isinstance(found, dict)
    assert found["all"] == {"a": 1, "b": 0, "c": 2, "deep": {"x": 1}}
    assert found["chain"] == {"b": 2, "c": 3, "d": 4}
    simple = text.partition("chain")[0]
    assert read(simple) == yaml.safe_load(simple)  # PyYAML's own merging; of a merge in a merge it takes the older key


def test_lines_are_those_of_the_key_and_of_a_merged_one_the_anchors() -> None:
    parsed = parse_yaml("a: 1\nb: &b\n  c: 2\nd:\n  <<: *b\n  e: [{f: 3},\n   {g:}]\n", lambda line: f"L{line}")
    assert parsed.lines == {
        ("a",): "L1",
        ("b",): "L2",
        ("b", "c"): "L3",
        ("d",): "L4",
        ("d", "c"): "L3",
        ("d", "e"): "L6",
        ("d", "e", 0, "f"): "L6",
        ("d", "e", 1, "g"): "L7",
    }
    assert parsed.blank == {("d", "e", 1, "g")}


def bomb(levels: int) -> str:
    """Ten aliases of ten aliases of ..."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merge_bomb(levels: int) -> str:
    lines = ["l0: &l0 {x: 1}"]
    lines += [f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: \x07", "file:2", "'\\x07' may not stand in YAML"),
        ("a: \ufffe", "file:1", "may not stand in YAML"),
        ("a: 1\n\tb: 2", "file:2", "indent with spaces"),
        ("a: [1,\nb: 2", "file:2", "not YAML"),
        ("a: b: c", "file:1", "between quotes"),
        ("a: *nothing", "file:1", "undefined alias 'nothing': put"),
        ("a: %x", "file:1", "not YAML"),
        ("a: 1\n---\nb: 2", "file:2", "expected a single document"),
        ("a: 1\n? [x, y]\n: 2", "file:2", "a key is a word"),
        ("? {x: 1}\n: 2", "file:1", "a key is a word"),
        ("a: 1\nb: 2\n'a': 3", "file:3", "duplicate key 'a'"),
        ("a: 1\nb: &b [1, *b]", "file:2", "contains itself"),
        ("a: &a {b: {c: *a}}", "file:1", "contains itself"),
        ("a: &a\n  <<: *a", "file:1", "contains itself"),
        ("a: {<<: 3}", "file:1", "<< merges blocks of keys"),
        ("a: {<<: [{b: 1}, 3]}", "file:1", "<< merges blocks of keys"),
        ("a: !!int foo", "file:1", "'foo' cannot be read as int"),
        ("\na: !!float x", "file:2", "cannot be read as float"),
        ("a: !!bool maybe", "file:1", "cannot be read as bool"),
        ("a: !!timestamp 2001", "file:1", "the tag !!timestamp is not read"),
        ("a: !!python/object/apply:os.system [ls]", "file:1", "the tag !!python/object/apply:os.system"),
        ("a: !!set {b}", "file:1", "the tag !!set"),
        ("a: !mine 3", "file:1", "the tag !mine"),
        ("a: " + "9" * 5000, "file:1", "cannot be read as int"),
        ('a: "\\ud800"', "file:1", "half a character"),
        ('"\\udc00": 1', "file:1", "half a character"),
        ('a: "\\0"', "file:1", "zero byte"),
        ('a: "\\UFFFFFFFF"', "file:1", "not YAML"),
        ("a: 1\nb: " + "[" * 60 + "]" * 60, "file:2", f"more than {DEEPEST} levels"),
        ("a: 1\nb: " + "[" * 50_000, "file:2", f"more than {DEEPEST} levels"),
        ("a: 1\nb:\n  " + "- " * 50_000, "file:3", f"more than {DEEPEST} levels"),
        ("a: " + "{a: " * 700 + "1" + "}" * 700, "file:1", f"more than {DEEPEST} levels"),
        (bomb(12), "file:", "more than 100,000 values"),
        (merge_bomb(12), "file:", "more than 100,000 values"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_no_recipe_has_is_one_message_with_its_line(text: str, place: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    said = str(caught.value)
    assert said.startswith(place), said
    assert words in said
    assert len(said.splitlines()) == 1


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]))
    | st.sampled_from(
        ["1e5", "0o17", "010", "on", "no", "null", "~", "1:30", "", "<<", "2024-01-02", ".inf", "0x1F", "-"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_what_is_written_is_read_back(value: object) -> None:
    assert read(write_yaml(value)) == value


def test_random_bytes_of_yaml_end_in_a_value_or_in_one_message() -> None:
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    draw = random.Random(seed)
    pieces = ["a", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<", "\n", "  ", "!!int ", "!", ">", "'", '"', "#"]
    pieces += ["\t", "%", "@", "?", ",", "0", "1e9", "---", "...", "~", "\\", "é", "🚀", "\x07", "\u2028", "\0", "|"]
    pieces += ["\ud800"]
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 40)))
        try:
            read(text)
        except RecipeError:
            pass
        except Exception as error:
            raise AssertionError(f"{text!r}: {type(error).__name__}: {error}") from error
