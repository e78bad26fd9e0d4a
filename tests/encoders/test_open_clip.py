"""Towers of open_clip against open_clip itself with the same weights: features, tokens, positions, gradients."""

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pos_embed import get_2d_sincos_pos_embed
from open_clip_towers import DIM, IMAGE, TEXT, TOWER, TRUNKS, VIT, clip, ids, make, trunk
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.encoders._positions import grid_positions, sincos
from workbench.encoders.open_clip import OpenCLIP
from workbench.types import Features

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "config",
    [
        VIT,
        VIT | {"image_size": [16, 40]},
        VIT | {"pool_type": "avg", "final_ln_after_pool": True},
        VIT | {"pos_embed_type": "sin_cos_2d", "no_ln_pre": True, "ls_init_value": 0.3},
    ],
)
def test_vit_is_open_clips(config: dict) -> None:
    encoder, reference = make(IMAGE, config=config).eval(), clip(vision=config)
    for p in encoder.parameters():  # norms and biases too
        nn.init.normal_(p, std=0.3)
    reference.visual.load_state_dict(encoder.tower.state_dict())
    images = torch.randn(5, 3, *reference.visual.image_size)
    out = encoder(images, tokens=True)
    assert torch.equal(out.z, reference.encode_image(images))
    assert out.pooled.shape == (5, encoder.width)
    torch.testing.assert_close(out.pooled @ reference.visual.proj, out.z)
    found = reference.visual.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
    )
    tokens = torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1)
    torch.testing.assert_close(out.tokens, tokens @ reference.visual.proj)
    if config.get("pool_type") == "avg":
        assert out.cls is None
    else:
        torch.testing.assert_close(out.tokens[:, out.cls], out.z)
    assert out.positions.shape == out.tokens.shape[1:]
    assert out.mask is None
    without_tokens(encoder, images, out)


def without_tokens(encoder: OpenCLIP, x: Tensor, out: Features) -> None:
    lean = encoder(x)
    assert torch.equal(lean.z, out.z)
    assert torch.equal(lean.pooled, out.pooled)
    assert lean == replace(lean, tokens=None, positions=None, mask=None, cls=None)


@pytest.mark.parametrize("config", [TOWER, TOWER | {"no_causal_mask": True}, TOWER | {"proj_bias": True}])
def test_text_is_open_clips(config: dict) -> None:
    encoder, reference = make(TEXT, config=config).eval(), clip(text=config)
    reference.text.load_state_dict(encoder.tower.state_dict())
    x = ids()
    out = encoder(x, tokens=True)
    assert torch.equal(out.z, reference.encode_text(x))
    assert out.mask.sum(dim=1).tolist() == (x > 0).sum(dim=1).tolist()
    end = (x == 49407).nonzero()[:, 1]
    torch.testing.assert_close(out.tokens[range(7), end], out.z)
    found = reference.text.forward_intermediates(x, indices=1, normalize_intermediates=True, output_fmt="NLC")
    h, p = found["text_intermediates"][0], reference.text.text_projection
    torch.testing.assert_close(out.tokens, p(h) if isinstance(p, nn.Linear) else h @ p)
    assert torch.equal(out.pooled, h[range(7), end])
    assert encoder.width == 32
    without_tokens(encoder, x, out)


@pytest.mark.parametrize("name", TRUNKS)
def test_trunk_is_open_clips(name: str) -> None:
    encoder = trunk(name)
    reference = clip(encoder.dim, vision=TRUNKS[name])
    reference.visual.set_input_size(64)
    reference.visual.load_state_dict(encoder.tower.state_dict())
    images = torch.randn(3, 3, 64, 64)
    out = encoder(images, tokens=True)
    assert torch.equal(out.z, reference.encode_image(images))
    assert out.pooled.shape == (3, encoder.width)
    assert out.tokens.shape[2] == encoder.dim
    assert out.tokens.shape[1:] == out.positions.shape
    without_tokens(encoder, images, out)


