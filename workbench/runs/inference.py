"""Trained models for use: `workbench.load(RUN)`, and the evaluation of a run.

What exists only while training (ITO's fusion module, the optimizer) is never built here, and published weights that a
run began from are not looked for: its checkpoint holds everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.build import Parts, build_parts
from workbench.distributed.processes import device
from workbench.errors import RunError
from workbench.model import Model
from workbench.recipe.schema import Recipe
from workbench.runs.exported import Manifest, is_export, read_export
from workbench.runs.folder import find_checkpoint, read_recipe
from workbench.runs.items import Reader
from workbench.scoring.embedding import Embedder
from workbench.starting import collect_as_usual
from workbench.training import checkpoint, checkpoint_files
from workbench.training.checkpoint_files import DamagedCheckpoint
from workbench.types import Modality, Side, Transform


class LoadedModel:
    """A trained model in eval mode: raw items in, unit rows in the shared space out.

    `sides` are the sides that can be embedded: modalities, second heads, and fused sides unless their fusion module
    exists only while training.

    Args:
        model: the model, with trained weights.
        modalities: what each of its encoders reads.
        sides: the sides that it can embed.
        transforms: {modality: raw item -> model input}, as an evaluation prepares them.
        device: where the model computes; rows come back on the CPU.
        image: the modality that `encode_image` and `preprocess` mean, where several are images.
        text: the modality that `encode_text` and `tokenizer` mean, where several are texts.

    Raises ValueError when `image` or `text` is no modality of that kind.
    """

    def __init__(
        self,
        model: Model,
        modalities: Mapping[str, Modality],
        sides: Sequence[Side],
        transforms: Mapping[str, Transform],
        device: torch.device,
        image: str | None = None,
        text: str | None = None,
    ) -> None:
        self.model = model.to(device).eval()
        self.modalities, self.sides = dict(modalities), list(sides)
        self._transforms = transforms
        self._named = {"image": image, "text": text}
        for kind, name in self._named.items():
            if name is not None and name not in self._of_kind(kind):
                raise ValueError(f"{kind}={name!r}: the model has {self._of_kind(kind) or 'none'} of that kind")
        self._readers = {m: Reader(m, modality, self._transforms[m]) for m, modality in self.modalities.items()}
        self._embed = Embedder(self.model, {m: reader.input for m, reader in self._readers.items()}, device)

    @property
    def preprocess(self) -> Transform:
        """PIL picture of any mode -> normalised pixels [3, h, w]. Raises ValueError where it is not clear of which."""
        return self._transforms[self._the("image")]

    @property
    def tokenizer(self) -> Transform:
        """str -> token ids [l]. Raises ValueError where it is not clear of which modality."""
        return self._transforms[self._the("text")]

    @property
    def preprocessors(self) -> Mapping[str, Transform]:
        """Give for each modality the map of one raw item to one model input, as an evaluation uses it."""
        return self._transforms

    def encode(
        self, items: Mapping[str, object], sides: Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "n d"]]:
        """Embed items of one or more modalities as unit rows, fp32, of every side that they make up, or of `sides`.

        Args:
            items: {modality: a list of items}: pictures (PIL, paths, bytes, arrays [h, w, 3] of uint8), strings,
                sounds (paths, bytes, or a waveform and its rate), vectors and sequences of frames [l, d] (numbers, or
                paths of a .npy); or a tensor of model inputs, as `preprocessors` give them. Row i of a fused side is
                made of item i of each member.
            sides: names of sides, as "image" or "image+text"; by default all whose members are among the items.

        Raises ValueError for a side that the model does not have, for items that cannot be read, and for a fused side
        whose members have different numbers of items.
        """
        if unknown := [m for m in items if m not in self.modalities]:
            raise ValueError(f"the model has no modality {', '.join(unknown)}: it has {', '.join(self.modalities)}")
        wanted = self._sides(list(items), sides)
        members = dict.fromkeys(m for side in wanted for m in side.members)
        inputs = {m: self._readers[m].items(items[m]) for m in members}
        aligned = len({len(x) for x in inputs.values()}) == 1  # then a tower that several sides share runs once
        rows: dict[str, Tensor] = {}
        for group in [wanted] if aligned else [[side] for side in wanted]:
            rows |= self._rows({m: inputs[m] for side in group for m in side.members}, group)
        return rows

    def _rows(self, inputs: Mapping[str, Sequence[object] | Tensor], sides: Sequence[Side]) -> dict[str, Tensor]:
        counts = {m: len(x) for m, x in inputs.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"side '{sides[0]}' joins item i of each member, and of these there are {counts}: "
                "give as many of each, or name the sides that you want, as sides=['image']"
            )
        return {str(side): view.z[:, 0] for side, view in self._embed(inputs, sides).items()}

    def encode_image(self, images: object) -> Float[Tensor, "n d"]:
        """Embed pictures as unit rows, fp32.

        Args:
            images: a list of pictures (PIL, paths, bytes, arrays [h, w, 3] of uint8), or pixels in one tensor
                [n, 3, h, w]: floats that are already normalised, or bytes.

        Raises ValueError for one picture instead of a list, for what is no picture, and where the model has several
        modalities of images, or none.
        """
        return self._encode_plain(self._the("image"), images)

    def encode_text(self, texts: object) -> Float[Tensor, "n d"]:
        """Embed a list of strings as unit rows, fp32.

        Raises ValueError for one string instead of a list, and where the model has several modalities of text of which
        none is called text, or none.
        """
        return self._encode_plain(self._the("text"), texts)

    def _encode_plain(self, modality: str, items: object) -> Tensor:
        return self.encode({modality: items}, [modality])[modality]

    def _of_kind(self, kind: str) -> list[str]:
        return [m for m, modality in self.modalities.items() if modality.kind == kind]

    def _the(self, kind: str) -> str:
        """The modality of a kind that is meant: the one that was named, the only one, or that of the kind's name."""
        there, named = self._of_kind(kind), self._named[kind]
        if named is not None:
            return named
        if len(there) == 1 or kind in there:
            return kind if kind in there else there[0]
        if not there:
            raise ValueError(f"the model has no modality of kind {kind}: it has {', '.join(self.modalities)}")
        raise ValueError(
            f"the model has several modalities of kind {kind} ({', '.join(there)}): name one, as "
            f"workbench.load(run, {kind}={there[0]!r}), or call encode({{{there[0]!r}: [...]}})"
        )

    def _sides(self, given: Sequence[str], names: Sequence[str] | None) -> list[Side]:
        if isinstance(names, str):
            raise ValueError(f"sides is a list of names: write [{names!r}]")
        if names is None:
            made = [side for side in self.sides if set(side.members) <= set(given)]
            if not made:
                raise ValueError(f"no side of the model is made of {', '.join(given) or 'nothing'}: {self._list()}")
            return made
        wanted = [replace(Side.parse(name), options=frozenset()) for name in names]
        for side in wanted:
            if side not in self.sides and (side.fused or side.head or side.members[0] not in self.modalities):
                raise ValueError(f"the model has no side '{side}': {self._list()}")
            if missing := [m for m in side.members if m not in given]:
                raise ValueError(f"side '{side}' needs items of {', '.join(missing)}, and there are {list(given)}")
        return wanted

    def _list(self) -> str:
        return f"it has {', '.join(map(str, self.sides))}"


