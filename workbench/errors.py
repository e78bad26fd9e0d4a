"""What is said to people: the one exception of wrong recipes, and suggestions for wrong words."""

import difflib
from collections.abc import Iterable


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, a line each. The command line ends with status 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of a message about a wrong word, as "; did you mean 'width'? (known: width, depth)"."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return (f"; did you mean '{close[0]}'?" if close else "") + f" (known: {', '.join(known) or 'none'})"
