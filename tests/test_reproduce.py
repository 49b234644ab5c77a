"""A row run again falls within its interval, or outside it, and who asks for one that is not there is told."""

import json

import numpy as np
import pytest
from rich.console import Console
from test_compare import TASK, configured

from agents import files
from agents.__main__ import main
from agents.comparing import results
from agents.comparing.aggregate import mean_interval, prediction_interval
from agents.comparing.config import ReproduceConfig
from agents.comparing.reproduce import Reproduction
from agents.training import run_folder


@pytest.fixture(scope="module")
def board(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    configured(start, folder, ("rloo", "fast=rloo"), seeds=3).run()
    return folder / "results.jsonl"


def reproduced(board, out, row="rloo", outside=False, **given):
    """What is found, None where that is an error, and what is told."""
    console = Console(record=True, width=300, quiet=False, file=(out / "told").open("w"))
    config = ReproduceConfig(row=row, results=str(board), out=str(out / "runs"), jobs=2, **given)
    reproduction = Reproduction(config, console)
    if outside:
        with pytest.raises(ValueError, match=f"not reproduced on {TASK}"):
            reproduction.run()
        return None, console.export_text()
    return reproduction.run(), console.export_text()


def test_new_runs_have_new_seeds_and_the_settings_of_the_row(board, tmp_path):
    found, told = reproduced(board, tmp_path)
    rows = results.read(tmp_path / "runs" / "results.jsonl")
    old = results.read(board)[0]
    assert [row["seed"] for row in rows] == [3, 4]
    for row in rows:
        assert row["overrides"] == old["overrides"]
    assert found[TASK].mean == pytest.approx(np.mean([row["gold"]["after"] for row in rows]))
    assert ("within" if found[TASK].within else "OUTSIDE") in told


def test_a_mean_outside_the_interval_is_told(board, tmp_path):
    rows = results.read(board)
    for k, row in enumerate(rows):
        row["gold"]["after"] = 5 + 0.001 * k
    changed = tmp_path / "changed.jsonl"
    files.write_lines(changed, rows)
    _, told = reproduced(changed, tmp_path, outside=True, runs=1)
    assert "OUTSIDE" in told


def test_other_versions_are_told(board, tmp_path):
    rows = json.loads(json.dumps(results.read(board)))
    for row in rows:
        row["versions"]["torch"] = "1.0.0"
    changed = tmp_path / "changed.jsonl"
    files.write_lines(changed, rows)
    _, told = reproduced(changed, tmp_path, runs=1)
    assert "other versions: torch 1.0.0 instead of" in told


def test_a_row_that_is_not_there_is_told(board, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no row 'rlo'.*did you mean 'rloo'.*fast, rloo"):
        Reproduction(ReproduceConfig(row="rlo", results=str(board)))
    with pytest.raises(ValueError, match=r"no row 'rloo' on mmenv/Captioning-v0"):
        Reproduction(ReproduceConfig(row="rloo", env_ids=("mmenv/Captioning-v0",), results=str(board)))
    assert main(["reproduce", "rloo", "--results", str(tmp_path / "none.jsonl")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_prediction_interval_holds_what_it_promises():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        values = rng.normal(size=7)
        expected = prediction_interval(values[:5], 2)
        held.append(expected.low <= values[5:].mean() <= expected.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
    assert prediction_interval(values, 10**9).low == pytest.approx(mean_interval(values).low)
    assert np.isnan(prediction_interval([1.0], 2).low)


def constant(golds):
    """Rows of runs that ended with so much gold, each of a seed of its own."""
    common = {
        "format": 2, "label": "best", "algorithm": "best-of-n", "env_id": TASK, "overrides": {}, "files": {},
        "status": "done",
    }  # fmt: skip
    interval = {"before": [0.4, 0.6], "after": [0.85, 0.95]}
    return [
        {**common, "seed": k, "versions": run_folder.versions(), "gold": {"after": gold}, "reward": {"after": 1.0},
         "gold_interval": interval}
        for k, gold in enumerate(golds)
    ]  # fmt: skip


@pytest.mark.parametrize(("gold", "outside"), [(0.9, False), (0.93, False), (0.7, True)])
def test_where_the_seed_changes_nothing_one_run_is_enough(tmp_path, monkeypatch, gold, outside):
    def complete(cells, path, config, console):
        asked.extend(cells)
        return constant([gold])

    asked = []
    files.write_lines(tmp_path / "board.jsonl", constant([0.9] * 5))
    monkeypatch.setattr(results, "complete", complete)
    _, told = reproduced(tmp_path / "board.jsonl", tmp_path, row="best", outside=outside)
    assert [cell.seed for cell in asked] == [5]
    assert "a seed changes nothing" in told
    assert ("OUTSIDE" in told) is outside