@pytest.mark.parametrize("name", TRUNKS)
def test_tokens_of_a_trunk(name: str) -> None:
    encoder, x = trunk(name), torch.randn(3, 3, 64, 64)
    out, tower = encoder(x, tokens=True), encoder.tower
    if name in ("vit", "mlp"):
        assert out.cls == 0
        torch.testing.assert_close(out.tokens[:, 0], out.z)
    else:
        assert out.cls is None
    if name == "registers":  # one, before the patches: it belongs to no place on the grid
        prefix = tower.trunk.num_prefix_tokens
        assert prefix == 1
        assert torch.equal(out.positions[:prefix], torch.zeros(prefix, DIM))
        assert torch.equal(out.positions[prefix:], grid_positions((4, 4), DIM, 0, x.device))
    if name == "vit_average":  # which normalises after pooling: here token by token
        h, norm, projection = tower.trunk.forward_features(x), tower.trunk.fc_norm, tower.trunk.head
        h = nn.functional.layer_norm(h, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(out.tokens, h @ projection.weight.T + projection.bias)
    if name == "resnet":  # average pooling and a linear projection commute
        torch.testing.assert_close(out.tokens.mean(dim=1), out.z)
    if name in ("convnext", "edgenext"):  # whose head normalises: by hand, cell by cell
        grid, norm = tower.trunk.forward_features(x), tower.trunk.head.norm
        cells = nn.functional.layer_norm(grid.flatten(2).mT, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(out.tokens, cells @ tower.head.proj.weight.T)


def test_channels_last_trunk() -> None:
    config = {"timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "avg", "image_size": 64}
    out = make(IMAGE, config=config).eval()(torch.randn(2, 3, 64, 64), tokens=True)
    torch.testing.assert_close(out.tokens.mean(dim=1), out.z)  # its norm comes before the pooling


def test_upstream_gradient() -> None:
    for encoder, tower, x in (
        (make(IMAGE, config=VIT).eval(), "visual", torch.randn(4, 3, 32, 32)),
        (make(TEXT, config=TOWER).eval(), "text", ids(4)),
    ):
        reference = clip()
        getattr(reference, tower).load_state_dict(encoder.tower.state_dict())
        upstream = torch.randn(4, DIM)
        encoder(x).z.backward(upstream)
        getattr(reference, tower)(x).backward(upstream)
        for mine, theirs in zip(encoder.tower.parameters(), getattr(reference, tower).parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)


def test_weights_are_drawn_by_open_clip_from_torchs_generator() -> None:
    torch.manual_seed(draw := int(torch.randint(2**31, ())))
    encoder = OpenCLIP(TEXT, DIM, config=TOWER)
    torch.manual_seed(draw)
    reference = open_clip.model._build_text_tower(DIM, open_clip.CLIPTextCfg(**TOWER))
    for mine, theirs in zip(encoder.tower.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("size", "dim"), [(4, 24), (7, 64)])
def test_grid_positions(size: int, dim: int) -> None:
    device = torch.device("cpu")
    expected = get_2d_sincos_pos_embed(dim, size, cls_token=True)
    torch.testing.assert_close(grid_positions((size, size), dim, 1, device), torch.from_numpy(expected).float())
    wide = grid_positions((2, 5), dim + 3, 0, device)
    assert torch.equal(wide[:, dim:], torch.zeros(10, 3))
    patches = torch.from_numpy(get_2d_sincos_pos_embed(dim, 5)).float().unflatten(0, (5, 5))[:2].flatten(0, 1)
    torch.testing.assert_close(wide[:, :dim], patches)


def test_text_positions() -> None:
    own = make(TEXT, 32, config=TOWER)
    positions = own(ids(), tokens=True).positions
    assert torch.equal(positions, own.tower.positional_embedding)
    assert positions is not own.tower.positional_embedding
    positions.backward(upstream := torch.randn_like(positions))
    assert torch.equal(own.tower.positional_embedding.grad, upstream)
    other = make(TEXT, 7, config=TOWER)(ids(), tokens=True).positions
    place, frequency = np.arange(10)[:, None], 10_000 ** (-np.arange(3)[None] / 3)
    expected = np.concatenate([np.sin(place * frequency), np.cos(place * frequency), np.zeros((10, 1))], axis=1)
    torch.testing.assert_close(other, torch.from_numpy(expected).float())
    assert torch.equal(other[:, :6], sincos(torch.arange(10), 3))


def test_what_follows_the_end_token_does_not_matter() -> None:
    encoder, x = make(TEXT, config=TOWER).eval(), ids()
    out = encoder(x, tokens=True)
    after = torch.where(out.mask, x, torch.randint(1, 49406, x.shape))
    torch.testing.assert_close(encoder(after, tokens=True).tokens[out.mask], out.tokens[out.mask])
    assert torch.equal(encoder(after, tokens=True).mask, out.mask)


@pytest.mark.parametrize("name", [*TRUNKS, "image", "text"])
def test_is_a_map_of_single_samples_unless_it_says_so(name: str) -> None:
    plain = {"image": (IMAGE, VIT), "text": (TEXT, TOWER)}
    encoder = make(plain[name][0], config=plain[name][1]) if name in plain else trunk(name)
    encoder.train()
    x = ids(6) if name == "text" else torch.randn(6, 3, *encoder.preprocess.size)
    out, few = encoder(x, tokens=True), encoder(x[[4, 1]], tokens=True)
    alike = all(torch.allclose(a[[4, 1]], b, atol=1e-4) for a, b in ((out.z, few.z), (out.tokens, few.tokens)))
    assert alike == (name not in ("resnet",))


@pytest.mark.parametrize("settings", [{"config": VIT}, {"config": TOWER}, {"config": TRUNKS["edgenext"]}])
def test_gradient_checkpointing_saves_memory_and_changes_nothing(settings: dict) -> None:
    modality = TEXT if "context_length" in settings["config"] else IMAGE
    plain, lean = (make(modality, **settings, grad_checkpointing=on) for on in (False, True))
    lean.load_state_dict(plain.state_dict())
    x = ids(4) if modality == TEXT else torch.randn(4, 3, *plain.preprocess.size)
    saved = []
    for encoder in (plain, lean):
        bytes_kept: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=bytes_kept: kept.setdefault(t.data_ptr(), t.numel() * t.element_size()) and t, lambda t: t
        ):
            out = encoder(x, tokens=True)
            (out.z.sum() + (out.tokens**2).sum()).backward()
        saved.append(sum(bytes_kept.values()))
    for mine, theirs in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert saved[1] < 0.7 * saved[0]


def test_lock() -> None:
    def trainable(encoder: OpenCLIP) -> set[str]:
        return {name for name, p in encoder.named_parameters() if p.requires_grad}

    for modality, config, projection in ((IMAGE, VIT, "tower.proj"), (TEXT, TOWER, "tower.text_projection")):
        assert trainable(OpenCLIP(modality, DIM, config=config, lock=0)) == set()
        assert trainable(OpenCLIP(modality, DIM, config=config, lock=1)) == {projection}
    resnet = OpenCLIP(IMAGE, DIM, config=TRUNKS["resnet"])
    resnet.lock()
    assert trainable(resnet) == {"tower.head.proj.weight"}
    before = {name: x.clone() for name, x in resnet.state_dict().items()}
    resnet.train()(torch.randn(4, 3, 64, 64))
    assert all(torch.equal(x, before[name]) for name, x in resnet.state_dict().items())


def test_patch_dropout_has_no_tokens() -> None:
    encoder = OpenCLIP(IMAGE, DIM, config=VIT | {"patch_dropout": 0.5})
    assert not encoder.has_tokens
    assert encoder(torch.randn(2, 3, 32, 32)).z.shape == (2, DIM)
    with pytest.raises(ValueError, match=r"patch_dropout \(0.5\)"):
        encoder(torch.randn(2, 3, 32, 32), tokens=True)


@pytest.mark.slow
def test_large_towers_without_memory() -> None:
    """What a dry run does: ViT-L/14's two towers, forward and backward, without data and without their 1.7 GB."""
    with FakeTensorMode():
        image, text = (make(modality, 768, model="ViT-L-14") for modality in (IMAGE, TEXT))
        assert sum(p.numel() for m in (image, text) for p in m.parameters()) == 427_616_512
        pixels, tokens = torch.randn(2, 3, 224, 224), torch.zeros(2, 77, dtype=torch.int64)
        out = image(pixels, tokens=True), text(tokens, tokens=True)
        assert [f.tokens.shape for f in out] == [(2, 257, 768), (2, 77, 768)]
        assert [f.positions.shape for f in out] == [(257, 768), (77, 768)]
        (out[0].z.sum() + out[1].z.sum()).backward()
    assert (image.width, text.width) == (1024, 768)
