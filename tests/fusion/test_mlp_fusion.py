"""ConFu's MLP fusion against its formula in numpy float64, and what absence may not do."""

import numpy as np
import pytest
import torch

from workbench.fusion.mlp import MLP
from workbench.types import Features, Side

WIDTHS = {"audio": 5, "image": 7, "text": 3}
SIDES = [Side.parse(s) for s in ("audio+image", "audio+text", "+text", "audio+image+text")]


def features(n: int, dtype: torch.dtype = torch.float64) -> dict[str, Features]:
    return {m: Features(torch.randn(n, 4, dtype=dtype), torch.randn(n, w, dtype=dtype)) for m, w in WIDTHS.items()}


@pytest.mark.parametrize("side", [str(s) for s in SIDES])
@pytest.mark.parametrize("final", [True, False])
def test_formula(side: str, final: bool) -> None:
    fusion = MLP(SIDES, WIDTHS, 6, hidden=11, final_activation=final).double().eval()
    inputs = features(13)
    members = Side.parse(side).members
    mlp = fusion.mlps["+".join(members)]
    first, second = (tuple(p.detach().numpy() for p in mlp[i].parameters()) for i in (0, 3))
    h = np.concatenate([inputs[m].pooled.numpy() for m in members], axis=1)
    z = np.maximum(h @ first[0].T + first[1], 0) @ second[0].T + second[1]
    expected = np.where(z > 0, z, 0.2 * z) if final else z
    np.testing.assert_allclose(fusion(side, inputs).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_sides_have_their_own_weights_but_views_do_not() -> None:
    fusion = MLP([*SIDES, Side.parse("audio+image:all")], WIDTHS, 6, hidden=11).eval()
    size = {s: sum(p.numel() for p in fusion.mlps[s].parameters()) for s in fusion.mlps}
    assert size == {"+".join(s.members): (sum(WIDTHS[m] for m in s.members) + 1) * 11 + 12 * 6 for s in SIDES}
    inputs = features(5, torch.float32)
    assert torch.equal(fusion("audio+image", inputs), fusion("audio+image:all", inputs))


def test_dropout_after_each_activation() -> None:
    fusion = MLP([Side.parse("+text")], WIDTHS, 512, hidden=512, dropout=0.25)
    out = fusion("+text", features(200, torch.float32))
    assert abs((out == 0).float().mean().item() - 0.25) < 0.02  # 100 000 coins: five standard errors are .007


def test_masking_takes_a_share_of_what_is_read_in_training_alone() -> None:
    fusion = MLP(SIDES, WIDTHS, 6, hidden=11, dropout=0.0, masking=0.3)
    plain = MLP(SIDES, WIDTHS, 6, hidden=11, dropout=0.0)
    plain.load_state_dict(fusion.state_dict())  # it has no weights of its own
    read = []
    fusion.mlps["audio+image"][0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    inputs = features(8000, torch.float32)
    fusion("audio+image", inputs)
    whole = torch.cat([inputs["audio"].pooled, inputs["image"].pooled], 1)
    kept = read[0] != 0
    assert abs((~kept).float().mean().item() - 0.3) < 0.01  # 96 000 coins: five standard errors are .0075
    assert ((~kept).float().mean(0) - 0.3).abs().max() < 0.03  # of every member and number alike
    torch.testing.assert_close(read[0], torch.where(kept, whole / 0.7, 0.0))
    assert torch.equal(fusion.eval()("audio+image", inputs), plain.eval()("audio+image", inputs))
    before = torch.get_rng_state()
    plain.train()("audio+image", inputs)
    assert torch.equal(torch.get_rng_state(), before)  # without masking nothing is drawn, as before there was any


def test_absent_members_are_zero_whatever_they_hold() -> None:
    fusion = MLP(SIDES, WIDTHS, 6, hidden=11).eval()
    inputs = features(4, torch.float32)
    present = {"audio": torch.tensor([True, False, True, False]), "image": torch.tensor([True, True, False, False])}
    fused = fusion("audio+image", inputs, present)
    zeroed = {
        m: Features(f.z, torch.where(present[m][:, None], f.pooled, 0.0)) for m, f in inputs.items() if m in present
    }
    torch.testing.assert_close(fused, fusion("audio+image", zeroed), rtol=0, atol=0)
    for m in present:
        inputs[m].pooled[~present[m]] = float("nan")
    assert torch.equal(fused, fusion("audio+image", inputs, present))


def test_refuses_missing_members_by_name() -> None:
    with pytest.raises(ValueError, match=r"'image\+smell' fuses \['smell'\]"):
        MLP([Side.parse("image+smell")], WIDTHS, 6)
    fusion = MLP(SIDES, WIDTHS, 6)
    with pytest.raises(ValueError, match=r"needs the features of \['text'\]"):
        fusion("audio+text", {"audio": features(2)["audio"]})