def as_loaded(parts: Parts, device: torch.device, image: str | None = None, text: str | None = None) -> LoadedModel:
    """Make parts with trained weights a model for use. Raises ValueError as `LoadedModel` does."""
    modalities = {m: parts.data.modalities[m] for m in parts.model.encoders}
    return LoadedModel(
        parts.model, modalities, kept_sides(parts), parts.transforms(train=False), device, image=image, text=text
    )


def kept_sides(parts: Parts) -> list[Side]:
    """List the sides that were trained and can still be made, without options: with one view they change nothing."""
    trained = [replace(side, options=frozenset()) for side in parts.objective.all_sides]
    return [s for s in dict.fromkeys(trained) if not s.fused or parts.model.fusion is not None]


def load(
    path: str | Path, checkpoint: str | int = "last", *, image: str | None = None, text: str | None = None
) -> LoadedModel:
    """Load the model of a run folder, from its `last` checkpoint, its `best`, or that of a step; or of an export.

    Args:
        path: the run folder; it may have been moved, and the data need not be there. Or a folder of `wb export`.
        checkpoint: last, best, or a step; an export holds one and takes no other than last.
        image: which modality `encode_image` means, where several are images.
        text: which modality `encode_text` means, where several are texts and none is called text.

    Raises RunError when `path` is no run or has no such checkpoint, DamagedCheckpoint when its files are damaged.
    """
    if is_export(Path(path)):
        if str(checkpoint) != "last":
            raise RunError(f"{path} is an export, which holds the weights of one step: leave checkpoint={checkpoint!r}")
        return load_export(Path(path), image, text)
    parts, _ = load_parts(Path(path), str(checkpoint), read_recipe(Path(path)))
    return as_loaded(parts, device(), image, text)


def load_export(path: Path, image: str | None = None, text: str | None = None) -> LoadedModel:
    """Load the model that `wb export` has written into a folder. Raises RunError where its files are damaged."""
    found = read_export(path)
    sides = list(map(Side.parse, found.manifest.sides))
    where = device_of(found.manifest)
    return LoadedModel(found.model, found.manifest.modalities, sides, found.transforms, where, image=image, text=text)


def device_of(manifest: Manifest) -> torch.device:
    """Say where the model of an export computes: graphs are run by onnxruntime, on the CPU."""
    return torch.device("cpu") if manifest.format == "onnx" else device()


def evaluate_run(
    run: Path, which: str = "last", suites: Sequence[str] = (), overrides: Sequence[str] = ()
) -> tuple[int, dict[str, float]]:
    """Run a run's evaluators, or the named ones, on a checkpoint; returns (its step, metrics by name).

    Raises RunError for a suite that the recipe does not have, RecipeError, ValueError.
    """
    recipe = read_recipe(run, tuple(overrides))
    unknown = set(suites) - set(recipe.eval.evaluators)
    if unknown:
        raise RunError(
            f"no suite {sorted(unknown)} in the recipe's eval block (there are: {', '.join(recipe.eval.evaluators)})"
        )
    parts, step = load_parts(run, which, recipe)
    chosen = {key: spec for key, spec in recipe.eval.evaluators.items() if not suites or key in suites}
    parts.model.to(device())
    return step, dict(parts.evaluate(device(), chosen))


def load_parts(run: Path, which: str, recipe: Recipe) -> tuple[Parts, int]:
    """Build a recipe's parts with the weights of a checkpoint; returns them, and the checkpoint's step.

    A fusion module that exists only while training is left away.
    """
    path = find_checkpoint(run, which)
    parts = build_parts(recipe, pretrained=False, training=False)
    left_out = parts.model.fusion is not None and not parts.model.fusion.kept_at_inference
    if left_out:
        parts.model.fusion = None
    checkpoint.load_weights(
        checkpoint.under_names(parts.model, parts.objective), path, "model.fusion." if left_out else ""
    )
    parts.model.eval()
    collect_as_usual()
    return parts, checkpoint_files.read_state(path).step


__all__ = ["DamagedCheckpoint", "LoadedModel", "evaluate_run", "load"]
