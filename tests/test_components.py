"""Every shipped component is assigned to its contract, which pyright checks, and none is forgotten."""

from workbench.data import csv, emoji, folder, hf, parquet, shards
from workbench.data import synthetic as tasks
from workbench.encoders import mlp as encoder_mlp
from workbench.encoders import open_clip
from workbench.evals import gap, probe, retrieval, synthetic, zeroshot
from workbench.fusion import deep_set, mlp, transformer
from workbench.objectives import clip, comm, confu, confu_chain, gram, hub, ito, siglip, slip, symile, terms, triangle
from workbench.recipe.component import load, names
from workbench.types import Data, Encoder, Evaluator, Fusion, Objective

ENCODERS: list[type[Encoder]] = [encoder_mlp.MLP, open_clip.OpenCLIP]
FUSIONS: list[type[Fusion]] = [deep_set.DeepSet, mlp.MLP, transformer.Transformer]
OBJECTIVES: list[type[Objective]] = [
    clip.CLIP,
    comm.CoMM,
    confu.ConFu,
    confu_chain.ConFuChain,
    gram.GRAM,
    hub.Hub,
    ito.ITO,
    siglip.SigLIP,
    slip.SLIP,
    symile.Symile,
    terms.Terms,
    triangle.TRIANGLE,
]
DATA: list[type[Data]] = [csv.CSV, emoji.Emoji, folder.Folder, hf.HF, parquet.Parquet, shards.Shards, tasks.Synthetic]
EVALUATORS: list[type[Evaluator]] = [gap.Gap, probe.Probe, retrieval.Retrieval, synthetic.Synthetic, zeroshot.ZeroShot]


def test_no_component_is_forgotten() -> None:
    listed = {"encoder": ENCODERS, "fusion": FUSIONS, "objective": OBJECTIVES, "data": DATA, "eval": EVALUATORS}
    for kind, components in listed.items():
        assert {load(kind, name) for name in names(kind)} == set(components), kind
