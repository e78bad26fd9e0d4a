"""What `build` asks of an objective, an encoder, a fusion module: which methods they have, and whether they fit.

All may come from a user's own file. What inherits from `types.Objective`, `types.Encoder` or `types.Fusion` has
defaults for all that it does not write; a plain `nn.Module` is given the same defaults here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from torch import nn

from workbench.errors import RecipeError
from workbench.types import Encoder, Fusion, Objective, Side

Contract = TypeVar("Contract", Encoder, Fusion, Objective)


def as_encoder(module: object, name: str) -> Encoder:
    """Return the module that class `name` made, as an encoder. Raises RecipeError with what it lacks to be one."""
    encoder = _adopt(module, Encoder, ("width", "transform", "forward"), f"encoder '{name}'")
    if encoder.has_tokens and "tokens" not in inspect.signature(encoder.forward).parameters:
        raise RecipeError(
            f"encoder '{name}' has tokens, so its forward is asked for them by a keyword: "
            "write forward(self, x, tokens=False), and give Features.tokens when it is True"
        )
    return encoder


def as_fusion(module: object, name: str) -> Fusion:
    """Return the module that class `name` made, as a fusion. Raises RecipeError with what it lacks to be one."""
    return _adopt(module, Fusion, ("forward",), f"fusion '{name}'")


def as_objective(module: object, name: str) -> Objective:
    """Return the module that class `name` made, as an objective. Raises RecipeError with what it lacks to be one."""
    objective = _adopt(module, Objective, ("all_sides", "forward"), f"objective '{name}'")
    if strange := [side for side in objective.all_sides if not isinstance(side, Side)]:
        raise RecipeError(f"objective '{name}': all_sides has {strange}: write Side.parse({str(strange[0])!r})")
    return objective


def _adopt(module: object, contract: type[Contract], needed: Sequence[str], what: str) -> Contract:
    if not isinstance(module, nn.Module):
        raise RecipeError(f"{what} is no torch.nn.Module but {type(module).__name__}: inherit from {_path(contract)}")
    if not isinstance(module, contract):
        # A wrapper would put its own name before every tensor of a checkpoint; another class keeps their names.
        module.__class__ = _with_defaults(type(module), contract)
    assert isinstance(module, contract)
    inherited = {name for name in needed if getattr(type(module), name, None) is getattr(contract, name, ...)}
    inherited.discard("width")
    missing = [name for name in needed if name in inherited or not hasattr(module, name)]
    if missing:
        raise RecipeError(f"{what} lacks {' and '.join(missing)}: see {_path(contract)} for what they are")
    return module


@cache
def _with_defaults(own: type[nn.Module], contract: type[Contract]) -> type[Contract]:
    return type(own.__name__, (own, contract), {"__module__": own.__module__, "__doc__": own.__doc__})


def _path(contract: type) -> str:
    return f"{contract.__module__}.{contract.__name__}"


def refuse_unreadable_sides(
    fusion: Fusion, name: str, sides: Sequence[Side], encoders: Mapping[str, Encoder], names: Mapping[str, str]
) -> None:
    """Raise RecipeError where the fusion `name` reads tokens, or a class token, that a side's encoders do not give.

    `names` are the encoders' names in the recipe, by modality.
    """
    for side in sides:
        without = [f"{m} ('{names[m]}')" for m in side.members if not encoders[m].has_tokens]
        if fusion.needs_tokens and without:
            raise RecipeError(
                f"fusion '{name}' reads tokens, which the encoder of {', '.join(without)} does not give: "
                "take encoders with tokens (open_clip, without patch_dropout), or model.fusion: mlp"
            )
        if fusion.needs_class_token and not any(encoders[m].has_class_token for m in side.members):
            raise RecipeError(
                f"fusion '{name}' reads out side '{side}' at a class token, which no member has "
                f"({', '.join(f'{m}: {names[m]}' for m in side.members)}): set model.fusion.readout=mean or token"
            )
