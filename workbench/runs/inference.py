"""Trained models for use: `workbench.load(RUN)`, and the evaluation of a run.

What exists only while training (ITO's fusion module, the optimizer) is never built here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.build import Parts, build_parts
from workbench.distributed.processes import Parallel
from workbench.recipe.schema import Recipe
from workbench.runs.folder import RunError, find_checkpoint, read_recipe
from workbench.scoring.embedding import Embedder
from workbench.training import checkpoint
from workbench.training.checkpoint import DamagedCheckpoint
from workbench.types import Side


class DualEncoder:
    """An image and a text tower in eval mode, in one space.

    `.preprocess` PIL image -> normalised pixels [3, h, w]; `.tokenizer` str -> token ids [l].
    """

    def __init__(self, parts: Parts, device: torch.device) -> None:
        kinds = {parts.data.modalities[m].kind: m for m in parts.model.encoders}
        if not {"image", "text"} <= kinds.keys():
            raise ValueError(f"the run has no image and text tower, it has {list(parts.model.encoders)}")
        self.model = parts.model.to(device).eval()
        self._image, self._text = kinds["image"], kinds["text"]
        transforms = parts.transforms(train=False)
        self.preprocess: Callable[[Any], Tensor] = transforms[self._image]
        self.tokenizer: Callable[[str], Tensor] = transforms[self._text]
        self._embed = Embedder(self.model, transforms, device)

    def encode_image(self, images: Sequence[Any] | Tensor) -> Float[Tensor, "n d"]:
        """Unit rows, fp32, of PIL images or of pixels [n, 3, h, w]: floats that are already normalised, or bytes."""
        return self._encode(self._image, images)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit rows, fp32. Raises ValueError for a bare string."""
        if isinstance(texts, str):
            raise ValueError(f"encode_text takes a list of strings, not one: write [{texts!r}]")
        return self._encode(self._text, texts)

    def _encode(self, modality: str, items: Sequence[Any] | Tensor) -> Tensor:
        side = Side((modality,))
        return self._embed({modality: items}, [side])[side].z[:, 0]


def load(path: str | Path, which: str = "last") -> DualEncoder:
    """The dual encoder of a run folder, from its `last` checkpoint, its `best`, or a step.

    Raises RunError when `path` is no run or has no such checkpoint, DamagedCheckpoint when its files are damaged.
    """
    parts, _ = load_parts(Path(path), which, read_recipe(Path(path)))
    return DualEncoder(parts, Parallel().device)


def evaluate_run(
    run: Path, which: str = "last", suites: Sequence[str] = (), overrides: Sequence[str] = ()
) -> tuple[int, dict[str, float]]:
    """(step, metrics by name) of a run's evaluators, or of the named ones. Raises RunError, RecipeError, ValueError."""
    recipe = read_recipe(run, tuple(overrides))
    unknown = set(suites) - set(recipe.eval.evaluators)
    if unknown:
        raise RunError(
            f"no suite {sorted(unknown)} in the recipe's eval block (there are: {', '.join(recipe.eval.evaluators)})"
        )
    parts, step = load_parts(run, which, recipe)
    chosen = {key: spec for key, spec in recipe.eval.evaluators.items() if not suites or key in suites}
    parallel = Parallel()
    parts.model.to(parallel.device)
    return step, dict(parts.evaluate(parallel, chosen))


def load_parts(run: Path, which: str, recipe: Recipe) -> tuple[Parts, int]:
    """Parts with the weights of a checkpoint, less those that exist only while training; and its step."""
    path = find_checkpoint(run, which)
    parts = build_parts(recipe, pretrained=False, training=False)
    left_out = parts.model.fusion is not None and not parts.model.fusion.kept_at_inference
    if left_out:
        parts.model.fusion = None
    checkpoint.load_weights(checkpoint.parts(parts.model, parts.objective), path, "model.fusion." if left_out else "")
    parts.model.eval()
    return parts, checkpoint.read_state(path).step


__all__ = ["DamagedCheckpoint", "DualEncoder", "evaluate_run", "load"]
