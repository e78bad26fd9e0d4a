"""kill -9 at random moments, moments during a save included: started again, a run ends bitwise as if left in peace.

`just test-faults` (WB_FAULTS=30) kills thirty times, the default suite three times.
"""

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from trials import Trial, finish, last_step, result, write_recipe

KILLS = int(os.environ.get("WB_FAULTS", "3"))


def kill_somewhere(trial: Trial, moment: str, rng: random.Random) -> bool:
    """Kill the trial at a kind of moment; False when it had ended before."""
    if moment == "save":
        trial.wait_until(lambda: list((trial.run / "checkpoints").glob(".draft-*")))
        time.sleep(rng.uniform(0, 0.01))
    elif moment == "step":
        begin = last_step(trial.run)
        trial.wait_until(lambda: trial.step >= begin + rng.randrange(1, 12))
    else:
        time.sleep(rng.uniform(0, 0.6))
    if trial.ended:
        return False
    trial.kill()
    return True


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * KILLS)
def test_killed_at_random_moments_a_run_is_bitwise_the_uninterrupted_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Moments, workers and the thread that writes change from kill to kill; none of them may be seen in the result."""
    recipe, whole, broken = write_recipe(tmp_path), tmp_path / "whole", tmp_path / "broken"
    assert finish(recipe, whole)[0] == 0
    seed = random.SystemRandom().randrange(2**31)
    rng, kills, half_written, runs = random.Random(seed), 0, 0, 0
    moments = ["save", "step", "any"] * -(-KILLS // 3)
    while kills < KILLS or runs == 0:
        settings = (f"parallel.workers={rng.randrange(3)}", f"checkpoint.async={rng.choice(('true', 'false'))}")
        trial = Trial(recipe, broken, *settings)
        if kills < KILLS and kill_somewhere(trial, moments[kills], rng):
            kills += 1
            half_written += any((broken / "checkpoints").glob(".draft-*"))
            if kills < KILLS:
                continue
            trial = Trial(recipe, broken)
        status, said = trial.wait()
        assert status == 0, f"seed {seed}: {said}"
        assert result(broken) == result(whole), f"seed {seed}, after {kills} kills"
        assert not list((broken / "checkpoints").glob(".draft-*"))
        shutil.rmtree(broken)
        runs += 1
    with capsys.disabled():
        print(f"\n{kills} kills, {half_written} of them in a save; {runs} runs, all bitwise equal (seed {seed})")
