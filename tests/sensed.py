"""A data set of the user's own with sounds, readings and frames, some of them missing; `RECIPE` trains on it."""

from pathlib import Path
from typing import Any

DATA = """
import math
import torch
from workbench.types import Items, Modality, Sample, Split

class Sensed:
    '''Sound, vector and frames of one hidden pitch each; every third sample lacks its frames.'''
    def __init__(self, *, samples: int = 24, sounds: int = 1):
        self.samples, self.sounds = samples, sounds
        self.modalities = {
            "speech": Modality("audio", (4_000,), rate=8_000, count=sounds),
            "sensor": Modality("vector", (3,), measured=True),
            "face": Modality("sequence", (6, 2), measured=True),
        }
    def __len__(self):
        return self.samples
    def item(self, modality, index):
        draw = torch.Generator().manual_seed(index)
        pitch = 0.5 + torch.rand((), generator=draw)
        if modality == "sensor":
            return 100 + pitch * torch.tensor([1.0, 7.0, 0.1])
        if modality == "face":
            return pitch * torch.rand(1 + index % 9, 2, generator=draw)
        rate = (8_000, 11_025, 16_000)[index % 3]
        return torch.sin(440 * math.tau * pitch * torch.arange(1_000 + 900 * (index % 7)) / rate), rate
    def sample(self, index, rng):
        there = [m for m in self.modalities if m != "face" or index % 3]
        return Sample({m: [self.item(m, index)] * (self.sounds if m == "speech" else 1) for m in there}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
    def split(self, name):
        ids = torch.arange(12)
        return Split({m: Items([self.item(m, 100 + i) for i in range(12)], ids) for m in self.modalities}, paired=True)
"""


def recipe(folder: Path, **more: Any) -> dict[str, Any]:
    """The tree of a recipe whose data class lies in the folder; `more` replaces sections."""
    (folder / "sensed.py").write_text(DATA)
    sequence = {"name": "sequence", "width": 8, "heads": 2, "layers": 1, "drop_frames": 0.2, "dropout": 0.1}
    return {
        "name": "sensed",
        "data": {"name": f"{folder / 'sensed.py'}:Sensed"},
        "model": {
            "dim": 16,
            "encoders": {
                "speech": {"name": "audio", "model": "test_vit", "mels": 32},
                "sensor": {"name": "mlp", "depth": 2, "noise": 0.1},
                "face": sequence,
            },
            "fusion": {"name": "mlp", "hidden": 16},
        },
        "objective": "confu",
        "train": {"batch": 8, "for": "3 steps", "lr": 1e-3},
        "eval": {"retrieval": {}},
        "log": {"tensorboard": False},
        "parallel": {"workers": 0},
    } | more
