"""The programs that `workbench.bench.train` compares, as a shell starts them: `wb pretrain` and open_clip_train.

Both get the same towers, tars, batch, precision, optimizer, clipping, crops and number of data workers, and neither
evaluates, saves or writes TensorBoard while it is timed. The trap: what starts up must not count, so a round is judged
by its windows of steps behind the first ones.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import open_clip
import yaml

from workbench.recipe.yaml_file import Tree
from workbench.training.metrics import read

TINY: Tree = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 192, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
"""a ViT and a text transformer that two CPU cores train at some hundred samples a second"""
LR, WEIGHT_DECAY, BETA1, BETA2, EPS, CLIP = 5e-4, 0.2, 0.9, 0.98, 1e-6, 1.0


@dataclass(frozen=True)
class Setting:
    """The training that both programs are asked for."""

    model: str
    """`tiny`, or a model of open_clip, with @PIXELS behind it for pictures of another size than its own"""
    batch: int
    precision: str
    """fp32, or bf16: autocast with fp32 weights in both"""
    workers: int
    steps: int
    every: int
    """steps between two looks at the clock"""
    device: str = "cpu"

    @property
    def config(self) -> Tree:
        """The towers in open_clip's words. Raises ValueError for a model that it does not have."""
        name, _, pixels = self.model.partition("@")
        found = TINY if name == "tiny" else open_clip.get_model_config(name)
        if found is None:
            raise ValueError(f"open_clip has no model '{name}': take tiny, or one of open_clip.list_models()")
        if not pixels:
            return found
        if not pixels.isdecimal():
            raise ValueError(f"'{self.model}': the pixels behind @ are a number, as in {name}@112")
        tower = cast(Tree, found["vision_cfg"])
        return {**found, "vision_cfg": {**tower, "image_size": int(pixels)}}


@dataclass(frozen=True)
class Round:
    """The speed and memory that one start of a program showed."""

    samples_per_second: float
    """batch rows, in the median window"""
    waited: float
    """share of the time that was spent waiting for data, by the program's own log, in the windows behind the first"""
    peak_bytes: float


def run_ours(setting: Setting, tars: Path, folder: Path, objective: str = "clip") -> Round:
    """Start `wb pretrain`, timed by an evaluator."""
    recipe, run = folder / "recipe.yaml", folder / "run"
    recipe.write_text(yaml.safe_dump(write_recipe(setting, tars, objective), sort_keys=False), encoding="utf-8")
    _start(["workbench", "pretrain", str(recipe), "--run", str(run)], folder)
    # the step behind them is not timed: before the clock is read at the last one, a checkpoint is saved
    records = [record for record in read(run / "metrics.jsonl") if record["step"] <= setting.steps]
    looks = [record for record in records if "eval/clock/seconds" in record]
    behind = [record for record in records if "time/step" in record and record["step"] > looks[1]["step"]]
    return Round(
        setting.batch / _seconds({look["step"]: look["eval/clock/seconds"] for look in looks}),
        sum(step["time/data"] for step in behind) / sum(step["time/step"] for step in behind),
        looks[-1]["eval/clock/peak_bytes"],
    )


def write_recipe(setting: Setting, tars: Path, objective: str = "clip") -> Tree:
    """Write the recipe of our side; `ito` has two views with its own augmentation, and a fusion module."""
    config, ito = setting.config, objective == "ito"
    image = {"name": "open_clip", "config": config["vision_cfg"], "augment": "ito" if ito else "clip"}
    text = {"name": "open_clip", "config": config["text_cfg"]}
    model = {"dim": config["embed_dim"], "encoders": {"image": image, "text": text}}
    return {
        "name": "bench-train",
        "data": {"name": "shards", "path": str(tars / "train-*.tar"), "fields": {"image": {"views": 2 if ito else 1}}},
        "model": model | ({"fusion": {"name": "transformer", "layers": 2, "heads": 8}} if ito else {}),
        "objective": objective,
        "train": {
            "for": f"{setting.steps + 1} steps",
            "batch": setting.batch,
            "lr": LR,
            "warmup": "100 steps",
            "weight_decay": WEIGHT_DECAY,
            "betas": [BETA1, BETA2],
            "eps": EPS,
            "clip": CLIP,
            "precision": setting.precision,
        },
        "eval": {"every": f"{setting.every} steps", "start": False, "clock": "workbench.bench.train_clock:Clock"},
        "checkpoint": {"every": f"{setting.steps + 1} steps"},
        "parallel": {"workers": setting.workers},
        "log": {"tensorboard": False},
    }


def run_theirs(setting: Setting, tars: Path, folder: Path) -> Round:
    """Start open_clip_train, timed by its own log, and by the clock when a line of it is written."""
    config, out = folder / "wb-bench.json", folder / "stamps.json"
    config.write_text(json.dumps(setting.config), encoding="utf-8")
    _start(["workbench.bench.train_clock", str(config), str(out), *write_arguments(setting, tars, folder)], folder)
    rows = json.loads(out.read_text(encoding="utf-8"))
    looks = [row | {"step": row["samples"] // setting.batch} for row in rows]
    behind = [(b["step"] - a["step"], b) for a, b in pairwise(looks)][1:]  # a line has means since the last
    return Round(
        setting.batch / _seconds({look["step"]: look["seconds"] for look in looks}),
        sum(steps * look["waited"] for steps, look in behind) / sum(steps * look["took"] for steps, look in behind),
        looks[-1]["peak_bytes"],
    )


def write_arguments(setting: Setting, tars: Path, folder: Path) -> list[str]:
    """Write open_clip's command line for the same training."""
    files = sorted(tars.glob("train-*.tar"))
    first, last = (file.stem.removeprefix("train-") for file in (files[0], files[-1]))
    options = {
        "train-data": f"{tars}/train-{{{first}..{last}}}.tar",
        "train-num-samples": setting.steps * setting.batch,
        "dataset-type": "webdataset",
        "model": "wb-bench",
        "batch-size": setting.batch,
        "epochs": 1,
        "workers": setting.workers,
        "precision": {"fp32": "fp32", "bf16": "amp_bf16"}[setting.precision],
        "lr": LR,
        "warmup": 100,
        "wd": WEIGHT_DECAY,
        "beta1": BETA1,
        "beta2": BETA2,
        "eps": EPS,
        "grad-clip-norm": CLIP,
        "log-every-n-steps": setting.every,
        "device": setting.device,
        "logs": folder / "logs",
        "name": "run",
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _seconds(clock: dict[int, float]) -> float:
    """Time a step: the median over the windows between looks at {step: clock}, without the first one."""
    windows = [(b - a) / (last - first) for (first, a), (last, b) in pairwise(sorted(clock.items()))]
    assert windows, "a round needs two looks at the clock"
    return statistics.median(windows[1:] or windows)


def _start(module: list[str], folder: Path) -> None:
    """Run a module to its end. Raises RuntimeError with the end of what it said when it fails."""
    log = folder / "output.txt"
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.call([sys.executable, "-m", *module], stdout=file, stderr=subprocess.STDOUT)
    if status:
        said = log.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"{' '.join(module)} ended with status {status}:\n{said}")
