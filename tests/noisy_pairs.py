"""A data set of the user's own, for runs that are broken and resumed: fast, with noise, of which an epoch is short."""

DATA = """
import os
import torch
from workbench.types import Items, Modality, Sample, Split

class Pairs:
    '''Two noisy looks at one of many points; an epoch has six steps, so epochs end often.'''
    def __init__(self, *, samples: int = 200):
        self.samples = samples
        self.modalities = {"a": Modality("vector", (6,)), "b": Modality("vector", (6,), count=2)}
    def __len__(self):
        return self.samples
    def sample(self, index, rng):
        point = torch.randn(6, generator=torch.Generator().manual_seed(index))
        if os.environ.get("POISON") == str(index):
            point[2] = float("nan")
        look = lambda: point + 0.1 * torch.from_numpy(rng.normal(size=6)).float()
        return Sample({"a": [look()], "b": [look()] * (1 + index % 2)}, index)
    def batches(self, start, feed):
        return feed.load(self, start)
    def split(self, name):
        items = [torch.randn(6, generator=torch.Generator().manual_seed(i)) for i in range(20)]
        return Split({m: Items(items, torch.arange(20)) for m in "ab"})
"""
