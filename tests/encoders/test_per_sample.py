"""The first law for every shipped encoder: a row depends on its own item alone, padding and masks included."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from items import MODALITIES, items

from workbench.recipe.component import validate
from workbench.types import Encoder, Features, Kind, Modality

DIM = 6
CASES: list[tuple[Kind, dict[str, Any]]] = [
    ("vector", {"name": "mlp", "depth": 2, "noise": 0.3, "standardise": True}),
    ("sequence", {"name": "sequence", "width": 12, "heads": 3, "drop_frames": 0.3, "standardise": True}),
    ("sequence", {"name": "sequence", "width": 9, "heads": 3, "layers": 1}),
    ("audio", {"name": "audio", "model": "test_convnext3", "mels": 32}),
    ("audio", {"name": "audio", "model": "test_vit", "mels": 32, "augment": "none"}),
]
IDS = ["-".join(map(str, settings.values())) for _, settings in CASES]


def build(kind: Kind, settings: dict[str, Any], modality: Modality | None = None) -> Encoder:
    torch.manual_seed(0)
    encoder = validate("encoder", settings).build(modality or MODALITIES[kind], DIM)
    if encoder.needs_items:
        encoder.measure(items(kind, seed=9))
    return encoder


def rows_of(encoder: Encoder, raw: list[Any], train: bool) -> torch.Tensor:
    """Model inputs as a feed makes them: each item has a seed of its own."""
    transform, rows = encoder.transform(train), []
    for i, item in enumerate(raw):
        torch.manual_seed(i)
        rows.append(transform(item))
    return torch.stack(rows)


def tensors(out: Features) -> dict[str, torch.Tensor]:
    per_sample = {"z": out.z, "pooled": out.pooled, "tokens": out.tokens, "mask": out.mask}
    return {name: x for name, x in per_sample.items() if x is not None}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("train", [False, True])
def test_a_row_depends_on_its_item_alone(kind: Kind, settings: dict[str, Any], train: bool) -> None:
    encoder = build(kind, settings).train(train)
    rows = rows_of(encoder, items(kind), train)
    others = rows_of(encoder, items(kind, seed=1), train)
    asked = {"tokens": True} if encoder.has_tokens else {}
    together = tensors(encoder(rows, **asked))
    for i in range(len(rows)):
        alone = tensors(encoder(rows[i : i + 1], **asked))
        beside = tensors(encoder(torch.stack([others[(i + 1) % 5], rows[i], others[i]]), **asked))
        for name, x in together.items():
            torch.testing.assert_close(alone[name][0], x[i], msg=lambda m, name=name: f"{name}: {m}")
            torch.testing.assert_close(beside[name][1], x[i], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=IDS)
def test_a_training_item_is_a_function_of_its_seed_and_an_evaluation_draws_nothing(
    kind: Kind, settings: dict[str, Any]
) -> None:
    encoder = build(kind, settings)
    assert torch.equal(rows_of(encoder, items(kind), True), rows_of(encoder, items(kind), True))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    plain = [encoder.transform(False)(item) for item in items(kind)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.stack(plain), rows_of(encoder, items(kind), False))
    assert len({tuple(x.shape) for x in plain}) == 1


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=IDS)
def test_what_is_not_there_gives_numbers_and_gradients_all_the_same(kind: Kind, settings: dict[str, Any]) -> None:
    encoder = build(kind, settings).train()
    rows = rows_of(encoder, items(kind), True)
    rows[1] = 0  # what a batch has in the place of a missing modality
    out = encoder(rows, **({"tokens": True} if encoder.has_tokens else {}))
    assert all(x.isfinite().all() for x in tensors(out).values())
    out.z[0].sum().backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=IDS)
def test_bf16_is_close_to_fp32(kind: Kind, settings: dict[str, Any]) -> None:
    encoder = build(kind, settings).eval()
    rows = rows_of(encoder, items(kind), False)
    exact = encoder(rows).z
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(rows).z
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=IDS)
def test_the_contract(kind: Kind, settings: dict[str, Any]) -> None:
    encoder = build(kind, settings)
    names = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert names <= encoder.depths().keys() <= {name for name, _ in encoder.named_parameters()}
    assert min(encoder.depths().values()) == 0
    rows = rows_of(encoder, items(kind), False)
    out = encoder(rows, tokens=True) if encoder.has_tokens else encoder(rows)
    assert out.z.shape == (5, DIM)
    assert out.pooled.shape == (5, encoder.width)
    assert (out.tokens is not None) == encoder.has_tokens
    if out.tokens is not None:
        length = out.tokens.shape[1]
        assert out.tokens.shape == (5, length, DIM)
        assert out.positions is not None
        assert out.positions.shape == (length, DIM)
        assert out.mask is None or (out.mask.shape == (5, length) and out.mask.any(1).all())
    torch.testing.assert_close(encoder(rows).z, out.z)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=IDS)
def test_another_kind_is_refused_with_an_encoder_that_reads_it(kind: Kind, settings: dict[str, Any]) -> None:
    reads = {k for k, s in CASES if s["name"] == settings["name"]}
    for other, modality in MODALITIES.items():
        if other not in reads:
            with pytest.raises(ValueError, match=rf"it reads .*, not {other}.*: use '"):
                build(kind, settings, replace(modality))
