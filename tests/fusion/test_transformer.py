"""ITO's fusion against torch's own layers with copied weights, and what must not leak: padding, absence, samples."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from workbench.fusion.transformer import Transformer
from workbench.types import Features, Side

DIM, SIDES, WIDTHS = 24, [Side.parse("image+text")], {"image": 10, "text": 12}


def make(readout: str = "cls", dim: int = DIM, heads: int = 4, **settings: object) -> Transformer:
    fusion = Transformer(SIDES, WIDTHS, dim, heads=heads, readout=readout, **settings)
    for p in fusion.parameters():  # norms and biases too, so that none can be forgotten
        nn.init.normal_(p, std=0.2)
    return fusion.double().eval()


def inputs(n: int = 5, dim: int = DIM, dtype: torch.dtype = torch.float64) -> dict[str, Features]:
    """An image of 7 tokens with class token 0 and a text of 9 tokens, 1 to 9 of them real."""

    def draw(tokens: int, **rest: object) -> Features:
        z, pooled = torch.randn(n, dim, dtype=dtype), torch.randn(n, 10, dtype=dtype)
        return Features(
            z, pooled, torch.randn(n, tokens, dim, dtype=dtype), torch.randn(tokens, dim, dtype=dtype), **rest
        )

    return {"image": draw(7, cls=0), "text": draw(9, mask=torch.arange(9) < torch.randint(1, 10, (n, 1)))}


def with_torch_layers(fusion: Transformer, features: dict[str, Features]) -> Tensor:
    """All blocks at all positions, by nn.TransformerEncoderLayer and its own kind of mask (True = ignore)."""
    dim, heads = fusion.norm.weight.numel(), fusion.blocks[0].heads
    types = [fusion.types.get(m, 0) for m in features]
    x = torch.cat([f.tokens + f.positions + t for f, t in zip(features.values(), types, strict=True)], dim=1)
    image, text = features.values()
    real = torch.cat([torch.ones(image.tokens.shape[:2], dtype=torch.bool), text.mask], dim=1)
    if fusion.token is not None:
        x = torch.cat([fusion.token.expand(len(x), 1, dim), x], dim=1)
        real = torch.cat([torch.ones(len(x), 1, dtype=torch.bool), real], dim=1)
    for block in fusion.blocks:
        layer = nn.TransformerEncoderLayer(
            dim, heads, block.up.out_features, 0.0, "gelu", batch_first=True, norm_first=True, dtype=x.dtype
        )
        names = {
            "self_attn.in_proj_": block.qkv, "self_attn.out_proj.": block.out, "linear1.": block.up,
            "linear2.": block.down, "norm1.": block.attention_norm, "norm2.": block.mlp_norm,
        }  # fmt: skip
        layer.load_state_dict({f"{k}{p}": getattr(m, p) for k, m in names.items() for p in ("weight", "bias")})
        x = layer(x, src_key_padding_mask=~real)
    if fusion.readout == "mean":
        x = torch.stack([row[keep].mean(dim=0) for row, keep in zip(x, real, strict=True)])
    else:
        x = x[:, 0]
    return nn.functional.layer_norm(x, (dim,), fusion.norm.weight, fusion.norm.bias)


@pytest.mark.parametrize("readout", ["cls", "mean", "token"])
@pytest.mark.parametrize(("layers", "type_embedding"), [(1, False), (3, True)])
def test_equals_torchs_layers(readout: str, layers: int, type_embedding: bool) -> None:
    fusion, x = make(readout, layers=layers, mlp_ratio=2.5, type_embedding=type_embedding), inputs()
    leaves = [*fusion.types.values()]
    leaves += [f.tokens.requires_grad_() for f in x.values()] + [f.positions.requires_grad_() for f in x.values()]
    mine, theirs = fusion("image+text", x), with_torch_layers(fusion, x)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(mine)
    for a, b in zip(
        torch.autograd.grad(mine, leaves, upstream), torch.autograd.grad(theirs, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_parameters() -> None:
    for d, layers in ((512, 2), (48, 3)):
        count = sum(p.numel() for p in Transformer(SIDES, WIDTHS, d, layers=layers).parameters())
        assert count == layers * (12 * d**2 + 13 * d) + 2 * d
    assert count + 2 * 48 == sum(
        p.numel() for p in Transformer(SIDES, WIDTHS, 48, layers=3, type_embedding=True).parameters()
    )
    assert count + 48 == sum(p.numel() for p in Transformer(SIDES, WIDTHS, 48, layers=3, readout="token").parameters())


@pytest.mark.parametrize("readout", ["cls", "mean", "token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_never_leaks(readout: str, dtype: torch.dtype) -> None:
    fusion, x = make(readout).to(dtype), inputs(dtype=dtype)
    before = fusion("image+text", x)
    for other in (torch.randn_like(x["text"].tokens), torch.full_like(x["text"].tokens, float("nan"))):
        tokens = torch.where(x["text"].mask[..., None], x["text"].tokens, other)
        assert torch.equal(before, fusion("image+text", x | {"text": replace(x["text"], tokens=tokens)}))
    tokens = x["text"].tokens.clone()
    tokens[:, 0] += 1
    assert not torch.equal(before, fusion("image+text", x | {"text": replace(x["text"], tokens=tokens)}))


@pytest.mark.parametrize("readout", ["cls", "mean", "token"])
def test_absent_members_never_leak(readout: str) -> None:
    fusion, x = make(readout), inputs(4)
    present = {"image": torch.tensor([True, True, False, False]), "text": torch.tensor([True, False, True, False])}
    before = fusion("image+text", x, present)
    garbage = {
        m: replace(f, tokens=torch.where(present[m][:, None, None], f.tokens, float("nan"))) for m, f in x.items()
    }
    after = fusion("image+text", garbage, present)
    assert torch.isfinite(before).all()
    assert torch.equal(before, after)
    whole = fusion("image+text", x)
    torch.testing.assert_close(before[0], whole[0])
    assert not torch.isclose(before[1:], whole[1:]).all(dim=1).any()
    if readout != "cls":  # with the image gone, the text alone decides
        alone = fusion("+text", {"text": x["text"]})
        torch.testing.assert_close(before[2], alone[2])
    if readout == "cls":  # with all gone, on any device, the row is one of zeros and not of NaN
        zeros = {m: replace(f, tokens=-f.positions.expand_as(f.tokens), mask=None) for m, f in x.items()}
        torch.testing.assert_close(before[3], fusion("image+text", zeros)[3])


@pytest.mark.parametrize("readout", ["cls", "mean", "token"])
def test_is_a_map_of_single_samples(readout: str) -> None:
    fusion, x = make(readout), inputs(6)
    rows = torch.randperm(6)[:4]

    def pick(f: Features) -> Features:
        return replace(f, tokens=f.tokens[rows], mask=None if f.mask is None else f.mask[rows])

    torch.testing.assert_close(
        fusion("image+text", {m: pick(f) for m, f in x.items()}), fusion("image+text", x)[rows], rtol=1e-12, atol=1e-12
    )


def test_reads_the_first_class_token_wherever_it_is() -> None:
    fusion, x = make(), inputs()
    image, text = x["image"], x["text"]
    swapped = {
        "text": text,
        "image": replace(image, tokens=image.tokens.flip(1), positions=image.positions.flip(0), cls=6),
    }
    torch.testing.assert_close(fusion("image+text", x), fusion("text+image", swapped))


def test_without_positions_the_tokens_are_a_set() -> None:
    fusion = make("mean")
    x = {m: replace(f, positions=None, mask=None) for m, f in inputs().items()}
    shuffled = {m: replace(f, tokens=f.tokens[:, torch.randperm(f.tokens.shape[1])]) for m, f in x.items()}
    torch.testing.assert_close(fusion("image+text", x), fusion("image+text", shuffled))


def test_dropout_in_training_only() -> None:
    fusion, x = make(dropout=0.5), inputs()
    assert torch.equal(fusion("image+text", x), fusion("image+text", x))
    fusion.train()
    assert not torch.equal(fusion("image+text", x), fusion("image+text", x))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"heads \(8\) must divide model.dim \(20\): set model.fusion.heads=5"):
        Transformer(SIDES, WIDTHS, 20)
    with pytest.raises(ValueError, match=r"fuses \['text'\]"):
        Transformer(SIDES, {"image": 3}, 24)
    fusion, x = make(), inputs()
    with pytest.raises(ValueError, match=r"needs the tokens of \['text'\]"):
        fusion("image+text", x | {"text": replace(x["text"], tokens=None)})
    with pytest.raises(ValueError, match="set readout to 'mean' or 'token'"):
        fusion("image+text", x | {"image": replace(x["image"], cls=None)})
