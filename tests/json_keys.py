"""The keys that commands print with --json: a promise to scripts. Tests that run a command anyway hold it to them."""

from __future__ import annotations

import difflib

KEYS = {
    "check --overfit": "error overfit",
    "claim": "claim controls e_value endpoints estimate high left_out low open reason registration seeds source "
    "verdict",
    "claim: endpoints": "a at b e_value estimate expect finding high low margin metric needed seeds",
    "claim --dry": "at_once disk done free_disk hours least_seeds max_seeds runs",
    "compare": "arms at conflicts costs differences left_out metric metrics notes recipes runs sentences values",
    "compare: differences": "a b high low mean n se seeds unpaired",
    "data build tux": "effects left_out licence name out pictures rows stamps voices",
    "data inspect": "bad beside captions combinations fields files images images_per_second inspected pairs path "
    "source usable",
    "embed": "bad embedded_by embedded_from fields left_out out resumed rows several",
    "eval": "metrics run step",
    "eval --per-class": "metrics per_class run step",
    "export": "differences dropped files format items largest_difference out package prepared run samples step version",
    "init": "data fields found machine next notes objective out scripts synergy why",
    "pretrain": "finished metrics run step",
    "pretrain --dry": "activation_bytes activation_bytes_per_sample batch embedding_bytes_per_sample flops_per_sample "
    "frozen gathered_bytes gpu_hours hours input_bytes_per_sample memory_bytes missing_data parameters processes "
    "samples_at_once samples_at_once_each shares spared_bytes state_bytes total_frozen total_parameters total_samples",
    "search": "among asked_by bad query results run step",
    "search: results": "name rank score text",
    "sweep": "arms folder metric runs sweep",
    "sweep: arms": "mean n overrides se",
    "sweep: runs": "arm best error metrics run seconds seed state",
    "sweep --arm": "finished metrics run step",
    "sweep --dry": "at_once disk done free_disk hours missing_data runs",
    "synergy": "bad data seed targets",
    "synergy: targets": "fused gain pairs single summed word",
    "synth": "results task truth",
    "synth: results": "accuracy bayes chance floor loss loss_se no_information_loss objective recovered seconds seed "
    "verdict",
    "synth --list": "batch bayes_accuracy best_single_accuracy chance floors given majority modalities "
    "pairwise_information seen target task total_correlation",
    "synth --task all": "cells options results row task truth",
}
"""{a command, with the options that change what it prints, or with one of its keys: the keys there}"""


def assert_keys(call: str, printed: object) -> None:
    """Fail with a line for each key that has come or gone in an object, or in any object of a list."""
    for row in printed if isinstance(printed, list) else [printed]:
        assert_same({call: set(row)}, {call: set(KEYS[call].split())})


def assert_same(found: dict[str, set[str]], frozen: dict[str, set[str]]) -> None:
    """Fail with a line for each word of the command line that has come or gone."""

    def lines(surface: dict[str, set[str]]) -> list[str]:
        return [f"wb {name}: {word}" for name in sorted(surface) for word in sorted(surface[name]) or ["nothing"]]

    changes = [line for line in difflib.ndiff(lines(frozen), lines(found)) if line[0] in "+-"]
    assert not changes, "the surface has changed; scripts rely on it:\n" + "\n".join(changes)
