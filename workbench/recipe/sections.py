"""The blocks of a recipe: the model, how it is trained, what is saved, over how many processes, what is written.

The trap: a number that is too large is a slip of the pen, and would be counted up to for ever; so every count has a
limit, and the message of a wrong value says what to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    model_validator,
)

from workbench.recipe.component import Component, Spec
from workbench.recipe.duration import Duration, Every, Timeout, parse, parse_clock, parse_interval
from workbench.recipe.section import Section
from workbench.types import Encoder, Fusion

EncoderSpec = Annotated[Spec[Encoder], Component("encoder")]
FusionSpec = Annotated[Spec[Fusion], Component("fusion")]
Count = Annotated[int, Field(gt=0, le=2**31)]
"""of samples, dimensions and processes"""


class InitSection(Section):
    """Weights to start from, in the place of drawn ones; a bare path is short for `{from: PATH}`."""

    from_: str = Field(description="a run folder, or a checkpoint file in open_clip's format (.pt, .safetensors)")
    checkpoint: Annotated[str, BeforeValidator(str), Field(pattern="^(best|last|[0-9]+)$")] = Field(
        default="last", description="which one of a run: last, best, or a step"
    )
    parts: list[str] | None = Field(
        default=None, description="what to take, as [encoders.image, objective]; by default whatever fits by name"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"from": value} if isinstance(value, str) else value


def _with_directions(dim: int) -> int:
    """Return the width. Raises ValueError where unit vectors have no direction: no gradient would reach a tower."""
    if dim < 2:
        raise ValueError(
            "embeddings are unit vectors, which in one dimension are 1 or -1, without a gradient: write 2 or more"
        )
    return dim


class ModelSection(Section):
    """The towers, and what fuses them."""

    synonyms: ClassVar[Mapping[str, str]] = {"embed_dim": "dim", "width": "dim", "towers": "encoders"}

    dim: Annotated[Count, AfterValidator(_with_directions)] = Field(
        default=512, description="width of the shared space"
    )
    encoders: dict[str, EncoderSpec] = Field(min_length=1, description="a tower for each modality that is used")
    head: Literal["tower", "linear"] = Field(
        default="tower",
        description="plain modalities use the tower's own projection, or a linear head on its pooled features",
    )
    fusion: FusionSpec | None = Field(default=None, description="what makes one embedding of several modalities")
    init: InitSection | None = Field(
        default=None, description="weights to start from: fine-tuning; a resume does not read it"
    )


class ScheduleSection(Section):
    """The learning rate's schedule, where it is not that of the length of training."""

    for_: Duration | None = Field(
        default=None, description="the time until the rate is 0, in the place of train.for; behind it the last is kept"
    )


def _with_others(batch: int) -> int:
    """Return the batch. Raises ValueError where a sample has none to be compared with: its loss would always be 0."""
    if batch < 2:
        raise ValueError("a sample is contrasted with the others of its batch: write 2 or more")
    return batch


class TrainSection(Section):
    """One optimizer, one schedule: AdamW with a linear warm-up, then a cosine down to 0."""

    synonyms: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("epochs", "num_epochs", "max_epochs", "steps", "max_steps", "samples", "iterations"), "for"),
        **dict.fromkeys(("batch_size", "global_batch", "global_batch_size"), "batch"),
        **dict.fromkeys(("accum_freq", "accumulate", "grad_accum", "micro_batch", "chunk"), "microbatch"),
        **dict.fromkeys(("learning_rate", "rate"), "lr"),
        **dict.fromkeys(("wd", "decay"), "weight_decay"),
        **dict.fromkeys(("beta1", "beta2"), "betas"),
        **dict.fromkeys(("grad_clip", "grad_clip_norm", "max_grad_norm", "clip_norm"), "clip"),
        **dict.fromkeys(("amp", "dtype", "bf16"), "precision"),
    }

    for_: Duration = Field(description="the length of training, as '30 epochs'")
    batch: Annotated[Count, AfterValidator(_with_others)] = Field(
        description="contrastive batch: samples per optimizer step over all processes"
    )
    microbatch: Count | None = Field(default=None, description="samples encoded at once; gradients stay exact")
    lr: PositiveFloat = Field(default=1e-3, description="peak learning rate")
    warmup: Duration = Field(default=parse("0 steps"), description="time in which the learning rate rises to its peak")
    schedule: ScheduleSection = Field(
        default=ScheduleSection(), description="a horizon of its own, which a longer train.for leaves as it is"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="a layer of a tower learns at this fraction of the rate of the one above it"
    )
    weight_decay: NonNegativeFloat = Field(default=0.1, description="of matrices; vectors and scales have none")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.98), description="AdamW's averages of the gradient and of its square"
    )
    eps: PositiveFloat = Field(default=1e-6, description="AdamW's")
    clip: PositiveFloat | None = Field(default=1.0, description="largest gradient norm; null leaves gradients alone")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the towers; the loss is in fp32")
    compile: bool = Field(default=False, description="torch.compile the towers (needs a C++ compiler on CPU)")

    @model_validator(mode="after")
    def _divisible(self) -> TrainSection:
        if self.microbatch and self.batch % self.microbatch:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of microbatch ({self.microbatch}): "
                f"set train.microbatch={_largest_divisor(self.batch, self.microbatch)}"
            )
        return self


def _largest_divisor(number: int, most: int) -> int:
    """Find the largest divisor of a number that is not above `most`."""
    small = (d for d in range(1, int(number**0.5) + 1) if number % d == 0)
    return max(d for pair in small for d in (pair, number // pair) if d <= most)


class CheckpointSection(Section):
    """When to save, and what to keep."""

    every: Every = Field(
        default=parse_interval("1 epochs"), description="time between checkpoints; 0 steps: at the end only"
    )
    keep: Annotated[int, Field(ge=2)] = Field(
        default=2,
        description="newest checkpoints to keep (at least 2, so that one may be damaged); the best one is kept too",
    )
    keep_every: Every | None = Field(default=None, description="a checkpoint of every such time is kept for ever")
    async_: bool = Field(
        default=False, description="write from a copy while training goes on: one more copy of the states in memory"
    )


class ParallelSection(Section):
    """How the work is divided over processes."""

    synonyms: ClassVar[Mapping[str, str]] = {"num_workers": "workers"}

    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="all weights on each process (ddp), or a share of them (fsdp, torch's FSDP2)"
    )
    copies: Count = Field(
        default=1,
        description="copies of the model, each divided over its part of the processes (hybrid fsdp): one a node",
    )
    workers: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=2, description="data loading processes; they never change a result"
    )
    timeout: Timeout = Field(
        default=parse_clock("30 minutes"),
        description="processes that wait longer for one another end the run; more than an evaluation or a save takes",
    )


class LogSection(Section):
    """How often metrics are written, and where to."""

    every: Every = Field(
        default=parse_interval("1 steps"), description="how often a line of training metrics is written"
    )
    tensorboard: bool = Field(default=True, description="write TensorBoard's files beside metrics.jsonl")
