"""Trunks of timm as towers, whatever they look at: their tokens, their layers and how they are locked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from workbench.encoders._positions import grid_positions


class TrunkTokens(NamedTuple):
    """The tokens of a trunk, projected, and where they lie."""

    tokens: Float[Tensor, "n l d"]
    positions: Float[Tensor, "l d"]
    grid: tuple[int, int]
    """rows and columns of the tokens behind the first ones, of which there are `prefix`"""
    prefix: int


def trunk_tokens(trunk: Any, h: Tensor, project: Callable[[Tensor], Tensor], dim: int) -> TrunkTokens:
    """Project what a trunk's `forward_features` gives as tokens on a grid.

    A convolutional trunk pools, normalises and projects a map of features: each token is a map of one cell.
    """
    if h.ndim == 3:  # n l c: a transformer
        rows, columns = trunk.patch_embed.grid_size
        prefix = trunk.num_prefix_tokens
        positions = grid_positions((rows, columns), dim, prefix, h.device)
        return TrunkTokens(project(trunk.fc_norm(h)), positions, (rows, columns), prefix)
    channels_last = getattr(trunk, "output_fmt", None) == "NHWC"
    h = h if channels_last else h.permute(0, 2, 3, 1)
    cells = h.flatten(0, 2)[:, None, None] if channels_last else h.flatten(0, 2)[..., None, None]
    projected = project(trunk.forward_head(cells, pre_logits=True)).unflatten(0, (len(h), -1))
    rows, columns = h.shape[1:3]
    return TrunkTokens(projected, grid_positions((rows, columns), dim, 0, h.device), (rows, columns), 0)


def pools_class_token(trunk: Any) -> bool:
    return getattr(trunk, "global_pool", None) == "token"  # convolutional trunks need not have it


def repeated_layers(trunk: Any) -> list[nn.Module]:
    """List a trunk's blocks or stages, which are alike."""
    return list(next((getattr(trunk, n) for n in ("blocks", "stages", "layers") if hasattr(trunk, n)), []))


def trunk_depths(trunk: Any) -> dict[str, int]:
    """Give the layer of each parameter, by timm's own groups, from 0 upwards."""
    from timm.models import group_parameters  # half a second, which encoders without a trunk do not pay

    groups: Any = group_parameters(trunk, trunk.group_matcher(coarse=False), reverse=True)
    return groups


def lock_trunk(trunk: Any, unlocked_groups: int) -> nn.Module:
    """Freeze all but the last groups of layers; returns the trunk with statistics of BatchNorms that never change."""
    from timm.layers import freeze_batch_norm_2d
    from timm.models import group_parameters

    groups: Any = group_parameters(trunk, trunk.group_matcher(coarse=True), reverse=True)
    frozen = max(groups.values()) - unlocked_groups
    for name, group in groups.items():
        trunk.get_parameter(name).requires_grad = bool(unlocked_groups) and group > frozen
    return freeze_batch_norm_2d(trunk)
