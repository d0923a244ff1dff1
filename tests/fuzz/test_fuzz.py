"""Random hostile input is read or refused: no other error, no hang, little memory. `make fuzz` runs many more cases."""

import sys

import pytest

from tests.fuzz.areas import AREAS

CASES = {"configs": 250, "annotations": 500, "images": 1500, "checkpoints": 150, "operators": 1000}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs timers of processes")
@pytest.mark.parametrize("area", AREAS)
def test_hostile_input(area, tmp_path):
    from tests.fuzz.runner import run_cases

    outcome = run_cases(area, range(CASES[area]), tmp_path)
    assert not outcome.failures, "\n".join(outcome.failures[:3])
    assert outcome.read > CASES[area] / 50 and outcome.refused > CASES[area] / 50
