"""Leaves out, in a training step, what nothing reads of a transformer of open_clip.

- A contrast reads one token of a tower: the class token, or the end of a text. The last block needs keys and values of
  all tokens, but queries, output and MLP of that one alone: five sixths of the block are left out.
- Behind the end of its longest text a batch is padding. Under a causal mask no token before sees it.

Results are those of the whole computation up to the rounding of sums, as products of other shapes add up in another
order. The trap: so whatever promises open_clip's own bits, as evaluations do, computes the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.encoders._padding import cut_padding
from workbench.postponed import OF_OPEN_CLIP, postponed

with postponed(*OF_OPEN_CLIP):
    from open_clip.transformer import ResidualAttentionBlock

Place = int | Int64[Tensor, " n"]
"""which token of a row is read: one place for all rows, or one for each"""


class ReadBlock(ResidualAttentionBlock):
    """Computes what open_clip's block does, with its parameters under their names, for one token of each row if asked.

    It is a module that is called, and no function of the block's parts, because fsdp gathers weights at that call.
    """

    def __init__(self, block: nn.Module) -> None:
        nn.Module.__init__(self)  # the parent's draws weights; here are those of the block
        for name, child in block.named_children():
            self.add_module(name, child)

    def forward(
        self,
        q_x: Float[Tensor, "n l d"],
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        place: Place | None = None,
    ) -> Float[Tensor, "n _ d"]:
        """Compute the block for all tokens, or for that at `place` alone; a place for each row sees none behind it."""
        if place is None:
            return super().forward(q_x, k_x, v_x, attn_mask)
        keys = self.ln_1(q_x)
        behind = None if isinstance(place, int) else torch.arange(q_x.shape[1], device=q_x.device) > place[:, None]
        attended, _ = self.attn(_at(keys, place), keys, keys, key_padding_mask=behind, need_weights=False)
        x = _at(q_x, place) + self.ls_1(attended)
        return x + self.ls_2(self.mlp(self.ln_2(x)))


def _at(x: Float[Tensor, "n l d"], place: Place) -> Float[Tensor, "n 1 d"]:
    if isinstance(place, int):
        return x[:, place : place + 1]
    return x[torch.arange(len(x), device=x.device), place][:, None]


def prepare_last_block(tower: Any, kind: str) -> bool:
    """Let the last block compute the token that is read alone; False where the tower reads others, or is another one.

    A tower for images has to read its class token, one for texts the end token behind a causal mask.
    """
    if kind == "vit":
        reads_one = tower.pool_type == "tok" and tower.attn_pool is None
    elif kind == "text":
        sees_none_behind = tower.attn_mask is not None and tower.cls_emb is None
        reads_one = sees_none_behind and tower.pool_type == "argmax"
    else:
        return False
    blocks = tower.transformer.resblocks
    if not reads_one or not tower.transformer.batch_first or not len(blocks):
        return False
    if type(blocks[-1]) is not ResidualAttentionBlock:  # as one that normalises queries, which computes something else
        return False
    blocks[-1] = ReadBlock(blocks[-1])
    return True


def encode_class_token(tower: Any, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n width"]:
    """Compute the class token of a prepared tower after its final norm, as open_clip pools it."""
    return tower._pool(_run_to_place(tower.transformer, tower._embeds(images), 0, None))[0]


def encode_end_token(tower: Any, ids: Int64[Tensor, "n l"]) -> Float[Tensor, "n width"]:
    """Compute the end token of each text by a prepared tower, after its final norm."""
    ids, h, causal = embed_cut(tower, ids)
    end = ids.argmax(dim=1)  # the first of the largest id, where open_clip reads
    return tower.ln_final(_run_to_place(tower.transformer, h, end, causal).squeeze(1))


def embed_cut(
    tower: Any, ids: Int64[Tensor, "n l"]
) -> tuple[Int64[Tensor, "n cut"], Float[Tensor, "n cut d"], Float[Tensor, "cut cut"]]:
    """Cut texts of a prepared tower behind the last end; returns their ids, their embeddings and the causal mask."""
    ids = cut_padding(ids, ids.argmax(dim=1), tower.transformer.resblocks)
    h, causal = tower._embeds(ids)
    length = ids.shape[1]
    return ids, h, causal[:length, :length]


def _run_to_place(
    transformer: Any, x: Float[Tensor, "n l d"], place: Place, mask: Float[Tensor, "l l"] | None
) -> Float[Tensor, "n 1 d"]:
    """Run all blocks, and the last one for the token at `place`; they are recomputed where open_clip would."""
    *blocks, last = transformer.resblocks
    for block, *arguments in [*((block, mask) for block in blocks), (last, None, place)]:
        if transformer.grad_checkpointing:
            x = checkpoint(block, x, None, None, *arguments, use_reentrant=False)
        else:
            x = block(x, None, None, *arguments)
    return x


def checkpoint_gradients(tower: Any) -> None:
    """Have the tower recompute its blocks. Raises ValueError where a timm trunk cannot: open_clip would only log it."""
    try:
        tower.set_grad_checkpointing(True)
    except AssertionError:
        raise ValueError("this timm trunk cannot recompute its blocks: remove grad_checkpointing") from None
