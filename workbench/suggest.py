"""The tail of an error message about a wrong word: the closest known one, and all of them."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """For instance "; did you mean 'width'? (known: width, depth)"."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return (f"; did you mean '{close[0]}'?" if close else "") + f" (known: {', '.join(known) or 'none'})"
