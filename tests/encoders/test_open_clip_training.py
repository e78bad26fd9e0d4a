"""Training of open_clip's transformers leaves out what nothing reads: the numbers and gradients of open_clip stay."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import open_clip
import pytest
import torch
from open_clip_towers import DIM, IMAGE, TEXT, TOWER, VIT, clip, make
from torch import Tensor, nn

from workbench.encoders._padding import cut_padding
from workbench.encoders.open_clip import OpenCLIP
from workbench.fusion.transformer import Transformer
from workbench.model import Model
from workbench.types import Modality, Side

pytestmark = pytest.mark.slow
START, END = 49406, 49407
CHECKPOINTED = {"grad_checkpointing": True}


def texts(*lengths: int, context: int = 10) -> Tensor:
    """Make token ids of so many tokens each, begin and end included; 0 stands for a text that is missing."""
    rows = torch.zeros(len(lengths), context, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        if length:
            row[:length] = torch.randint(1, 40_000, (length,))
            row[0], row[length - 1] = START, END
    return rows


def small_texts(config: Mapping[str, object] = MappingProxyType({}), **settings: object) -> OpenCLIP:
    """Make a tower of little width: a text's vocabulary is most of its time."""
    return make(TEXT, config=TOWER | {"width": 8} | config, **settings)


def randomise(encoder: OpenCLIP) -> None:
    for p in encoder.parameters():  # norms and biases too, which are drawn as ones and zeros
        nn.init.normal_(p, std=0.3)


@contextmanager
def rows_computed(encoder: OpenCLIP) -> Iterator[list[int]]:
    """Record how many tokens a row each block computes; what is recomputed comes a second time."""
    counts: list[int] = []
    hooks = [
        block.ln_2.register_forward_hook(lambda module, inputs, out: counts.append(out.shape[1]))
        for block in encoder.repeated()
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def open_clips(encoder: OpenCLIP) -> nn.Module:
    """Build open_clip's own tower with the same weights."""
    model = clip(**{"text" if encoder.kind == "text" else "vision": encoder.config})
    tower = model.text if encoder.kind == "text" else model.visual
    tower.load_state_dict(encoder.tower.state_dict())
    return tower


def assert_open_clips(
    encoder: OpenCLIP, x: Tensor, computed: list[int], dtype: torch.dtype = torch.float64, bound: float = 1e-12
) -> None:
    """Compare z and all gradients with those of open_clip's own tower, and the tokens that each block computes."""
    reference = open_clips(encoder.to(dtype)).to(dtype).train()
    upstream = torch.randn(len(x), DIM, dtype=dtype)
    torch.manual_seed(draw := int(torch.randint(2**31, ())))
    expected = reference(x)
    expected.backward(upstream)
    torch.manual_seed(draw)
    with rows_computed(encoder) as counts:
        out = encoder.train()(x)
        out.z.backward(upstream)
    assert counts == computed + (computed[::-1] if encoder.tower.transformer.grad_checkpointing else [])
    torch.testing.assert_close(out.z, expected, rtol=bound, atol=bound)
    for (name, mine), theirs in zip(encoder.tower.named_parameters(), reference.parameters(), strict=True):
        if not mine.requires_grad:
            assert mine.grad is None, name
            continue
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=bound, atol=bound * max(1, scale), msg=name)


@pytest.mark.parametrize(
    ("config", "settings", "n", "first"),
    [
        ({}, {}, 4, 17),
        ({}, {}, 1, 17),
        ({}, CHECKPOINTED, 3, 17),
        ({}, {"lock": 2}, 3, 17),
        ({"final_ln_after_pool": True, "ls_init_value": 0.3}, {}, 3, 17),
        ({"patch_dropout": 0.5}, {}, 3, 9),
        ({"layers": 1}, {}, 3, None),
    ],
)
def test_a_vit_computes_its_class_token(config: dict, settings: dict, n: int, first: int | None) -> None:
    encoder = make(IMAGE, config=VIT | config, **settings)
    randomise(encoder)
    images = torch.randn(n, 3, 32, 32, dtype=torch.float64)
    assert_open_clips(encoder, images, [1] if first is None else [first, 1])


@pytest.mark.parametrize(
    ("lengths", "config", "settings"),
    [
        ((3, 6, 4), {}, {}),
        ((3, 10, 4), {}, {}),
        ((5,), {}, {}),
        ((2, 2), {}, {}),
        ((0, 4), {}, {}),
        ((0, 0), {}, {}),
        ((3, 6, 4), {}, CHECKPOINTED),
        ((3, 6, 4), {}, {"lock": 2}),
        ((3, 6, 4), {"proj_bias": True, "ls_init_value": 0.3}, {}),
    ],
)
def test_a_text_is_computed_up_to_its_end(lengths: tuple[int, ...], config: dict, settings: dict) -> None:
    encoder = small_texts(config, **settings)
    randomise(encoder)
    assert_open_clips(encoder, texts(*lengths), [max(1, *lengths), 1])


def test_a_text_ends_where_open_clip_reads_it() -> None:
    """A caption may spell the end token, and what lies behind the end need not be zeros."""
    encoder = small_texts()
    randomise(encoder)
    x = torch.randint(1, 40_000, (3, 10))
    x[:, 0] = START
    x[[0, 1, 2, 0], [4, 2, 6, 8]] = END
    assert_open_clips(encoder, x, [7, 1])


def test_single_precision_differs_by_rounding() -> None:
    assert_open_clips(make(IMAGE, config=VIT), torch.randn(3, 3, 32, 32), [17, 1], torch.float32, 1e-5)
    assert_open_clips(small_texts(), texts(3, 6), [6, 1], torch.float32, 1e-5)


