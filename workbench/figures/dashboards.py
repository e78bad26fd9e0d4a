"""The layout of a run's numbers in TensorBoard: their tags, and the custom scalars, where what belongs together is one
chart.

A chart has one number of each run, so that it can be read with six runs in it: a second one doubles the lines. The
trap: TensorBoard sorts tags by the alphabet, groups them by their first word, and knows no other order; so what is to
come first or last has a word of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FIRST = "criterion"
"""the group of the metric of `eval.best`: before data, eval, time and train"""
LAST = "what_chance_gives"
"""the group of what a guess would score: behind them"""
RECALL = re.compile(r"eval/(?P<evaluator>.+)/(?P<way>[^/]+_to_[^/]+?)(?<!_chance)_r(?P<k>\d+)")
MOST_CHANCE = 0.1
"""of recalls the one with the largest k is shown whose chance is at most this: one that chance reaches says nothing"""

Charts = dict[str, list[str]]
"""{title: patterns of tags}"""


def list_tags(name: str, best: str | None = None) -> list[str]:
    """List the tags under which TensorBoard gets a metric; `best` is the metric of `eval.best`."""
    words = name.removeprefix("eval/")
    if name.startswith("eval/") and re.search(r"(^|[/_])chance(_|$)", words):
        return [f"{LAST}/{re.sub(r'chance_(?=[^/]+$)', '', words)}"]
    return [name, f"{FIRST}/{best}"] if best and words == best and name != words else [name]


def layout(record: Mapping[str, object], best: str | None = None) -> dict[str, dict[str, list[object]]]:
    """Lay out dashboards for a run whose evaluations have these values: {board: {chart: [kind, patterns of tags]}}.

    `best` is the metric of `eval.best`, whose chart is the first of all.
    """
    names = [name for name in record if name.startswith("eval/")]
    boards: dict[str, Charts] = {}
    if best:
        boards["the metric that chooses the best step"] = {best: [_exactly(f"{FIRST}/{best}")]}
    boards |= _retrieval(record)
    boards |= {_title(prefix): _accuracy(names, prefix) for prefix in _prefixes(names, "/balanced_accuracy")}
    boards |= {_title(prefix): _theory(prefix) for prefix in _prefixes(names, "/no_information_loss")}
    boards |= {_title(prefix): _gap(names, prefix) for prefix in _prefixes(names, "/l2m")}
    boards["loss"] = {
        "loss": ["train/loss$"],
        "terms of the loss, unweighted": ["train/loss/.*"],
        "rows that have a positive": ["train/positives/.*"],
        "gradient norm": ["train/grad_norm$"],
        "scale": ["train/scale$"],
        "learning rate": ["train/lr$"],
    }
    boards["throughput"] = {"samples a second": ["time/samples_per_second$"], "seconds a step": ["time/step$"]}
    return {
        board: {chart: ["Multiline", patterns] for chart, patterns in charts.items()}
        for board, charts in boards.items()
        if charts
    }


def _retrieval(record: Mapping[str, object]) -> dict[str, Charts]:
    """Give each evaluator of retrieval a board: every way at one k, with what chance gives; ranks behind them."""
    found: dict[str, dict[str, list[int]]] = {}
    for name in record:
        if match := RECALL.fullmatch(name):
            found.setdefault(match["evaluator"], {}).setdefault(match["way"], []).append(int(match["k"]))
    boards: dict[str, Charts] = {}
    for evaluator, ways in found.items():
        charts: Charts = {}
        for way, ks in sorted(ways.items()):
            k = _choose_k(record, f"eval/{evaluator}/{way}", ks)
            tags = f"eval/{evaluator}/{way}_r{k}", f"{LAST}/{evaluator}/{way}_r{k}"
            charts[f"{_title(way)}: recall at {k}"] = [_exactly(tag) for tag in tags]
        charts |= {
            f"{_title(way)}: median rank": [_exactly(f"eval/{evaluator}/{way}_median_rank")] for way in sorted(ways)
        }
        boards[_title(evaluator)] = charts
    return boards


def _choose_k(record: Mapping[str, object], way: str, ks: list[int]) -> int:
    chances = {k: record.get(f"{way}_chance_r{k}") for k in ks}
    telling = [k for k, chance in chances.items() if isinstance(chance, float) and chance <= MOST_CHANCE]
    return max(telling, default=min(ks))


def _accuracy(names: list[str], prefix: str) -> Charts:
    shown = [fact for fact in ("accuracy", "balanced_accuracy") if f"{prefix}/{fact}" in names]
    chance = _exactly(f"{LAST}/{prefix.removeprefix('eval/')}/chance")
    return {_title(fact): [_exactly(f"{prefix}/{fact}"), chance] for fact in shown}


def _theory(prefix: str) -> Charts:
    """Put a task's numbers beside what is known of them: the best that can be, and what knowing nothing scores."""
    chance = _exactly(f"{LAST}/{prefix.removeprefix('eval/')}/chance")
    return {
        "accuracy, with Bayes and chance": [rf"{re.escape(prefix)}/(accuracy|bayes)$", chance],
        "loss, with its floor and that of no information": [rf"{re.escape(prefix)}/(loss|floor|no_information_loss)$"],
    }


def _gap(names: list[str], prefix: str) -> Charts:
    """Draw each number of the modality gap by itself, in the order of the evaluator."""
    facts = [name.removeprefix(f"{prefix}/") for name in names if name.startswith(f"{prefix}/")]
    return {_title(fact): [_exactly(f"{prefix}/{fact}")] for fact in facts if fact != "scale"}


def _prefixes(names: list[str], suffix: str) -> list[str]:
    return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))


def _exactly(tag: str) -> str:
    return f"{re.escape(tag)}$"


def _title(name: str) -> str:
    return name.removeprefix("eval/").replace("_", " ").replace("/", ": ")
