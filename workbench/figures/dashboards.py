"""The layout of a run's numbers in TensorBoard's custom scalars: what belongs together is one chart."""

from __future__ import annotations

import re
from collections.abc import Iterable


def layout(names: Iterable[str]) -> dict[str, dict[str, list[str | list[str]]]]:
    """Lay out dashboards for a run whose evaluations have these names: {board: {chart: [kind, patterns of tags]}}."""
    names = [name for name in names if name.startswith("eval/")]
    boards: dict[str, dict[str, str]] = {
        "loss": {
            "loss": "train/loss$",
            "terms of the loss, unweighted": "train/loss/.*",
            "rows that have a positive": "train/positives/.*",
            "gradient norm": "train/grad_norm$",
            "learning rate": "train/lr$",
        }
    }
    ways = sorted({m[1] for name in names if (m := re.match(r"(.+_to_.+?)(?<!_chance)_r\d+$", name))})
    retrieval = {_title(way): rf"{re.escape(way)}_(chance_)?r\d+$" for way in ways}
    ranks = {f"{_title(way)}: median rank": f"{re.escape(way)}_median_rank$" for way in ways}
    boards["retrieval, both ways"] = retrieval | ranks
    for prefix in _prefixes(names, "/l2m"):
        boards[f"{_title(prefix)}, with the scale that moves it"] = {
            "distance of the modalities": f"{prefix}/(l2m|distribution_gap|l2i|rmg)$",
            "alignment and uniformity": f"{prefix}/(alignment|uniformity_.*)$",
            "can they be told apart": f"{prefix}/(mixing|probe_accuracy|v_measure)$",
            "effective number of dimensions": f"{prefix}/rankme_.*$",
            "scale": "train/scale$",
        }
    for prefix in _prefixes(names, "/no_information_loss"):
        boards[f"{_title(prefix)}, against theory"] = {
            "accuracy": f"{prefix}/(accuracy|chance|bayes)$",
            "loss": f"{prefix}/(loss|floor|no_information_loss)$",
        }
    for prefix in _prefixes(names, "/balanced_accuracy"):
        boards[_title(prefix)] = {"accuracy": f"{prefix}/.*"}
    boards["throughput"] = {"samples a second": "time/samples_per_second$", "seconds a step": "time/(step|data)$"}
    return {
        board: {chart: ["Multiline", [pattern]] for chart, pattern in charts.items()}
        for board, charts in boards.items()
        if charts
    }


def _prefixes(names: list[str], suffix: str) -> list[str]:
    return sorted(re.escape(name.removesuffix(suffix)) for name in names if name.endswith(suffix))


def _title(name: str) -> str:
    return name.removeprefix("eval/").replace("_", " ").replace("/", ": ").replace("\\", "")
