"""The model is a per-sample map that gives unit rows, whatever sides and views it is asked for."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from workbench.build import Parts, build_parts
from workbench.model import Model, all_combinations, zipped
from workbench.recipe.schema import parse_recipe
from workbench.types import Encoder, Features, Fusion, Side, Transform, View


def parts(**model: object) -> Parts:
    tree = {"name": "x", "data": {"name": "synthetic", "task": "xor"}, "train": {"for": "1 steps", "batch": 8}}
    tree |= {
        "objective": "confu",
        "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp"), "fusion": "mlp"} | model,
    }
    return build_parts(parse_recipe(tree))


def inputs(n: int = 6, **counts: int) -> dict[str, torch.Tensor]:
    return {m: torch.randn(n, k, 3) for m, k in counts.items()}


def everywhere(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {m: torch.ones(t.shape[:2], dtype=torch.bool) for m, t in x.items()}


SIDES = ["a", "b", "a+b", "a+b:all"]


def test_rows_are_unit_and_shapes_follow_the_views() -> None:
    x = inputs(a=2, b=3)
    views = parts().model.eval()(x, everywhere(x), SIDES)
    assert {s: tuple(v.z.shape) for s, v in views.items()} == {
        "a": (6, 2, 8),
        "b": (6, 3, 8),
        "a+b": (6, 3, 8),
        "a+b:all": (6, 6, 8),
    }
    for view in views.values():
        assert torch.allclose(view.z.norm(dim=-1), torch.ones(view.valid.shape), atol=1e-6)


def test_a_row_depends_on_its_own_sample_alone() -> None:
    model, x = parts(head="linear").model.eval(), inputs(a=2, b=2)
    whole = model(x, everywhere(x), SIDES)
    order = torch.tensor([4, 1, 5])
    some = {m: t[order] for m, t in x.items()}
    for side, view in model(some, everywhere(some), SIDES).items():
        assert torch.allclose(view.z, whole[side].z[order], atol=1e-6)


@pytest.mark.parametrize("counts", [(2, 3), (1, 2), (2, 1, 3)])
def test_views_are_zipped_modulo_those_that_a_sample_has(counts: tuple[int, ...]) -> None:
    """A declared count would have fused a caption that is not there: such rows left the loss, silently."""
    valid = [torch.rand(40, count) < 0.6 for count in counts]
    views, present = zipped(valid)
    for i in range(40):
        there = [v[i].nonzero().flatten().tolist() for v in valid]
        rows = max(map(len, there))
        for k in range(max(counts)):
            for m, have in enumerate(there):
                assert present[m][i, k] == (k < rows and bool(have))
                if present[m][i, k]:
                    assert views[m][i, k] == have[k % len(have)]


def test_all_views_are_combined_with_all() -> None:
    valid = [torch.rand(9, count) < 0.6 for count in (2, 3, 2)]
    views, present = all_combinations(valid)
    for k, combination in enumerate(product(range(2), range(3), range(2))):
        for m, view in enumerate(combination):
            assert (views[m][:, k] == view).all()
            assert present[m][:, k].equal(valid[m][:, view])


def test_fused_views_take_the_members_views_they_say() -> None:
    model, x = parts().model.eval(), inputs(a=2, b=3)
    valid = everywhere(x)
    fused = model(x, valid, ["a+b:all"])["a+b:all"].z
    for k, (i, j) in enumerate(product(range(2), range(3))):
        one = {"a": x["a"][:, i : i + 1], "b": x["b"][:, j : j + 1]}
        assert torch.allclose(model(one, everywhere(one), ["a+b"])["a+b"].z[:, 0], fused[:, k], atol=1e-6)


def test_a_sample_with_fewer_captions_repeats_them() -> None:
    model, x = parts().model.eval(), inputs(a=2, b=3)
    valid = everywhere(x)
    valid["a"][1, 0] = valid["b"][2, [0, 2]] = valid["b"][3] = False
    view: View = model(x, valid, ["a+b"])["a+b"]
    assert view.valid.tolist()[:4] == [[True] * 3, [True] * 3, [True, True, False], [False] * 3]
    for i, pairs in ((0, [(0, 0), (1, 1), (0, 2)]), (1, [(1, 0), (1, 1), (1, 2)]), (2, [(0, 1), (1, 1)])):
        for k, (a, b) in enumerate(pairs):
            one = {"a": x["a"][i : i + 1, a : a + 1], "b": x["b"][i : i + 1, b : b + 1]}
            assert torch.allclose(model(one, everywhere(one), ["a+b"])["a+b"].z[0, 0], view.z[i, k], atol=1e-6)


def test_stopped_tokens_get_no_gradient_from_the_fused_side() -> None:
    model, x = parts().model, inputs(a=1, b=1)
    model(x, everywhere(x), ["a+b:tokens"])["a+b:tokens"].z.square().sum().backward()
    assert all(p.grad is None for p in model.encoders.parameters())
    model(x, everywhere(x), ["a+b"])["a+b"].z[..., 0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoders["a"].parameters())


def test_second_heads_are_linear_maps_of_pooled_features() -> None:
    tree = {"name": "x", "data": {"name": "synthetic", "task": "xor"}, "train": {"for": "1 steps", "batch": 8}}
    terms = [{"between": ["a", "b"]}, {"between": ["a@other", "c"]}]
    tree |= {
        "objective": {"name": "terms", "terms": terms},
        "model": {"dim": 8, "encoders": dict.fromkeys("abc", "mlp")},
    }
    model = build_parts(parse_recipe(tree)).model
    assert list(model.heads) == ["a@other"]
    x = inputs(a=1)
    views = model(x, everywhere(x), ["a", "a@other"])
    assert not torch.allclose(views["a"].z, views["a@other"].z)


class Apart(Encoder):
    """Its vector before the projection, its projection, its tokens and their mask are columns of what it reads."""

    width, has_tokens = 4, True

    def transform(self, train: bool) -> Transform:
        return torch.as_tensor

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        features = Features(x[:, :4], x[:, 4:8])
        return replace(features, tokens=x[:, 8:16].unflatten(1, (2, 4)), mask=x[:, 16:] > 0) if tokens else features


class Sums(Fusion):
    """Adds up the tokens that are real."""

    needs_tokens = True

    def forward(
        self, side: Side, features: Mapping[str, Features], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        found = torch.zeros(())
        for f in features.values():
            assert f.tokens is not None
            assert f.mask is not None
            found = found + f.tokens.where(f.mask[..., None], 0).sum(1)
        return found


def test_heads_read_the_vector_before_the_projection() -> None:
    head = nn.Linear(4, 4)
    model, x = Model({"a": Apart()}, {"a@other": head}, None), {"a": torch.randn(5, 1, 18)}
    z = model(x, everywhere(x), ["a", "a@other"])
    torch.testing.assert_close(z["a"].z[:, 0], normalize(x["a"][:, 0, :4], dim=1))
    torch.testing.assert_close(z["a@other"].z[:, 0], normalize(head(x["a"][:, 0, 4:8]), dim=1))


def test_fused_views_take_the_tokens_of_their_views_and_the_masks_of_these() -> None:
    x = {"a": torch.randn(6, 2, 18), "b": torch.randn(6, 3, 18)}
    z = Model({"a": Apart(), "b": Apart()}, {}, Sums())(x, everywhere(x), ["a+b"])["a+b"].z
    for view in range(3):
        chosen = [x["a"][:, view % 2], x["b"][:, view]]
        sums = sum((c[:, 8:16].unflatten(1, (2, 4)) * (c[:, 16:] > 0)[..., None]).sum(1) for c in chosen)
        torch.testing.assert_close(z[:, view], normalize(torch.as_tensor(sums), dim=1))


def test_a_head_that_the_model_has_not_is_no_plain_side() -> None:
    """It was given the plain side in its place."""
    x = inputs(a=1)
    with pytest.raises(ValueError, match=r"no head 'a@ssl': no term of its objective names it \(it has none\)"):
        parts().model(x, everywhere(x), ["a@ssl"])


def test_a_fused_side_without_a_fusion_module_says_so() -> None:
    with pytest.raises(ValueError, match=r"say which module fuses, as model.fusion: mlp"):
        parts(fusion=None)


def test_encoders_for_modalities_the_data_lacks_are_named() -> None:
    with pytest.raises(ValueError, match=r"model.encoders has \['d'\]"):
        parts(encoders=dict.fromkeys("abcd", "mlp"))


def test_parts_are_drawn_by_their_names_whatever_else_the_model_has() -> None:
    every, fewer = parts().model.encoders, parts(encoders=dict.fromkeys("bca", "mlp")).model.encoders
    weights = {m: torch.cat([p.flatten() for p in encoder.parameters()]) for m, encoder in every.items()}
    assert not any(torch.equal(weights[m], weights[n]) for m, n in combinations("abc", 2))
    for m, encoder in fewer.items():
        assert torch.equal(weights[m], torch.cat([p.flatten() for p in encoder.parameters()]))
