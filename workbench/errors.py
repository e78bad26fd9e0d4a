"""What is said to people: exceptions of wrong recipes and bad samples, suggestions for wrong words, files that fail."""

import difflib
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

GO_ON = "The last checkpoint, if there is one, is sound: put it right, and the same command goes on from there"

NO_MEMORY = re.compile("can't allocate memory|out of memory")
"""what torch says of the CPU's and of a GPU's"""


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, a line each. The command line ends with status 2."""


class RunError(ValueError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


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
    small = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), small, n=1)
    guess = f"; did you mean '{small[close[0]]}'?" if close else ""
    return f"{guess} (known: {shorten(', '.join(known), 2000) or 'none'})"


def shorten(text: str, most: int = 300) -> str:
    """Cut the middle out of a long text: a base64 picture in the place of a path would fill the terminal."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


class RankLate(RuntimeError):
    """Other processes did not come to a collective within `parallel.timeout`: one of them is stuck."""


class RankLost(RuntimeError):
    """Another process of the job is gone. A consequence: the reason is what that one says."""


class DataLost(Exception):
    """A file that many samples are read from is gone, or is another one than was listed: none of them is a bad one."""


def failure(what: str, error: BaseException, then: str = f". {GO_ON}", *, verb: str = " cannot be read") -> ValueError:
    """Say in one message what could not be read, what was raised, and where in whose code; `then` is what to do.

    What the system says of a file says enough, as do the words of this program; of everything else the type and the
    traceback are told, too. With WB_DEBUG set, the error itself is raised.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or os.environ.get("WB_DEBUG"):
        raise error
    words, frames = shorten(str(error)), traceback.extract_tb(error.__traceback__)
    ours = isinstance(error, ValueError) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
    if ours or isinstance(error, OSError | DataLost):
        return ValueError(f"{what}{verb}: {words}{then}")
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return ValueError(f"{what}{verb}: {said}{then}\n{''.join(frames.format()).rstrip()}")


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


def explain(error: Exception) -> str:
    """Return what an error says to people; a traceback follows where it is one that nobody has foreseen."""
    foreseen = ValueError, OSError, ArithmeticError, ImportError, RankLate, RankLost
    said = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(said)):
        first = said.partition("\n")[0]
        remedy = "lower train.microbatch or parallel.workers, which a resume may change, or train.batch in a new run"
        said = f"out of memory{first and f' ({first})'}: {remedy}"
    elif not isinstance(error, foreseen):
        return f"an unforeseen {type(error).__name__}\n{traceback.format_exc().rstrip()}"
    said = said or f"{type(error).__name__} (WB_DEBUG=1 shows where)"
    return f"{said}\n{traceback.format_exc().rstrip()}" if os.environ.get("WB_DEBUG") else said
