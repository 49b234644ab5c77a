"""The first updates of every algorithm log what they always did: loss, KL, reward, gradient, tokens."""

import json

import pytest

from scripts.make_golden import RUNS, TRAJECTORIES, trajectory


@pytest.mark.parametrize("name", RUNS)
def test_the_first_updates_log_the_numbers_of_the_golden_file(name):
    expected = json.loads(TRAJECTORIES.read_text(encoding="utf-8"))[name]
    rows = trajectory(*RUNS[name])
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, golden in zip(rows, expected, strict=True):
        # Processors differ in the last bits.
        assert row == pytest.approx(golden, rel=1e-4, abs=1e-6)
