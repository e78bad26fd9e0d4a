"""Verdicts on the losses that small runs ended at, and at the borders of the rules."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from workbench.scoring.verdict import recovered, verdict

LN_B = math.log(256)


@pytest.mark.parametrize(
    ("loss", "se", "floor", "no_information", "weight", "expected"),
    [
        (3.484, 0.003, 3.4795, 2 * LN_B, 1, "passed"),  # Symile, xor d=3
        (13.558, 0.01, 13.537, 3 * LN_B, 3, "passed"),  # ConFu, xor d=3
        (16.640, 0.001, 3 * LN_B, 3 * LN_B, 3, "blind"),  # CLIP, xor d=3: nothing to recover
        (3 * LN_B * (1 - 1e-7), 0.0, 3 * LN_B, 3 * LN_B, 3, "blind"),  # collapsed: a constant loss, in float32
        (3 * LN_B - 0.03, 0.001, 3 * LN_B, 3 * LN_B, 3, "below floor"),
        (3.4795 - 0.008, 0.003, 3.4795, LN_B, 1, "passed"),  # within 3 s.e. under the floor
        (3.4795 - 0.010, 0.003, 3.4795, LN_B, 1, "below floor"),
        (LN_B - 0.019, 0.001, 3.4795, LN_B, 1, "blind"),
        (LN_B - 0.021, 0.001, 3.4795, LN_B, 1, "partial"),
        (LN_B + 0.021, 0.001, 3.4795, LN_B, 1, "worse than blind"),  # neither blindness nor a part of what there is
        (8.3821, 0.006, 8.3178, 8.3178, 2, "worse than blind"),  # hub, image-text-xor: nothing to learn, and overfitted
        (3.4795 - 0.011, 0.003, 3.4795, LN_B, 1, "below floor"),
        (LN_B - 0.949 * (LN_B - 3.4795), 0.001, 3.4795, LN_B, 1, "partial"),
        (LN_B - 0.951 * (LN_B - 3.4795), 0.001, 3.4795, LN_B, 1, "passed"),
        (3 * LN_B - 0.059, 0.001, 3.0, 3 * LN_B, 3, "blind"),  # .02 a unit of weight
        (3.5, 0.001, None, None, 1, "unknown"),
    ],
)
def test_verdict(loss, se, floor, no_information, weight, expected):
    assert verdict(loss, se, floor, no_information, weight) == expected


def test_recovered_is_a_share_and_absent_when_there_is_nothing():
    assert recovered(3.0, 2.0, 4.0) == pytest.approx(0.5)
    assert recovered(4.5, 2.0, 4.0) == pytest.approx(-0.25)
    assert recovered(16.0, 16.635532333438974, 16.635532333438686) is None  # equal but for rounding


def test_the_command_line_can_judge_without_torch():
    code = "import sys, workbench.scoring.verdict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
