"""What is said to people: exceptions of wrong recipes and bad samples, suggestions for wrong words, files that fail."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, a line each. The command line ends with status 2."""


class BadSample(ValueError):
    """A sample that cannot be used: a corrupt picture, no caption. The feed counts it and takes another in its place.

    Args:
        name: what a person finds it by, as `000.tar: 000012.jpg`
        reason: what is wrong with it
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of a message about a wrong word, as "; did you mean 'width'? (known: width, depth)"."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return (f"; did you mean '{close[0]}'?" if close else "") + f" (known: {', '.join(known) or 'none'})"


class RankLate(RuntimeError):
    """Other processes did not come to a collective within `parallel.timeout`: one of them is stuck."""


class RankLost(RuntimeError):
    """Another process of the job is gone. A consequence: the reason is what that one says."""


class DataLost(Exception):
    """A file that many samples are read from is gone, or is another one than was listed: none of them is a bad one."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A failure of the system in this block becomes one message with the path, and what to do about a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror or error}. Nothing that was saved before is lost: "
            "make it possible to write there, and the same command goes on from the last checkpoint"
        ) from None