def test_texts_of_people() -> None:
    """Nothing, one that is longer than the context, and marks whose id is that of the padding."""
    encoder = small_texts()
    randomise(encoder)
    tokenize = encoder.transform(True)
    for captions, longest in ((["", "a word"], 4), (["", "! !"], 4), (["", "many " * 30], 10)):
        x = torch.stack([tokenize(caption) for caption in captions])
        assert_open_clips(encoder, x, [longest, 1])
        encoder.zero_grad()


@pytest.mark.parametrize(
    ("modality", "config"),
    [
        (TEXT, TOWER | {"no_causal_mask": True}),
        (IMAGE, VIT | {"pool_type": "avg"}),
        (IMAGE, VIT | {"qk_norm": True}),
        (TEXT, TOWER | {"qk_norm": True}),
    ],
)
def test_what_reads_other_tokens_or_is_another_block_computes_all(modality: Modality, config: dict) -> None:
    encoder = make(modality, config=config)
    x = texts(3, 6) if modality == TEXT else torch.randn(2, 3, 32, 32)
    with rows_computed(encoder) as counts:
        out = encoder.train()(x)
    assert torch.equal(out.z, open_clips(encoder).train()(x))
    assert counts == [10 if modality == TEXT else 17] * 2


@pytest.mark.parametrize(("modality", "config", "length"), [(IMAGE, VIT, 17), (TEXT, TOWER, 10)])
def test_evaluations_fusions_and_locked_towers_get_open_clips_own_bits(
    modality: Modality, config: dict, length: int
) -> None:
    encoder = make(modality, config=config)
    x = texts(3, 6) if modality == TEXT else torch.randn(2, 3, 32, 32)
    for training, tokens, lock in ((False, False, None), (False, True, None), (True, True, None), (True, False, 0)):
        if lock is not None:
            encoder.lock(lock)
        reference = open_clips(encoder).requires_grad_(lock is None).train(training)
        with rows_computed(encoder) as counts:
            out = encoder.train(training)(x, tokens=tokens)
        assert torch.equal(out.z, reference(x))
        assert counts == [length] * 2
        if tokens:  # those of padding are as in an evaluation, too: a fusion of one's own may read them
            whole = encoder.eval()(x, tokens=True)
            assert out.tokens.shape[1] == length
            for name in ("tokens", "positions", *(["mask"] if modality == TEXT else [])):
                assert torch.equal(getattr(out, name), getattr(whole, name)), name


class ReadsPadding(Transformer):
    """A fusion that says nothing of padding, as one of a user."""

    reads_padding = True


def fused_step(model: Model, x: dict[str, Tensor], upstream: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Embed pictures, texts and both; return their rows, and the gradients of all parameters."""
    valid = {m: torch.ones(v.shape[:2], dtype=torch.bool) for m, v in x.items()}
    views = model(x, valid, [Side.parse(s) for s in ("image", "text", "image+text")])
    z = torch.cat([view.z.flatten(0, 1) for view in views.values()])
    (z * upstream).sum().backward()
    return z.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("width", [8, DIM])  # of another width than the shared one, positions are not learned
@pytest.mark.parametrize("readout", ["cls", "mean"])
def test_a_fusion_that_reads_no_padding_learns_as_on_whole_texts(width: int, readout: str) -> None:
    encoders = {"image": make(IMAGE, config=VIT), "text": make(TEXT, config=TOWER | {"width": width})}
    for encoder in encoders.values():
        randomise(encoder)
    x = {"image": torch.randn(3, 2, 3, 32, 32).double(), "text": texts(3, 6, 4)[:, None]}
    upstream = torch.randn(3 * (2 + 1 + 2), DIM, dtype=torch.float64)
    found = []
    for kind, length in ((Transformer, 6), (ReadsPadding, 10)):
        torch.manual_seed(5)
        fusion = kind([Side.parse("image+text")], {"image": 32, "text": width}, DIM, heads=2, readout=readout)
        model = Model(encoders, {}, fusion).double().train()
        model.zero_grad()
        with rows_computed(encoders["text"]) as counts:
            found.append(fused_step(model, x, upstream))
        assert counts == [length] * 2
        with rows_computed(encoders["text"]) as counts:
            model.eval()(x, {m: torch.ones(v.shape[:2], dtype=torch.bool) for m, v in x.items()}, ["image+text"])
        assert counts == [10] * 2
    (z, mine), (whole, theirs) = found
    torch.testing.assert_close(z, whole, rtol=1e-11, atol=1e-11)
    assert mine.keys() == theirs.keys()
    for name, grad in mine.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-10, atol=1e-10, msg=name)


def test_ids_that_are_left_whole() -> None:
    block, x = nn.Linear(1, 1), texts(3, 6)
    last = x.argmax(dim=1)
    assert torch.equal(cut_padding(x, last, [block]), x[:, :6])
    assert cut_padding(x.to("meta"), last.to("meta"), [block]).shape == (2, 10)
    assert cut_padding(x[:0], last[:0], [block]).shape == (0, 10)
    with torch._subclasses.fake_tensor.FakeTensorMode() as mode:
        assert cut_padding(mode.from_tensor(x), mode.from_tensor(last), [block]).shape == (2, 10)
    block._compiled_call_impl = lambda: None
    assert cut_padding(x, last, [block]) is x


def test_a_prepared_tower_has_open_clips_weights_under_their_names() -> None:
    """And nothing more is drawn, which would give the next tower other weights."""
    torch.manual_seed(draw := int(torch.randint(2**31, ())))
    mine, after = OpenCLIP(IMAGE, DIM, config=VIT).tower.state_dict(), torch.rand(())
    torch.manual_seed(draw)
    theirs = open_clip.model._build_vision_tower(DIM, open_clip.CLIPVisionCfg(**VIT)).state_dict()
    assert torch.equal(after, torch.rand(()))
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
