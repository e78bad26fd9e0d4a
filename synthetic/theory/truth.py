"""What is known of a task before any training: the record a run is judged against.

A floor is the exact optimum at the batch size, not ln B - I, which no model reaches: `synthetic.theory.optima`. Its
trap: with missing modalities it is an expectation over the number of rows a term has, so it holds for fresh samples
with modalities missing as in training, not for complete ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import combinations

from synthetic.theory.all_negatives import symile_all_optimum
from synthetic.theory.information import (
    bayes_accuracy,
    best_single_accuracy,
    mutual_information,
    total_correlation,
)
from synthetic.theory.joint import Joint
from synthetic.theory.optima import Optimum, infonce_optimum, ntxent_optimum, sigmoid_optimum, symile_optimum
from synthetic.theory.presence import Rows, Seen, partly, share
from synthetic.theory.smoothing import smoothed_optimum

Group = tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """Information and losses in nats, accuracies as shares. Information and accuracies are those of complete samples.

    Every optimum is None where no exact one is known. A task that lists no outcomes, as a continuous one, gives the
    fields itself with `joint=None`, and has none.
    """

    task: str
    modalities: Group
    """what an objective can see"""
    target: str
    """the variable to be predicted: a modality, or one that is never shown"""
    given: Group
    """the modalities it is predicted from"""
    pairwise_information: dict[str, float | None]
    """{"a,b": I(a; b)} of the modalities, and of each with a hidden target; None: not known, or infinite"""
    total_correlation: float | None
    """of the modalities"""
    bayes_accuracy: float
    """of the target from all the given ones"""
    best_single_accuracy: float
    """of the target from the best given one"""
    chance: float
    """1 / size of the target's alphabet"""
    majority: float
    """of the best constant guess"""
    batch: int
    """the contrastive batch size of the floors"""
    seen: Seen
    """{modalities seen together: share of the samples}"""
    joint: Joint | None = field(repr=False)
    """of the modalities and the target"""
    _known: dict[object, Optimum | None] = field(init=False, repr=False, compare=False, default_factory=dict)

    @staticmethod
    def of(
        task: str,
        joint: Joint,
        target: str,
        batch: int,
        *,
        modalities: Group | None = None,
        given: Group | None = None,
        seen: Seen | None = None,
    ) -> Truth:
        """Compute everything that follows from the exact distribution.

        Args:
            modalities: those that are shown; default: every variable of `joint`
            given: what the target is predicted from; default: all other modalities
            seen: default: every modality of every sample

        Raises ValueError when `batch` < 2.
        """
        Rows(batch)
        shown = modalities or tuple(joint.codes)
        given = given or tuple(m for m in shown if m != target)
        known = tuple(dict.fromkeys((*shown, target)))
        joint = joint if known == tuple(joint.codes) else joint.marginal(known)
        pairs = {f"{a},{b}": mutual_information(joint, (a,), (b,)) for a, b in combinations(known, 2)}
        return Truth(
            task=task,
            modalities=shown,
            target=target,
            given=given,
            pairwise_information=dict(pairs),
            total_correlation=total_correlation(joint if shown == known else joint.marginal(shown)),
            bayes_accuracy=bayes_accuracy(joint, target, given),
            best_single_accuracy=best_single_accuracy(joint, target, given),
            chance=1 / joint.codes[target],
            majority=float(joint.group((target,))[1].max()),
            batch=batch,
            seen=seen or {shown: 1.0},
            joint=joint,
        )

    def predicted_from(self, given: Group) -> Truth:
        """Return the same task with its target predicted from other modalities. Raises ValueError for what is no
        modality, for the target itself, and for a task that lists no outcomes."""
        if not given or not set(given) <= set(self.modalities) - {self.target}:
            known = [m for m in self.modalities if m != self.target]
            raise ValueError(f"{self.target} cannot be predicted from {list(given)}: give some of {known}")
        if self.joint is None:
            raise ValueError(f"{self.task} lists no outcomes: its accuracies are known from {self.given} alone")
        return replace(
            self,
            given=given,
            bayes_accuracy=bayes_accuracy(self.joint, self.target, given),
            best_single_accuracy=best_single_accuracy(self.joint, self.target, given),
        )

    def infonce(self, a: Group, b: Group, *, smoothing: float = 0.0) -> Optimum | None:
        """Compute the optimum of symmetric InfoNCE between two groups of modalities, with label smoothing as GRAM's and
        TRIANGLE's.

        With smoothing it is known where all anchors have one law of candidates (`synthetic.theory.smoothing`) and no
        modality is missing. Raises ValueError for an unknown modality.
        """
        part = share(self.seen, (*a, *b))
        if smoothing and part < 1:
            return None
        if smoothing:
            return self._once(smoothed_optimum, a, b, self.batch, smoothing)
        return self._once(infonce_optimum, a, b, self.batch, part)

    def sigmoid(self, a: Group, b: Group) -> Optimum | None:
        """Compute the optimum of SigLIP's loss between two groups of modalities. Raises ValueError for an unknown
        modality."""
        return self._once(sigmoid_optimum, a, b, self.batch, share(self.seen, (*a, *b)))

    def ntxent(self, group: Group, views: int = 2) -> Optimum | None:
        """Compute the optimum of NT-Xent (SimCLR's at two views) of noise-free views of a group of modalities. Raises
        ValueError below two."""
        whole = share(self.seen, group) == 1
        return self._once(ntxent_optimum, group, views, self.batch) if whole else None

    def symile(self) -> Optimum | None:
        """Compute the optimum of Symile with `n` negatives. Raises ValueError below three modalities."""
        return self._once(_symile, self.modalities, self.batch, share(self.seen, self.modalities))

    def symile_all(self) -> Optimum | None:
        """Compute the optimum of Symile with all negatives. Raises ValueError unless there are three modalities."""
        whole = share(self.seen, self.modalities) == 1
        return self._once(_symile_all, self.modalities, self.batch) if whole else None

    def clip(self) -> Optimum | None:
        """Compute the optimum of CLIP: the sum of InfoNCE over pairs of modalities."""
        return _sum((1.0, self.infonce((a,), (b,))) for a, b in combinations(self.modalities, 2))

    def siglip(self) -> Optimum | None:
        """Compute the optimum of SigLIP: the sum of its loss over pairs of modalities."""
        return _sum((1.0, self.sigmoid((a,), (b,))) for a, b in combinations(self.modalities, 2))

    def hub(self, hub: str) -> Optimum | None:
        """Compute the optimum of ImageBind: the sum over pairs with the hub. Raises ValueError for an unknown
        modality."""
        return _sum((1.0, self.infonce((hub,), (m,))) for m in self.modalities if m != hub)

    def confu(self, weight: float = 0.5) -> Optimum | None:
        """Compute the optimum of ConFu (arXiv 2511.21331): (1 - weight) x pairs + weight x fusions, a fusion being two
        modalities against each one outside them."""
        return self._fused(weight, (2,))

    def confu_subsets(self, weight: float = 0.5) -> Optimum | None:
        """Compute the optimum of ConFu with every subset of two modalities or more against each one outside it."""
        return self._fused(weight, range(2, len(self.modalities)))

    def confu_chain(self) -> Optimum | None:
        """Compute the optimum of sum_{k >= 2} NCE(pi(1) .. pi(k-1), pi(k)), a step's expected loss over permutations
        pi. Where modalities are missing, a sample's prefix is what is there of it, if anything is."""
        sizes = ([*self._against(size)] for size in range(1, len(self.modalities)))
        return _sum((1 / len(terms), self._partly(group, m)) for terms in sizes for group, m in terms)

    def _partly(self, group: Group, target: str) -> Optimum | None:
        if share(self.seen, (*group, target)) == share(self.seen, (target,)):
            return self.infonce(group, (target,))
        return self._once(_partly_optimum, group, target, self.batch, tuple(self.seen.items()))

    @cached_property
    def floors(self) -> dict[str, Optimum]:
        """All optima as {objective: its optimum}, in the published form, a sum over terms; hub and anchor are the first
        modality."""
        first, *others = self.modalities
        known = {"clip": self.clip(), "siglip": self.siglip(), "hub": self.hub(first)}
        if len(others) > 1:
            known["gram"] = self.infonce((first,), tuple(others), smoothing=0.1)
        if len(others) == 2:
            known |= {"triangle": known["gram"], "symile_n_squared": self.symile_all()}
        if len(others) > 1:
            known |= {"symile": self.symile(), "confu": self.confu()}
            known |= {"confu_subsets": self.confu_subsets(), "confu_chain": self.confu_chain()}
        return {name: optimum for name, optimum in known.items() if optimum is not None}

    def as_dict(self) -> dict[str, object]:
        """Write the record as JSON-able values at full precision, without the joint distribution."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("joint", "_known")}
        seen = {",".join(pattern): p for pattern, p in self.seen.items()}
        return {**record, "seen": seen, "floors": {name: optimum._asdict() for name, optimum in self.floors.items()}}

    def _fused(self, weight: float, sizes: Iterable[int]) -> Optimum | None:
        pairs = [(1 - weight, self.infonce((a,), (b,))) for a, b in combinations(self.modalities, 2)]
        fusions = [(weight, self.infonce(group, (m,))) for size in sizes for group, m in self._against(size)]
        return _sum(pairs + fusions)

    def _against(self, size: int) -> Iterable[tuple[Group, str]]:
        """Pair every group of this size with each modality outside it."""
        return ((group, m) for group in combinations(self.modalities, size) for m in self.modalities if m not in group)

    def _once(self, optimum: Callable[..., Optimum | None], *arguments: object) -> Optimum | None:
        """Compute an optimum on the joint distribution, at most once: sums of terms share many."""
        if self.joint is None:
            return None
        key = (optimum, *arguments)
        if key not in self._known:
            self._known[key] = optimum(self.joint, *arguments)
        return self._known[key]


def _symile(joint: Joint, modalities: Group, batch: int, part: float) -> Optimum:
    return symile_optimum(_only(joint, modalities), batch, part)


def _symile_all(joint: Joint, modalities: Group, batch: int) -> Optimum | None:
    return symile_all_optimum(_only(joint, modalities), batch)


def _partly_optimum(
    joint: Joint, group: Group, target: str, batch: int, seen: tuple[tuple[Group, float], ...]
) -> Optimum:
    found = partly(joint, dict(seen), group, target)
    return infonce_optimum(found[0], group, (target,), batch, found[1]) if found else Optimum(0.0, 0.0)


def _only(joint: Joint, modalities: Group) -> Joint:
    return joint if modalities == tuple(joint.codes) else joint.marginal(modalities)


def _sum(terms: Iterable[tuple[float, Optimum | None]]) -> Optimum | None:
    """Add weighted optima; None where a term is."""
    value = no_information = 0.0
    for weight, optimum in terms:
        if optimum is None:
            return None
        value, no_information = value + weight * optimum.value, no_information + weight * optimum.no_information
    return Optimum(value, no_information)
