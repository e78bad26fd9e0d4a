"""A trained model asked for what fits best: a query of one field or of several, and the candidates of another.

The query is formed and scored as the objective does it: by a fused side (ConFu), a product (Symile), a mean of cosines
(CLIP). Candidates are embedded a chunk at a time and only the best are kept, so that memory does not grow with them.

The trap: an objective may find a field by fewer others than are asked with, and would leave the rest of a query out
without a word; that is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from workbench.distributed.processes import device
from workbench.errors import shorten
from workbench.runs.candidates import Place, RawItems, Seen, Tell, Vectors, open_candidates
from workbench.runs.folder import read_recipe
from workbench.runs.inference import load_parts
from workbench.runs.items import NOUNS, Reader
from workbench.scoring.embedding import Embedder
from workbench.types import Objective, Question, Side, Skipped, View, Views

TRIED = 16
"""random candidates by which a score is shown to be an inner product, or not"""
TOLERANCE = 1e-4


class Hit(NamedTuple):
    """A candidate that was found."""

    score: float
    name: str
    item: object
    """as it was read, or its text where only its vector is there; None where neither is"""


@dataclass(frozen=True)
class Answer:
    """The best candidates, the best first, and what they were chosen from."""

    hits: list[Hit]
    question: Question
    step: int
    """of the checkpoint"""
    candidates: int
    missing: int
    """rows that lack the field"""
    bad: list[Skipped]


class Search:
    """Answers queries by the model of a run.

    Args:
        run: its folder.
        checkpoint: last, best, or a step.

    Raises RunError where there is no such run or checkpoint.
    """

    def __init__(self, run: Path, checkpoint: str = "last") -> None:
        self.parts, self.step = load_parts(run, checkpoint, read_recipe(run))
        on, transforms = device(), self.parts.transforms(train=False)
        self.parts.model.to(on)
        self.kinds = {name: self.parts.data.modalities[name].kind for name in self.parts.model.encoders}
        self._readers = {name: Reader(name, self.parts.data.modalities[name], transforms[name]) for name in self.kinds}
        self._embed = Embedder(self.parts.model, transforms, on)

    def field_of(self, kind: str) -> str:
        """Find the field that a short option means: the one of the kind's name, or the only one of the kind.

        Raises ValueError where there is none, or where several are meant.
        """
        there = [name for name, known in self.kinds.items() if known == kind]
        if kind in there or len(there) == 1:
            return kind if kind in there else there[0]
        if not there:
            raise ValueError(f"the run has no field of kind {kind}: it has {self._known()}")
        raise ValueError(
            f"the run has several fields of kind {kind} ({', '.join(there)}): name one, as --query {there[0]}=... or "
            f"--among {there[0]}=..."
        )

    def answer(
        self,
        query: Mapping[str, object],
        target: str,
        where: str,
        *,
        top: int = 10,
        index: str = "exact",
        split: str = "train",
        source: str | None = None,
        settings: tuple[str, ...] = (),
        tell: Tell = lambda done, of: None,
    ) -> Answer:
        """Find the `top` candidates of a field that fit a query best; of equal scores the earlier one stands above.

        Args:
            query: {field: a raw item, a path, or a text}.
            target: the field of the candidates.
            where: what `open_candidates` takes, as are `split`, `source` and `settings`.
            top: how many.
            index: exact, or faiss.
            tell: is called with (rows that are done, all rows).

        Raises ValueError and RecipeError for a field that the run lacks, for what cannot be asked or read, and where
        nothing is left to be found.
        """
        for name in (*query, target):
            if name not in self.kinds:
                raise ValueError(f"the run has no field '{name}': it has {self._known()}")
        keep = _Best(top) if index == "exact" else _Faiss(top)
        question = find_question(self.parts.objective, tuple(query), target)
        if self.parts.model.fusion is None and (fused := [str(side) for side in question.query if side.fused]):
            raise ValueError(f"the run asks by {fused[0]}, whose fusion exists only while training: ask with one field")
        rows = self._rows(query, question.query)
        among = open_candidates(where, target, self.parts, split=split, source=source, settings=settings)
        seen, side = Seen(), question.candidates
        if isinstance(among, Vectors) and not side.plain:
            raise ValueError(f"the run looks for {target} by side {side}, and {where} has the plain one: name a source")
        score = _Score(self.parts.objective, rows, side)
        for places, z in self._vectors(among, target, side, seen, tell):
            keep.add(places, z, score)
        if not seen.candidates:
            noun = NOUNS[self.kinds[target]]
            why = f"the first is {seen.bad[0]}" if seen.bad else f"none of {seen.missing} rows has one"
            raise ValueError(f"{where} has no {noun} that can be read: {why}")
        hits = [Hit(value, *among.show(place)) for value, place in keep.best(score)]
        return Answer(hits, question, self.step, seen.candidates, seen.missing, seen.bad)

    def _rows(self, query: Mapping[str, object], sides: Sequence[Side]) -> Views:
        """Embed the query as one row of each side. Raises ValueError for an item that cannot be read."""
        inputs: dict[str, Tensor] = {}
        for name, item in query.items():
            try:
                inputs[name] = self._readers[name].input(item)[None]
            except (OSError, ValueError) as error:
                raise ValueError(f"the query's {name} cannot be read: {shorten(str(error))}") from None
        return self._embed(inputs, sides)

    def _vectors(
        self, among: RawItems | Vectors, target: str, side: Side, seen: Seen, tell: Tell
    ) -> Iterator[tuple[list[Place], Float[Tensor, "n d"]]]:
        if isinstance(among, Vectors):
            yield from among.chunks(seen, tell)
            return
        for places, inputs in among.inputs(self._readers[target], seen, tell):
            yield places, self._embed({target: inputs}, [side])[side].z[:, 0]

    def _known(self) -> str:
        return ", ".join(f"{name} ({kind})" for name, kind in self.kinds.items())


def find_question(objective: Objective, fields: Sequence[str], target: str) -> Question:
    """Say by which sides `target` is found from all of these fields. Raises ValueError where nothing does that.

    Where the target is asked with, too, as a picture for pictures like it, every field asks by its own side.
    """
    asked = objective.ask(fields, target) if target not in fields else None
    if asked and {m for side in asked.query for m in side.members} == set(fields):
        return asked
    if target in fields:
        sides = tuple(objective.candidate_side(name) for name in fields)
        if set(sides) <= {Side.parse(side) for side in objective.all_sides}:
            return Question(sides, objective.candidate_side(target))
    alone = [name for name in fields if name != target and objective.ask((name,), target)]
    used = {m for side in asked.query for m in side.members} if asked else set(alone)
    remedy = f"ask with {' + '.join(name for name in fields if name in used)}" if used else "ask for another field"
    raise ValueError(f"no term of the run's objective finds {target} from {' + '.join(fields)} together: {remedy}")


@dataclass(frozen=True)
class _Score:
    """The objective's score of one query with candidates of one side."""

    objective: Objective
    query: Views
    side: Side

    def __call__(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        candidates = {self.side: View(z[:, None], torch.ones(len(z), 1, dtype=torch.bool))}
        with torch.inference_mode():
            return self.objective.score(self.query, candidates)[0].float().cpu()

    def as_vector(self, dim: int) -> Float[Tensor, " d"]:
        """Find w such that the score of z is <w, z>. Raises ValueError where the score is no inner product."""
        w, z = self(torch.eye(dim)), normalize(torch.randn(TRIED, dim), dim=-1)
        if not torch.allclose(self(z), z @ w, atol=TOLERANCE):
            raise ValueError(
                f"--index faiss finds inner products, and the score of {type(self.objective).__name__} is none: leave "
                "--index, and the exact search is done"
            )
        return w


class _Best:
    """Keeps the best of what it is given, the earlier one of equal scores."""

    def __init__(self, top: int) -> None:
        self.top, self.scores = top, torch.empty(0)
        self.places: list[Place] = []

    def add(self, places: Sequence[Place], z: Float[Tensor, "n d"], score: _Score) -> None:
        scores, places = torch.cat([self.scores, score(z)]), [*self.places, *places]
        # stable, as candidates come in their order: those that were kept stand before those that are new
        order = scores.sort(descending=True, stable=True).indices[: self.top]
        self.scores, self.places = scores[order], [places[at] for at in order.tolist()]

    def best(self, score: _Score) -> list[tuple[float, Place]]:
        return list(zip(self.scores.tolist(), self.places, strict=True))


class _FaissIndex(Protocol):
    def add(self, x: object) -> None: ...

    def search(self, x: object, k: int) -> tuple[list[list[float]], list[list[int]]]: ...


class _Faiss:
    """Keeps all vectors in faiss's flat index of inner products, which answers exactly, by all cores."""

    def __init__(self, top: int) -> None:
        try:
            self.faiss = importlib.import_module("faiss")
        except ImportError:
            raise ValueError(
                "--index faiss: faiss is not installed (pip install faiss-cpu); the search without it is exact, too"
            ) from None
        self.top, self.places = top, list[Place]()
        self.index: _FaissIndex | None = None

    def add(self, places: Sequence[Place], z: Float[Tensor, "n d"], score: _Score) -> None:
        if self.index is None:
            score.as_vector(z.shape[1])  # refused before hours of embedding
            self.index = cast(_FaissIndex, self.faiss.IndexFlatIP(z.shape[1]))
            self.dim = z.shape[1]
        self.index.add(z.float().contiguous().numpy())
        self.places += places

    def best(self, score: _Score) -> list[tuple[float, Place]]:
        assert self.index is not None, "something was found"
        w = score.as_vector(self.dim)
        scores, at = self.index.search(w[None].numpy(), min(self.top, len(self.places)))
        return [(float(value), self.places[int(row)]) for value, row in zip(scores[0], at[0], strict=True)]


def query_item(kind: str, said: str) -> object:
    """Make of what a person typed the item that it names: the text itself, or the path of a file. Raises ValueError."""
    if kind == "text":
        if not said.strip():
            raise ValueError("the query's text is empty")
        return said
    path = Path(said).expanduser()
    if not path.is_file():
        raise ValueError(
            f"the query {said} is {'a folder' if path.is_dir() else 'not there'}: give the path of a file that holds "
            f"the {kind} to ask with"
        )
    return path


__all__ = ["Answer", "Hit", "Search", "find_question", "query_item"]
