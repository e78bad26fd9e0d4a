"""A text is what its file says, or is refused: nothing is replaced, nothing is split where an editor shows no line."""

import codecs

import pytest

from workbench.loading.captions import clean, decode_text, load_json, parse_lines, unlist
from workbench.loading.members import MemberReader

SAID = "un café, 猫と犬, قطة, 😀"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_an_encoding_that_is_certain_is_decoded(mark: bytes, encoding: str) -> None:
    assert decode_text(mark + SAID.encode(encoding)) == SAID
    assert load_json(mark + f'["{SAID}"]'.encode(encoding)) == [SAID]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "shift-jis", "cp1251", "gbk"])
def test_an_encoding_that_is_not_certain_is_refused_with_its_byte(encoding: str) -> None:
    text = {"shift-jis": "赤いカード", "cp1251": "красная", "gbk": "红色的"}.get(encoding, "un café rouge")
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 0x[0-9a-f]{2} at \d+\): save it as UTF-8"):
        decode_text(text.encode(encoding))


def test_utf_16_without_its_mark_is_no_caption() -> None:
    with pytest.raises(ValueError, match="NUL"):
        clean(parse_lines("a red card".encode("utf-16-le")))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e"])
def test_only_a_line_feed_ends_a_caption(separator: str) -> None:
    text = f"a cat{separator}in a hat"
    assert clean(parse_lines(f"{text}\r\nanother\n\n".encode())) == [text, "another"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a red card", "red"]', ["a red card", "red"]),
        ("['a red card', \"it's red\"]", ["a red card", "it's red"]),
        ('["one"]', ["one"]),
        ("[laughs] a man", ["[laughs] a man"]),
        ("a [b]", ["a [b]"]),
        ("[2026]", ["[2026]"]),
        ("[]", []),
    ],
)
def test_a_list_that_is_written_as_a_text_is_a_list(text: str, expected: list[str]) -> None:
    assert unlist(text) == expected


@pytest.mark.parametrize("text", ["['a red card' 'red']", '["a", 5, "b"]', "['a' + 'b']", '["a" "b"]'])
def test_what_looks_like_a_list_and_is_none_is_refused(text: str) -> None:
    """numpy prints an array of texts without commas: Python would join them."""
    with pytest.raises(ValueError, match="looks like a list"):
        clean([text])


def test_half_characters_and_other_types_are_named() -> None:
    with pytest.raises(ValueError, match="half a character"):
        clean(["good", "a nice \ud83d dog"])
    with pytest.raises(ValueError, match="no caption, but int 3"):
        clean([3])
    assert clean([None, " "]) == []


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b'{"a": 1}', b"[1]", b"null"])
def test_json_that_says_nothing_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        MemberReader("caption", lines=True)(content)
