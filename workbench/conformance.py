"""Every shipped component beside the contract that it meets, for pyright to compare: nothing here ever runs.

A new component is added to its list; a test says when one is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synthetic.and_ import And
    from synthetic.distractor import Distractor
    from synthetic.hub import Hub as HubTask
    from synthetic.image_text_match import ImageTextMatch
    from synthetic.image_text_xor import ImageTextXOR
    from synthetic.latent_synergy import LatentSynergy
    from synthetic.m3_lite import M3Lite
    from synthetic.missing import Missing
    from synthetic.modsum import ModSum
    from synthetic.parity import Parity
    from synthetic.pid_gaussian import PIDGaussian
    from synthetic.redundancy import Redundancy
    from synthetic.synergy import Synergy
    from synthetic.theory.task import Task
    from synthetic.trifeature import Trifeature
    from synthetic.uniqueness import Uniqueness
    from synthetic.xor import XOR
    from synthetic.xor_flip import XORFlip
    from workbench.callbacks.optional.trackio import Trackio
    from workbench.callbacks.optional.wandb import WandB
    from workbench.data.csv import CSV
    from workbench.data.emoji import Emoji
    from workbench.data.folder import Folder
    from workbench.data.hf import HF
    from workbench.data.json import JSON
    from workbench.data.parquet import Parquet
    from workbench.data.shards import Shards
    from workbench.data.synthetic import Synthetic as SyntheticData
    from workbench.encoders.audio import Audio
    from workbench.encoders.mlp import MLP as MLPEncoder  # noqa: N811
    from workbench.encoders.open_clip import OpenCLIP
    from workbench.encoders.sequence import FrameTransformer
    from workbench.encoders.shared import Shared
    from workbench.encoders.transformers import Transformers
    from workbench.engine import Callback
    from workbench.evals.compositional import Compositional
    from workbench.evals.gap import Gap
    from workbench.evals.held_out_loss import HeldOutLoss
    from workbench.evals.knn import KNN
    from workbench.evals.probe import Probe
    from workbench.evals.retrieval import Retrieval
    from workbench.evals.swap import Swap
    from workbench.evals.synthetic import Synthetic as SyntheticEvaluator
    from workbench.evals.winoground import Winoground
    from workbench.evals.zeroshot import ZeroShot
    from workbench.fusion.deep_set import DeepSet
    from workbench.fusion.mlp import MLP as MLPFusion  # noqa: N811
    from workbench.fusion.transformer import Transformer
    from workbench.objectives.clip import CLIP
    from workbench.objectives.comm import CoMM
    from workbench.objectives.confu import ConFu
    from workbench.objectives.confu_chain import ConFuChain
    from workbench.objectives.gram import GRAM
    from workbench.objectives.hub import Hub as HubObjective
    from workbench.objectives.ito import ITO
    from workbench.objectives.modgap import ModGap
    from workbench.objectives.siglip import SigLIP
    from workbench.objectives.slip import SLIP
    from workbench.objectives.symile import Symile
    from workbench.objectives.terms import Terms
    from workbench.objectives.triangle import TRIANGLE
    from workbench.types import Data, Encoder, Evaluator, Fusion, Objective

    objectives: list[type[Objective]] = [
        CLIP,
        CoMM,
        ConFu,
        ConFuChain,
        GRAM,
        HubObjective,
        ITO,
        ModGap,
        SigLIP,
        SLIP,
        Symile,
        Terms,
        TRIANGLE,
    ]
    encoders: list[type[Encoder]] = [Audio, FrameTransformer, MLPEncoder, OpenCLIP, Shared, Transformers]
    fusions: list[type[Fusion]] = [DeepSet, MLPFusion, Transformer]
    data_sets: list[type[Data]] = [CSV, Emoji, Folder, HF, JSON, Parquet, Shards, SyntheticData]
    callbacks: list[type[Callback]] = [Trackio, WandB]
    evaluators: list[type[Evaluator]] = [
        Compositional,
        Gap,
        HeldOutLoss,
        KNN,
        Probe,
        Retrieval,
        Swap,
        SyntheticEvaluator,
        Winoground,
        ZeroShot,
    ]
    tasks: list[type[Task]] = [
        And,
        Distractor,
        HubTask,
        ImageTextMatch,
        ImageTextXOR,
        LatentSynergy,
        M3Lite,
        Missing,
        ModSum,
        Parity,
        PIDGaussian,
        Redundancy,
        Synergy,
        Trifeature,
        Uniqueness,
        XOR,
        XORFlip,
    ]
