"""The encoder of sequences against torch's own transformer of the same weights, and what padding must not do."""

import pytest
import torch
from torch import nn

from workbench.encoders.sequence import FrameTransformer
from workbench.types import Modality

SHAPE = Modality("sequence", (7, 3))


def in_torch(encoder: FrameTransformer, heads: int) -> list[nn.TransformerEncoderLayer]:
    """torch's layers with the encoder's weights."""
    layers = []
    for block in encoder.blocks:
        width = block.out.out_features
        layer = nn.TransformerEncoderLayer(
            width, heads, block.up.out_features, 0.0, "gelu", batch_first=True, norm_first=True
        )
        layer.self_attn.in_proj_weight.data, layer.self_attn.in_proj_bias.data = block.qkv.weight, block.qkv.bias
        pairs = {
            "self_attn.out_proj": block.out,
            "linear1": block.up,
            "linear2": block.down,
            "norm1": block.attention_norm,
            "norm2": block.mlp_norm,
        }
        for name, ours in pairs.items():
            layer.get_submodule(name).load_state_dict(ours.state_dict())
        layers.append(layer)
    return layers


@pytest.mark.parametrize(("length", "width", "heads"), [(1, 12, 3), (5, 12, 3), (7, 8, 1)])
def test_real_frames_come_out_as_torch_computes_them_without_any_padding(
    length: int, width: int, heads: int, in_float64: None
) -> None:
    encoder = FrameTransformer(SHAPE, 5, width=width, heads=heads, layers=2)
    frames = torch.randn(length, 3)
    row = torch.zeros(1, 7, 4)
    row[0, :length, :3], row[0, :length, 3] = frames, 1
    out = encoder(row, tokens=True)
    places = torch.arange(length)[:, None] * 10_000 ** -(torch.arange(width // 2) / (width // 2))
    h = (encoder.embed(frames) + torch.cat([places.sin(), places.cos()], 1))[None]
    for layer in in_torch(encoder, heads):
        h = layer(h)
    h = encoder.norm(h)
    torch.testing.assert_close(out.pooled, h.mean(1), rtol=1e-6, atol=1e-6)  # positions are float32
    torch.testing.assert_close(out.tokens[:, :length], encoder.project(h), rtol=1e-6, atol=1e-6)
    assert out.mask.tolist() == [[True] * length + [False] * (7 - length)]


def test_what_stands_in_padding_never_matters() -> None:
    encoder = FrameTransformer(SHAPE, 5, standardise=True)
    encoder.measure([torch.randn(9, 3) + 4])
    row = encoder.transform(False)(torch.randn(2, 3))[None]
    other = row.clone()
    other[:, 2:, :3] = float("nan")
    assert torch.equal(encoder(row).z, encoder(other).z)


@pytest.mark.slow
def test_frames_are_cut_padded_and_dropped() -> None:
    frames = torch.arange(27.0).view(9, 3)
    encoder = FrameTransformer(SHAPE, 5, drop_frames=0.4)
    long, short = encoder.transform(False)(frames), encoder.transform(False)(frames[:2].numpy())
    assert torch.equal(long, torch.cat([frames[:7], torch.ones(7, 1)], 1))
    assert short[:, 3].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert not short[2:].any()
    kept = []
    for seed in range(500):
        torch.manual_seed(seed)
        row = encoder.transform(True)(frames[:5])
        assert set(row[row[:, 3] > 0][:, 0].tolist()) <= {0.0, 3.0, 6.0, 9.0, 12.0}
        kept.append(row[:, 3].sum())
        assert kept[-1] >= 1
    assert torch.stack(kept).mean().item() == pytest.approx(5 * 0.6, abs=0.1)
    certain = FrameTransformer(SHAPE, 5, drop_frames=0.999).transform(True)
    assert {certain(frames[:5])[:, 3].sum().item() for _ in range(50)} == {1.0}


def test_standardises_each_number_over_all_frames() -> None:
    encoder = FrameTransformer(Modality("sequence", (7, 3), measured=True), 5)
    frames = [torch.randn(n, 3) * torch.tensor([1e-3, 1, 50]) + 7 for n in (1, 9, 4)]
    encoder.measure(frames)
    joined = torch.cat(frames)
    torch.testing.assert_close(encoder.standardise.mean, joined.mean(0))
    torch.testing.assert_close(encoder.standardise.spread, joined.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_wrong_settings_and_items_are_told() -> None:
    with pytest.raises(ValueError, match=r"heads \(4\) must divide width \(10\): set heads=2"):
        FrameTransformer(SHAPE, 5, width=10)
    with pytest.raises(ValueError, match=r"declare a shape \(frames, numbers of each\), and not \(3,\)"):
        FrameTransformer(Modality("sequence", (3,)), 5)
    with pytest.raises(ValueError, match=r"a frame or more, this one is \[0, 3\]"):
        FrameTransformer(SHAPE, 5).transform(True)(torch.zeros(0, 3))
