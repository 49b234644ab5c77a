"""The contest: a row of anybody's, tuned settings as data, what a budget gives, and claims that tests alone make."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from test_compare import TASK, configured

from agents import files
from agents.__main__ import main
from agents.comparing import claims, conditions, gaps, pilot, results, tuning
from agents.comparing.config import CompareConfig
from agents.comparing.grid import Cell
from agents.comparing.paired_tests import paired_tests
from agents.comparing.pilot import Pilot
from agents.comparing.study import Comparison, labelled
from agents.settings import tuned
from experiments import leaderboard, leaderboard_files, leaderboard_page
from mmenv.models.ceilings import Marks

QUIET = Console(quiet=True)
CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"


def cells_of(rng, mean=0.5, seeds=5, tasks=("a", "b", "c"), noise=0.02):
    return {(task, seed): mean + noise * rng.normal() for task in tasks for seed in range(seeds)}


def row_of(label, seed=0, env_id=TASK, gold=0.5, before=0.4, algorithm=None, **config):
    """A row of results as a run writes it."""
    settings = {"num_envs": 64, "responses_per_context": 4, "temperature": 1.0, "top_p": 1.0, "total_tokens": 1000}
    settings |= {"reward": "gold", "eval_episodes": 64, "epochs": 2, "minibatches": 2, "learning_rate": 3e-4}
    score = {"before": before, "after": gold}
    curve = {"tokens": list(range(100, 1100, 100)), "seconds": list(range(1, 11))}
    curve |= {"gold": np.linspace(before, gold, 10).tolist(), "reward": [0.0] * 10, "kl": [0.1] * 10}
    evaluation = {"gold": gold - 0.1, "reward": 0.0, "greedy": {"gold": gold - 0.05}}
    return {
        "format": 2, "label": label, "algorithm": algorithm or label, "env_id": env_id, "seed": seed, "overrides": {},
        "files": {}, "status": "done", "attempts": 1, "log": f"{label}/log.txt", "machine": "Linux, 2 cores",
        "versions": {"python": "3"}, "commit": "abc", "tokens": 1000, "seconds": 10.0, "kl": 0.2, "updates": 60,
        "gold": score, "reward": score, "greedy": {"gold": score}, "split": "test", "episodes": 64,
        "also": {f"{env_id}@comp": evaluation}, "config": {**settings, **config}, "curve": curve,
    }  # fmt: skip


# Ways in: a row of anybody's.


@pytest.fixture
def outsider(tmp_path, monkeypatch):
    """The module of CONTRIBUTING.md, saved outside of the tree."""
    blocks = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.S)
    (text,) = (block for block in blocks if "class GSPO(" in block)
    (tmp_path / "my_gspo.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("my_gspo")


def test_an_outsiders_gspo_joins_a_comparison_with_one_file_and_learns_what_ours_learns(outsider, start, tmp_path):
    labels = ("my_gspo:GSPO", "gspo")
    same = tuple(f"{label}/learning-rate=0.01" for label in labels)
    rows = configured(start, tmp_path / "out", labels, seeds=1, settings=(*same, "gspo/kl-coef=0")).run()
    mine, ours = rows
    assert mine["status"] == ours["status"] == "done"
    for name in ("gold", "greedy", "tokens", "updates"):
        assert mine[name] == ours[name], name
    assert mine["kl"] == pytest.approx(ours["kl"], rel=1e-4)
    assert "| my_gspo:GSPO |" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_an_outsiders_row_is_tuned_as_the_others_are_and_joins_the_leaderboard(outsider):
    cell = Cell("my_gspo:GSPO", "my_gspo:GSPO", TASK, 0)
    assert list(tuning.space_of(cell)) == ["learning_rate", "epochs"]
    assert leaderboard.chosen_rows(TASK, ("my_gspo:GSPO", "ppo")) == ("my_gspo:GSPO", "ppo")
    (cell,) = leaderboard.grid_of(TASK, ("my_gspo:GSPO",), "fixed", 1).firsts
    assert (cell.overrides["num_envs"], cell.overrides["learning_rate"]) == (64, 3e-4)


@pytest.mark.slow
def test_the_contest_goes_from_short_runs_to_tuned_settings_and_rows_and_repeats_nothing(start, tmp_path, monkeypatch):
    small = {"num-envs": "8", "start": start, "reward": "gold"}
    constants = {"SHARED": small, "LANES": 8, "TOKENS": {TASK: 400}, "UPDATES": 1, "TRIALS": 1, "SEEDS": 1,
                 "HEADLINE_SEEDS": 2, "EPISODES": 8, "FOLDER": tmp_path / "runs"}  # fmt: skip
    for name, value in constants.items():
        monkeypatch.setattr(leaderboard, name, value)
    monkeypatch.setattr(tuned, "FOLDER", tmp_path / "tuned")
    monkeypatch.setattr(pilot, "SECONDS", 0.2)
    data = {name: tmp_path / f"{name}.jsonl" for name in ("tuned", "fixed")}
    monkeypatch.setattr(leaderboard, "DATA", data)
    names = ("ppo", "sb3-a2c")
    leaderboard.tune((TASK,), names, 1)
    assert set(files.read_json(tmp_path / "tuned" / "VQA-v0.json")["rows"]) == set(names)
    leaderboard.run((TASK,), names, "tuned", 1)
    rows = results.read(data["tuned"])
    assert [(row["label"], row["seed"], row["status"]) for row in rows] == [
        ("ppo", 0, "done"), ("ppo", 1, "done"), ("sb3-a2c", 0, "done"),
    ]  # fmt: skip
    assert set(rows[0]["also"]) == {"mmenv/VQAHard-v0", "mmenv/VQAShifted-v0", f"{TASK}@comp"}
    first = results.read(tmp_path / "runs" / "pilots.jsonl")
    assert rows[-1]["config"]["n_steps"] == max(1, round(first[0]["curve"]["tokens"][0] / 8))
    monkeypatch.setattr("agents.comparing.grid.play", None)
    leaderboard.run((TASK,), names, "tuned", 1)


# Tuned settings.


def test_every_algorithm_is_tuned_in_its_learning_rate_and_one_more_setting():
    own = {}
    for _, name in map(labelled, leaderboard.ROWS):
        space = tuning.space_of(Cell(name, name, TASK, 0))
        assert len(space) in ((0,) if name == "best-of-n" else (2,)), name
        own[name] = list(space)[-1] if space else None
    expected = {"ppo": "kl_coef", "dapo": "clip_high", "cispo": "weight_cap", "dr-grpo": "clip_coef", "sft": "epochs"}
    assert {name: own[name] for name in expected} == expected


def test_trls_trainer_has_two_rows_that_say_which_loss_they_have_and_only_where_it_can_play():
    assert "trl-default=trl-grpo" in leaderboard.chosen_rows(TASK)
    assert not [name for name in leaderboard.chosen_rows("mmenv/Guess-v0") if "trl" in name]
    settings = leaderboard.settings_of("trl-default=trl-grpo", "fixed")
    assert {"trl-default/loss-type=dapo", "trl-default/kl-coef=0", "trl-default/num-envs=64"} <= set(settings)
    assert "trl-grpo/loss-type=grpo" in leaderboard.settings_of("trl-grpo=trl-grpo", "fixed")


def test_a_setting_that_a_row_fixes_is_not_searched():
    space = tuning.space_of(Cell("grpo", "grpo", TASK, 0, {"kl_coef": 0.0}))
    assert list(space) == ["learning_rate", "clip_coef"]


def test_tuned_settings_are_written_for_each_id_and_read_by_row(tmp_path):
    tuned.write_tuned(TASK, {"ppo": {"settings": {"learning_rate": 0.001}}}, tmp_path)
    tuned.write_tuned(TASK, {"grpo": {"settings": {"kl_coef": 0.2}}}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["VQA-v0.json"]
    assert tuned.tuned_settings("ppo", TASK, tmp_path) == {"learning_rate": 0.001}
    assert tuned.tuned_settings("grpo", TASK, tmp_path) == {"kl_coef": 0.2}
    with pytest.raises(ValueError, match=r"no tuned settings of rloo on mmenv/VQA-v0 \(VQA-v0.json has grpo, ppo\)"):
        tuned.tuned_settings("rloo", TASK, tmp_path)
    with pytest.raises(ValueError, match=r"there is no Captioning-v0\.json"):
        tuned.tuned_settings("ppo", "mmenv/Captioning-v0", tmp_path)


def test_the_option_tuned_replaces_defaults_and_other_options_replace_what_is_tuned(start, tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.write_tuned(TASK, {"ppo": {"settings": {"learning_rate": 0.0007, "kl_coef": 0.11}}})
    small = ["--start", start, "--reward", "gold", "--num-envs", "8", "--total-tokens", "32", "--eval-episodes", "0"]
    for out, more in (("a", []), ("b", ["--kl-coef", "0.3"])):
        assert main(["ppo", "--tuned", *small, *more, "--out", str(tmp_path / out)]) == 0
    configs = [files.read_json(tmp_path / out / "config.json") for out in ("a", "b")]
    assert [(c["learning_rate"], c["kl_coef"]) for c in configs] == [(0.0007, 0.11), (0.0007, 0.3)]
    assert configs[0]["num_envs"] == 8


def test_a_comparison_takes_tuned_settings_for_all_and_refuses_a_row_that_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    tuned.write_tuned(TASK, {"ppo": {"settings": {"learning_rate": 0.0007}}})
    out = str(tmp_path / "out")
    (cell,) = Comparison(CompareConfig(algorithms=("ppo",), tuned=True, out=out), QUIET).firsts
    assert cell.overrides["learning_rate"] == 0.0007
    with pytest.raises(ValueError, match="no tuned settings of rloo"):
        Comparison(CompareConfig(algorithms=("ppo", "rloo"), tuned=True, out=out), QUIET)


# What a budget gives.


def test_a_budget_of_too_few_updates_is_refused_before_anything_runs_and_names_the_row(start, tmp_path, monkeypatch):
    comparison = configured(start, tmp_path, ("rloo", "best=best-of-n"), seeds=1, min_updates=60,
                            settings=("best/reward=preference-weak",))  # fmt: skip
    pilots = [Pilot("rloo", TASK, 64, 4.0, 1.0), Pilot("best", TASK, 64, None, 1.0)]
    monkeypatch.setattr(pilot, "measure", lambda *_: pilots)
    with pytest.raises(ValueError, match=r"fewer than 60 updates to rloo on .* \(4\)"):
        comparison.run()
    assert results.read(tmp_path / "results.jsonl") == []


def test_a_short_run_measures_updates_and_time_and_is_not_repeated(start, tmp_path, monkeypatch):
    monkeypatch.setattr(pilot, "SECONDS", 0.2)
    comparison = configured(start, tmp_path, ("rloo", "slow=rloo"), total_tokens=20_000, estimate=True,
                            settings=("slow/num-envs=64",), small=())  # fmt: skip
    assert comparison.run() == []
    assert not (tmp_path / "results.jsonl").exists()
    few, many = comparison.measure(), len(results.read(tmp_path / "pilots.jsonl"))
    assert many == 2
    assert few == comparison.measure()
    by_label = {p.label: p for p in few}
    assert by_label["slow"].updates == pytest.approx(20_000 / by_label["slow"].first_update, rel=0.5)
    assert all(p.seconds > 0 for p in few)


def test_the_cost_of_a_comparison_counts_trials_and_seeds():
    pilots = [Pilot("ppo", TASK, 64, 60.0, 90.0), Pilot("best-of-n", TASK, 64, None, 10.0)]
    costs = dict(leaderboard.costs(pilots, jobs=2))
    assert list(costs.values()) == [8 * 90 / 2, (5 * 100 + 5 * 90) / 2, 5 * 100 / 2]
    assert pilot.hours(7200) == "2.0 hours"
    assert pilot.hours(120) == "2 minutes"


# What is said.


def test_a_sentence_stands_only_where_test_and_interval_say_so():
    rng = np.random.default_rng(0)
    scores = {"high": cells_of(rng, 0.6), "low": cells_of(rng, 0.4), "low too": cells_of(rng, 0.4)}
    tests = paired_tests(scores)
    lines = claims.sentences(tests, "greedy gold")
    assert len(lines) == 3
    assert lines[0].startswith("`high` is ahead of `low")
    assert "corrected over 3 pairs; 15 paired runs" in lines[0]
    assert lines[-1] == "Of the other 1 pair nothing is claimed: chance may explain the difference in greedy gold."
    few = {name: {cell: v for cell, v in cells.items() if cell[0] == "a"} for name, cells in scores.items()}
    assert claims.sentences(paired_tests(few), "gold") == [
        "Of 3 pairs nothing is claimed: chance may explain the difference in gold."
    ]


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_two_copies_of_one_algorithm_are_said_to_differ_in_at_most_5_of_100_grids(noise):
    share = claims.false_claims(cells_of(np.random.default_rng(0), seeds=10, noise=noise), grids=200)
    assert 0 < share <= 0.05  # and the rule is not so strict that it never speaks


def test_too_few_runs_for_two_copies_are_refused():
    with pytest.raises(ValueError, match="a has 5 runs: two copies of 5 take 10"):
        claims.false_claims(cells_of(np.random.default_rng(0)))


def test_conditions_name_what_differs_and_who_began_elsewhere():
    rows = [row_of("ppo"), row_of("grpo"), row_of("nlpo", before=0.47, num_envs=256)]
    rows.append(row_of("sb3-ppo", algorithm="sb3-ppo"))
    said = " ".join(conditions.differences(rows))
    assert "Lanes: 64 for all but these: `nlpo` has 256." in said
    assert "Gold before training on mmenv/VQA-v0 is another one for `nlpo`: do not compare these rows." in said
    assert "each lane of `sb3-ppo` draws its own" in said
    assert conditions.differences(rows[:2]) == []


def test_half_of_the_gap_is_where_the_mean_of_five_updates_gets_there():
    curve = {"tokens": [10, 20, 30, 40, 50, 60, 70], "seconds": [1, 2, 3, 4, 5, 6, 7]}
    curve["gold"] = [0.4, 0.9, 0.4, 0.4, 0.4, 0.8, 1.2]
    assert gaps.half(curve, 0.4, 0.8) == (70, 7)  # 0.58 at the sixth update, 0.64 at the seventh
    assert gaps.half(curve, 0.4, 1.4) is None
    shares = gaps.shares([row_of("ppo", gold=0.6)], {TASK: Marks(0.4, 0.8)})
    assert shares == {"ppo": {(TASK, 0): pytest.approx(0.5)}}


def test_the_page_says_in_two_sentences_that_nothing_has_run_and_is_made_from_the_rows_alone(tmp_path, monkeypatch):
    page = tmp_path / "leaderboard.md"
    page.write_text("# L\n<!-- leaderboard -->\n<!-- end of leaderboard -->\n", encoding="utf-8")
    monkeypatch.setattr(leaderboard_page, "PAGE", page)
    monkeypatch.setattr(leaderboard_page, "DOCS", tmp_path)
    (tmp_path / "img").mkdir()
    data = {name: tmp_path / f"{name}.jsonl" for name in ("tuned", "fixed")}
    monkeypatch.setattr(leaderboard_page, "DATA", data)
    leaderboard_page.write()
    assert "has not been run yet" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(gaps, "marks_of", lambda env_id: Marks(0.4, 0.9))
    ids = (TASK, "mmenv/Captioning-v0", "mmenv/Guess-v0")
    ends = {"ppo": 0.7, "grpo": 0.6, "sft": 0.39}
    rows = [
        row_of(label, seed, env_id, ends[label] + 0.001 * seed) for label in ends for env_id in ids for seed in range(5)
    ]
    files.write_lines(data["tuned"], rows)
    leaderboard_page.write()
    text = page.read_text(encoding="utf-8")
    assert "has not been run yet" not in text
    assert "`ppo` is ahead of `grpo` in greedy gold by 0.100" in text
    assert f"{TASK}: these end no higher than the greedy start: `sft`." in text
    for heading in ("Table A: tuned", "Share of the gap closed", "half of the gap", f"`{TASK}@comp`", "Conditions"):
        assert heading in text
    assert (tmp_path / "img" / "leaderboard-tuned-VQA-v0.svg").is_file()
    assert "Table B" not in text


def test_a_release_has_the_policy_of_one_seed_of_every_row_with_its_hash(start, tmp_path):
    rows = configured(start, tmp_path / "out", ("rloo",), seeds=2).run()
    listing = leaderboard_files.collect(rows, tmp_path / "out" / "runs", tmp_path / "release", seed=1)
    (entry,) = json.loads(listing.read_text(encoding="utf-8"))
    assert (entry["label"], entry["seed"], entry["gold"]) == ("rloo", 1, rows[1]["gold"])
    assert (tmp_path / "release" / entry["file"]).stat().st_size > 1000
    with pytest.raises(FileNotFoundError, match="is not here"):
        leaderboard_files.collect(rows, tmp_path / "elsewhere", tmp_path / "release")
