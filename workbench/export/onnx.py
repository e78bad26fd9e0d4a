"""One ONNX graph an encoder, for runtimes without Python or torch: image.onnx, text.onnx, and fusion.onnx on top.

A graph reads model inputs [batch, ...] and gives unit rows of each side that is made of its modality, under the side's
name; where a fusion reads its features before the projection, `features`, too. Beside the graphs lies what prepares
items: IMAGE_preprocess.json and TEXT_tokenizer.json.

The trap: an exporter that meets `len(x)` writes the number of rows that it saw into the graph, and does not say so.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.encoders._optional import require
from workbench.encoders.open_clip import OpenCLIP
from workbench.encoders.shared import Shared
from workbench.export.safetensors import write_preparations
from workbench.export.samples import Embedded, Samples
from workbench.export.source import Refusal, Source
from workbench.export.transformers import make_tokenizer
from workbench.runs.graphs import FUSION, import_onnxruntime, name_puts, open_graph
from workbench.runs.inference import load_export
from workbench.types import Encoder, Features, Fusion, Side

PACKAGE = "onnxruntime"
OPSET = 18
LARGEST_FILE = 2**30
"""bytes of weights above which they lie in a file of their own beside the graph: protobuf ends at 2 GB"""
TRIED = 3
"""rows with which a graph is recorded; it is verified with another number"""


class Tower(nn.Module):
    """An encoder with the heads on it, as one graph: a tuple of unit rows [n, d] of each side, then the features."""

    def __init__(self, encoder: Encoder, heads: Mapping[Side, nn.Module | None], features: bool) -> None:
        super().__init__()
        self.encoder, self.features = encoder, features
        self.own = [head is None for head in heads.values()]
        self.heads = nn.ModuleList(head or nn.Identity() for head in heads.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self.encoder(x)
        rows = [found.z if own else head(found.pooled) for own, head in zip(self.own, self.heads, strict=True)]
        return (*(F.normalize(z.float(), dim=-1) for z in rows), *([found.pooled] if self.features else []))


class Fused(nn.Module):
    """A fusion as one graph: features [n, h] of every modality, in their order, to unit rows of every fused side."""

    def __init__(self, fusion: Fusion, members: Sequence[str], sides: Sequence[Side]) -> None:
        super().__init__()
        self.fusion, self.members, self.sides = fusion, list(members), list(sides)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        given = {m: Features(h, h) for m, h in zip(self.members, features, strict=True)}
        return tuple(
            F.normalize(self.fusion(side, {m: given[m] for m in side.members}).float(), dim=-1) for side in self.sides
        )


def sides(source: Source) -> list[Side]:
    return list(source.sides)


def dropped(source: Source) -> list[str]:
    """All that a run can embed is written."""
    return []


def refusals(source: Source) -> Iterator[Refusal]:
    """List what cannot be written as graphs."""
    fusion = source.parts.model.fusion
    if source.fused and fusion is not None and fusion.needs_tokens:
        yield Refusal("a fusion that reads tokens and not one vector of each modality", ("safetensors",))
    if FUSION in source.encoders:
        yield Refusal(
            f"a modality called {FUSION}: its graph would lie where that of the fusion does", ("safetensors",)
        )


def write(source: Source, folder: Path) -> None:
    """Write the graphs, and what prepares items for them. Raises ValueError for what cannot be written as a graph."""
    for package in ("onnx", "onnxscript"):
        require(package, "export")
    import_onnxruntime()
    read = {m for side in source.fused for m in side.members}
    for name in _used(source):
        encoder = source.encoders[name]
        heads = dict(source.parts.model.heads.items())
        towers = {side: heads.get(str(side)) for side in source.sides_of(name)}
        x = _example(source, name)
        given, features = _puts(source, name)
        outputs = [*map(str, towers), *([features] if name in read else [])]
        _write_graph(Tower(encoder, towers, name in read).eval(), {given: x}, outputs, folder / f"{name}.onnx")
    if source.fused:
        fusion = source.parts.model.fusion
        assert fusion is not None
        members = [name for name in source.encoders if name in read]
        graph = Fused(fusion, members, source.fused).eval()
        pooled = {m: torch.randn(TRIED, source.encoders[m].width) for m in members}
        _write_graph(graph, pooled, [str(side) for side in source.fused], folder / f"{FUSION}.onnx")
    _write_preparations(source, folder)


def _example(source: Source, name: str) -> Tensor:
    """Make model inputs of one item that is there for certain."""
    from workbench.runs.items import plainest_item

    plainest = plainest_item(source.loaded.modalities[name])
    return torch.stack([source.loaded.preprocessors[name](plainest)] * TRIED)


def _write_graph(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], file: Path) -> None:
    """Record a module as a graph of any number of rows. Raises ValueError, with the reason, where torch cannot."""
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    batch = torch.export.Dim("batch")
    axes = tuple({0: batch} for _ in inputs)
    with _quietly():
        try:
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(axes,) if isinstance(module, Fused) else axes,
                verbose=False,
            )
            assert program is not None
            for part in (program.model.graph, *program.model.functions.values()):
                for node in part:
                    node.metadata_props.clear()  # where in which file of this machine it was recorded
            program.save(file, external_data=size > LARGEST_FILE)
        except Exception as error:  # an exporter raises anything
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise ValueError(
                f"torch cannot write {file.stem} as an ONNX graph ({reason.strip()[:200]}): "
                "--format safetensors holds all but classes of your own"
            ) from None
    if fixed := [put.name for put in open_graph(file).get_inputs() if isinstance(put.shape[0], int)]:
        raise ValueError(
            f"the graph of {file.stem} would read {TRIED} rows and no other number, in {', '.join(fixed)}: its forward "
            "makes a number of Python of them, as len(x) does: write x.shape[0] (the run has a copy of a class of your "
            "own in its folder code/), or choose --format safetensors, which holds all but such classes"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence what torch's exporter says of its own insides."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _tower(source: Source, name: str) -> Encoder:
    """Find the encoder that has the weights and the settings, where a field is encoded by that of another."""
    encoder = source.encoders[name]
    return encoder.holder if isinstance(encoder, Shared) else encoder


def _write_preparations(source: Source, folder: Path) -> None:
    """Write how items become model inputs: of open_clip's towers as settings, and a tokenizer that pads and cuts."""
    for name in source.encoders:
        encoder = _tower(source, name)
        if not isinstance(encoder, OpenCLIP):
            continue
        if settings := encoder.preprocess:
            keys = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
            told = {key: getattr(settings, key) for key in keys}
            (folder / f"{name}_preprocess.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        else:
            length = encoder.tower.context_length
            words = make_tokenizer(require("transformers", "export"), length).backend_tokenizer
            words.enable_truncation(length)
            words.enable_padding(length=length, pad_id=0, pad_token="!")
            words.save(str(folder / f"{name}_tokenizer.json"))
    write_preparations(source, folder)


def embed(source: Source, folder: Path, samples: Samples) -> Embedded:
    """Embed the samples by onnxruntime, all at once and the last one alone: no number of rows may be in a graph."""
    loaded, names = load_export(folder), [str(side) for side in source.sides]
    rows = loaded.encode(samples.inputs, names)
    alone = loaded.encode({m: x[-1:] for m, x in samples.inputs.items()}, names)
    rows = {name: torch.cat([z[:-1], alone[name]]) for name, z in rows.items()}
    return Embedded({Side.parse(name): z for name, z in rows.items()}, _from_raw_texts(source, folder, samples))


def _from_raw_texts(source: Source, folder: Path, samples: Samples) -> dict[Side, Tensor]:
    """Embed texts as they are, by the tokenizer that lies beside their graph."""
    tokenizers = require("tokenizers", "export")
    found = {}
    for name in source.encoders:
        if (file := folder / f"{name}_tokenizer.json").exists():
            encoded = tokenizers.Tokenizer.from_file(str(file)).encode_batch(list(samples.raw[name]))
            ids = torch.tensor([text.ids for text in encoded])
            given = load_export(folder).encode({name: ids}, [str(side) for side in source.sides_of(name)])
            found |= {Side.parse(side): z for side, z in given.items()}
    return found


def uses(source: Source) -> list[str]:
    """Show how the graphs are run with onnxruntime and numpy alone, and how they are fused."""
    blocks = [BEGIN]
    for name in _used(source):
        given = _puts(source, name)[0]
        blocks.append(f'{_preparation(source, name)}\nrows["{name}"] = run("{name}", {given}=inputs)')
    if source.fused:
        read = dict.fromkeys(m for side in source.fused for m in side.members)
        features = ", ".join(f'"{m}": rows["{m}"]["{_puts(source, m)[1]}"]' for m in read)
        blocks.append(
            "# in the place of a field that is not there stand zeros; sides that join it say nothing then\n"
            f'rows["{FUSION}"] = run("{FUSION}", **{{{features}}})'
        )
    return ["\n".join([*blocks, END])]


def _puts(source: Source, name: str) -> tuple[str, str]:
    return name_puts(name, source.loaded.modalities[name].kind, source.sides_of(name))


def _used(source: Source) -> list[str]:
    """List the modalities that some side is made of."""
    return list(dict.fromkeys(m for side in source.sides for m in side.members))


BEGIN = """\
import json

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer


def run(name, **inputs):
    graph = onnxruntime.InferenceSession(f"{name}.onnx")
    return dict(zip([output.name for output in graph.get_outputs()], graph.run(None, inputs)))


rows = {}"""
END = """\
print({name: {side: z.shape for side, z in found.items()} for name, found in rows.items()})
"""
PICTURE = """\
settings = json.load(open("{name}_preprocess.json"))
height, width = settings["size"]
picture = Image.new("RGB", (300, 200), "red")  # or Image.open("picture.jpg").convert("RGB")
scale = max(height, width) / min(picture.size)
how = Image.Resampling[settings["interpolation"].upper()]
picture = picture.resize([max(height, width, int(side * scale)) for side in picture.size], how)
left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
pixels = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32) / 255
inputs = ((pixels - np.float32(settings["mean"])) / np.float32(settings["std"])).transpose(2, 0, 1)[None]"""


def _preparation(source: Source, name: str) -> str:
    """Write the lines that make model inputs of one item of a modality."""
    encoder = _tower(source, name)
    if isinstance(encoder, OpenCLIP) and encoder.preprocess is None:
        return f'inputs = np.array([Tokenizer.from_file("{name}_tokenizer.json").encode("red").ids])'
    settings = encoder.preprocess if isinstance(encoder, OpenCLIP) else None
    if settings and settings.resize_mode == "shortest" and settings.interpolation in ("bicubic", "bilinear"):
        return PICTURE.replace("{name}", name)
    x = _example(source, name)[:1]
    type_ = "float32" if x.is_floating_point() else "int64"
    return (
        f"inputs = np.ones({list(x.shape)}, np.{type_})  # workbench.load('.').preprocessors['{name}'](item) makes them"
    )
