"""The measurement of what training leaves out: the same step in turns, whole and not."""

import pytest
from torch import Tensor

from workbench.bench.left_out import Measured, measure, prepare, table
from workbench.encoders.open_clip import OpenCLIP

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 40, "width": 8, "heads": 2, "layers": 2},
}


@pytest.mark.slow
def test_steps_are_whole_and_not_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    monkeypatch.setattr(open_clip, "get_model_config", lambda model: SMALL)
    engine, batch = prepare("ViT-B-32", 32, 4)
    text, computed = engine.model.encoders["text"], []
    assert isinstance(text, OpenCLIP)

    def count(module: object, inputs: tuple[Tensor], out: Tensor) -> None:
        computed.append(out.shape[1])

    for block in text.repeated():
        block.ln_2.register_forward_hook(count)
    found = list(measure(engine, batch, 2))
    short = found[0][1]
    assert short < 40
    assert [(way, longest, number) for way, longest, number, _ in found] == [
        (way, longest, number)
        for number in range(2)
        for way, longest in (("whole", short), ("left out", short), ("left out, full", 40))
    ]
    assert computed == [short, 1] + 2 * [40, 40, short, 1, 40, 1]


def test_the_ratio_is_of_the_same_round() -> None:
    about = ("ViT-B-32", 64, 16), ("2026-11-30", "2.14.1", "2 x AMD")
    times = {"whole": (6.0, 30.0, 9.0), "left out": (2.0, 10.0, 4.0), "left out, full": (6.0, 15.0, 3.0)}
    rows = [Measured(*about[0], way, 8, k, s, *about[1]) for way, three in times.items() for k, s in enumerate(three)]
    lines = [line.split(" | ") for line in table(rows).splitlines()[2:]]
    assert [line[2:] for line in lines] == [["9.00", "1.00 |"], ["4.00", "3.00 |"], ["6.00", "2.00 |"]]
