"""Help is readable on a narrow terminal, and says of each thing what it is."""

import pytest
from click.testing import CliRunner
from test_surface import SURFACE

from workbench.cli import cli
from workbench.errors import did_you_mean


def output(*arguments: str, width: int = 80) -> str:
    result = CliRunner().invoke(cli, [*arguments], terminal_width=width, prog_name="wb")
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", ["", "data", *sorted(SURFACE)])
def test_no_line_of_help_is_wider_than_a_terminal(name: str) -> None:
    assert max(map(len, output(*name.split(), "--help").splitlines())) <= 80


@pytest.mark.parametrize("name", ["", "data", "data build emoji", *sorted(SURFACE)])
def test_no_word_of_help_is_broken_at_any_width(name: str) -> None:
    """Nor is one too wide for a terminal of 60 columns, whose own break would be anywhere."""
    words = output(*name.split(), "--help", width=200).split()
    for width in (60, 61, 79, 130):
        found = output(*name.split(), "--help", width=width)
        assert found.split() == words
        assert max(map(len, found.splitlines())) <= width


def test_short_help_is_not_cut() -> None:
    assert "..." not in output("data", "--help").partition("\n")[2]


def test_each_data_set_that_can_be_built_has_a_help_of_its_own() -> None:
    emoji, shards = (output("data", "build", name, "--help") for name in ("emoji", "emoji-shards"))
    assert "Needs npm" in emoji
    assert "Needs npm" not in shards
    assert "tars" in shards
    assert "--out DIR" in shards
    assert "emoji-shards" in output("data", "build", "--help")


def test_recipes_are_told_apart_from_their_outcome_and_said_to_be_one() -> None:
    result = CliRunner().invoke(cli, ["ls", "recipe"])
    assert "synth --task xor --objective clip: 5 s a seed" in " ".join(result.stdout.split())
    assert "A recipe is a whole experiment" in result.stderr


@pytest.mark.parametrize("word", ["ITO", "Ito", "CONFU-chain", "Volume"])
def test_capitals_are_no_other_word(word: str) -> None:
    known = ["ito", "confu_chain", "Volume"]
    assert f"did you mean '{next(k for k in known if k[:3].lower() == word[:3].lower())}'?" in did_you_mean(word, known)
