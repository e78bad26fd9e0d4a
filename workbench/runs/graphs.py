"""A model of ONNX graphs, one an encoder, computed by onnxruntime: what `workbench.load` makes of such an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.errors import RunError
from workbench.model import Model
from workbench.types import Kind, Modality, Side, View, Views

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUTS: Mapping[Kind, str] = {
    "image": "pixel_values",
    "text": "input_ids",
    "audio": "waveforms",
    "sequence": "frames",
    "vector": "vectors",
}
"""{kind of a modality: what its graph calls the model inputs}"""
FEATURES = "features"
"""the output of an encoder's graph that the fusion reads"""
FUSION = "fusion"
"""the name of the graph that fuses"""


def name_puts(modality: str, kind: Kind, sides: Sequence[Side]) -> tuple[str, str]:
    """Name the input of a modality's graph and its features: a field may be called `frames`, and its side is, too."""
    taken = {modality, *map(str, sides)}

    def free(name: str) -> str:
        return free(f"{name}_") if name in taken else name

    return free(INPUTS[kind]), free(FEATURES)


class GraphModel(Model):
    """Embeds model inputs by graphs: image.onnx gives the rows of `image`, fusion.onnx those of every fused side.

    Args:
        folder: where the graphs lie.
        modalities: {its name, which is that of its graph: what it reads}.
        sides: what the graphs give.

    Raises RunError without onnxruntime, and for a graph that cannot be read.
    """

    def __init__(self, folder: Path, modalities: Mapping[str, Modality], sides: Sequence[str]) -> None:
        super().__init__({}, {}, None)
        made = list(map(Side.parse, sides))
        used = list(dict.fromkeys(m for side in made for m in side.members))
        names = [*used, *([FUSION] if any(side.fused for side in made) else [])]
        self.graphs = {name: open_graph(folder / f"{name}.onnx") for name in names}
        self.puts = {m: name_puts(m, modalities[m].kind, [s for s in made if s.members == (m,)]) for m in used}

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        valid: Mapping[str, Tensor],
        sides: Sequence[Side],
        reseed: Callable[[str], None] = lambda _: None,
    ) -> Views:
        """Embed model inputs {modality: [n, 1, ...]} as the sides that are asked for, in unit rows."""
        asked = [Side.parse(side) for side in sides]
        outputs = {m: self._run_tower(m, inputs[m]) for m in dict.fromkeys(m for side in asked for m in side.members)}
        views = {}
        for side in asked:
            rows = self._run_fusion(side, outputs) if side.fused else outputs[side.members[0]][str(side)]
            views[side] = View(rows[:, None], torch.ones(len(rows), 1, dtype=torch.bool))
        return views

    def _run_tower(self, modality: str, x: Tensor) -> dict[str, Tensor]:
        """Run the graph of a modality: {output: rows}. Raises ValueError for bytes, which it does not normalise."""
        if x.dtype == torch.uint8:
            raise ValueError(f"the graph of {modality} reads normalised pixels, and these are bytes: give pictures")
        return run(self.graphs[modality], {self.puts[modality][0]: x.flatten(0, 1)})

    def _run_fusion(self, side: Side, outputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Run the graph that fuses; what is no member of the side is not read, but has to be there."""
        graph = self.graphs[FUSION]
        features = {m: outputs[m][self.puts[m][1]] for m in side.members}
        like = features[side.members[0]]
        given = {put.name: like.new_zeros(len(like), put.shape[1]) for put in graph.get_inputs()}
        return run(graph, given | features, str(side))[str(side)]


def open_graph(file: Path) -> InferenceSession:
    """Open a graph on the CPU. Raises RunError where it cannot be had."""
    library = import_onnxruntime()
    try:
        return library.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has classes of its own for all that can be wrong
        raise RunError(f"{file} is no graph that can be read ({str(error)[:200]}): export the run again") from None


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime. Raises RunError that says which extra has it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise RunError(
            f"it needs the package onnxruntime ({error}): pip install 'multimodal-workbench[export]'"
        ) from None
    return onnxruntime


def run(graph: InferenceSession, inputs: Mapping[str, Tensor], output: str | None = None) -> dict[str, Tensor]:
    """Run a graph, for all of its outputs or for one. Raises ValueError, in onnxruntime's words, where it cannot."""
    names = [output] if output else [put.name for put in graph.get_outputs()]
    try:
        found = graph.run(names, {name: x.numpy() for name, x in inputs.items()})
    except Exception as error:  # onnxruntime has classes of its own
        raise ValueError(f"onnxruntime cannot compute {', '.join(names)}: {' '.join(str(error).split())}") from None
    return {name: torch.from_numpy(x) for name, x in zip(names, found, strict=True)}
