"""Run folders whose values are given: what a training leaves behind, without the training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

WITNESS = Path(__file__).parent / "golden" / "runs" / "one" / "recipe.yaml"
METRIC = "synthetic/accuracy"


def make_run(
    path: Path,
    seed: int,
    values: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    done: bool = True,
    fingerprint: str | None = None,
    recipe: str | None = None,
    **changes: object,
) -> Path:
    """Write a run that was evaluated every ten steps, with these values of accuracy, or of {metric: values}.

    `changes` are dotted keys of the witness's recipe with `__` for a dot; `recipe` is the text of another one.
    """
    tree = {} if recipe else yaml.safe_load(WITNESS.read_text())
    tree["seed"] = seed
    for key, value in changes.items():
        *above, last = key.split("__")
        block = tree
        for word in above:
            block = block[word]
        block[last] = value
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(recipe or yaml.safe_dump(tree))
    (path / "environment.json").write_text('{"packages": {"multimodal-workbench": "0.2.0"}}')
    curves = values if isinstance(values, Mapping) else {METRIC: values}
    lines = []
    for number in range(max(map(len, curves.values()), default=0)):
        step = 10 * number
        if step:
            lines.append({"step": step, "samples": 32 * step, "time/step": 0.5, "time/samples_per_second": 64.0})
        found = {f"eval/{name}": curve[number] for name, curve in curves.items() if number < len(curve)}
        lines.append({"step": step, "samples": 32 * step, **found})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done:
        (path / "DONE").write_text(json.dumps({"step": 10, "peak_bytes": 3 * 2**20}))
    if fingerprint:
        (path / "data.json").write_text(json.dumps({"blake2b": fingerprint}))
    return path
