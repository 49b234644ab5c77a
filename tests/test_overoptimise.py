"""Over-optimisation: every run has the model it claims, nothing is made twice, and the report is what the rows say."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

from agents import files
from agents.__main__ import main
from agents.comparing import grid, results
from agents.maths.kl import kl_of_best
from agents.overoptimisation import figures, reward_models
from agents.overoptimisation.config import OveroptimiseConfig
from agents.overoptimisation.report import FIGURES, Rows, best_course, fit_courses, report, run_course
from agents.overoptimisation.reward_models import DEFAULT, Start, best_of_n_row, make_reward
from agents.overoptimisation.study import Overoptimisation
from agents.training import run_folder
from experiments import overoptimisation
from mmenv.models.checkpoints import read_tensors
from mmenv.rewards.base import score
from mmenv.rewards.preference.ensemble import load_ensemble

TASK = "mmenv/VQA-v0"
QUIET = Console(quiet=True)
SMALL = {
    "algorithms": ("rloo", "grpo"), "labels": 40, "hidden": 16, "vary_labels": (20,), "vary_flip": (),
    "vary_members": (2,), "vary_hidden": (8,), "vary_kl_coef": (0.0,), "seeds": 1, "total_tokens": 96,
    "eval_episodes": 4, "held_out": 32, "best_of": 4, "contexts": 6, "retries": 0, "jobs": 2,
    "settings": ("rloo/num-envs=8", "grpo/num-envs=8"),
}  # fmt: skip


def configured(folder, **given):
    return Overoptimisation(OveroptimiseConfig(**{**SMALL, "out": str(folder), **given}), QUIET)


@pytest.fixture(scope="module")
def optimised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optimised")
    return folder, configured(folder).run()


def test_every_algorithm_and_every_spec_has_a_run_and_every_spec_a_row_of_best_of_n(optimised):
    labels = ["rloo", "grpo", "labels=20", "members=2", "hidden=8", "kl_coef=0.0"]
    rows = optimised[1]
    assert [r["label"] for r in rows if r["algorithm"] == "best-of-n"] == [DEFAULT, *labels[2:5]]
    trained = [r for r in rows if r["algorithm"] != "best-of-n"]
    assert [(r["label"], r["status"]) for r in trained] == [(label, "done") for label in labels]
    assert [r["algorithm"] for r in trained] == ["rloo", "grpo", "rloo", "rloo", "rloo", "rloo"]


def test_every_run_has_the_model_and_the_kl_coef_that_it_claims(optimised):
    folder, rows = optimised
    claims = {
        "rloo": {}, "grpo": {}, "labels=20": {"labels": 20}, "members=2": {"members": 2, "combine": "variance"},
        "hidden=8": {"hidden": 8}, "kl_coef=0.0": {},
    }  # fmt: skip
    for row in rows:
        if row["algorithm"] == "best-of-n":
            continue
        name = row["label"] if row["label"] not in ("rloo", "grpo", "kl_coef=0.0") else DEFAULT
        path = folder / "rewards" / f"{name}-0.safetensors"
        assert row["files"] == {"reward": f"rewards/{name}-0.safetensors"}
        assert row["config"]["reward"] == str(path)
        made = {"labels": 40, "flip": 0.1, "members": 1, "hidden": 16, "combine": "mean", **claims[row["label"]]}
        assert json.loads(read_tensors(path)[1]["spec"]) == {
            **made, "env_id": TASK, "start": None, "seed": 0, "temperature": 1.0, "top_p": 1.0,
        }  # fmt: skip
        model = load_ensemble(path)
        assert (len(model.models), model.combine) == (made["members"], made["combine"])
        assert all(m.head.out.in_features == made["hidden"] for m in model.models)
        assert row["config"]["kl_coef"] == (0.0 if row["label"] == "kl_coef=0.0" else 0.01)
        assert row["config"]["learning_rate"] == row["config"]["final_learning_rate"] == 1e-3


def test_a_second_call_trains_no_model_and_runs_nothing(optimised, monkeypatch):
    folder, rows = optimised
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".jsonl", ".md", ".safetensors")}
    monkeypatch.setattr(grid, "play", None)
    monkeypatch.setattr(reward_models, "make_reward", None)
    monkeypatch.setattr(reward_models, "best_of_n_row", None)
    assert configured(folder).run() == rows
    assert before == {path: path.read_bytes() for path in before}


def test_a_run_that_is_lacking_is_played_with_the_model_that_is_there(optimised, tmp_path, monkeypatch):
    folder, rows = optimised
    (tmp_path / "rewards").symlink_to(folder / "rewards")
    best = [r for r in rows if r["algorithm"] == "best-of-n"]
    files.write_lines(tmp_path / "best_of_n.jsonl", best)
    kept = [r for r in rows if r not in best and r["label"] != "hidden=8"]
    files.write_lines(tmp_path / "results.jsonl", kept)
    monkeypatch.setattr(reward_models, "make_reward", None)
    played = []
    monkeypatch.setattr(grid, "play", lambda cell, *_: played.append(cell) or results_row(rows, cell.label))
    assert configured(tmp_path).run() == rows
    assert [cell.label for cell in played] == ["hidden=8"]


def results_row(rows, label):
    return next(r for r in rows if r["label"] == label and r["algorithm"] != "best-of-n")


def test_the_report_is_made_from_files_alone_in_any_order(optimised, tmp_path):
    folder, _ = optimised
    rows = [*results.read(folder / "results.jsonl")[::-1], *results.read(folder / "best_of_n.jsonl")]
    assert "# Over-optimisation\n\n" + report(rows, tmp_path) == (folder / "report.md").read_text()
    for name in FIGURES:
        assert (tmp_path / f"{name}.svg").read_bytes() == (folder / f"{name}.svg").read_bytes()
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": 41}, "best_of_n.jsonl holds default as .*'labels': 40.*take another --out"),
        ({"contexts": 7}, "on 6 contexts: take another --out"),
        ({"learning_rate": 0.1}, "take another --out"),
    ],
)
def test_results_of_other_settings_are_refused(optimised, given, said):
    with pytest.raises(ValueError, match=said):
        configured(optimised[0], **given).run()


def test_a_model_made_of_something_else_is_refused(optimised, tmp_path):
    (tmp_path / "rewards").symlink_to(optimised[0] / "rewards")
    with pytest.raises(ValueError, match=r"default-0\.safetensors was made of .*take another --out"):
        configured(tmp_path, labels=41).run()


def test_results_of_other_versions_are_refused(optimised, tmp_path):
    rows = json.loads(json.dumps([r for r in optimised[1] if r["algorithm"] == "best-of-n"]))
    rows[0]["versions"]["torch"] = "1.0.0"
    files.write_lines(tmp_path / "best_of_n.jsonl", rows)
    with pytest.raises(ValueError, match=r"torch 1\.0\.0 instead of .*--mark-versions"):
        configured(tmp_path).run()


@pytest.fixture(scope="module")
def start():
    return Start(TASK)


@pytest.fixture(scope="module")
def said(start):
    return start.sample_responses(10, 6, seed=5)


def test_many_responses_are_to_one_context_each_and_of_the_training_split(said):
    samples = [s.sample.id for s in said]
    assert [len(set(samples[k : k + 6])) for k in range(0, 60, 6)] == [1] * 10
    assert len(set(samples)) == 10
    assert all("/train/" in sample for sample in samples)
    assert len({s.response.text for s in said[:60]}) > 1


def test_best_of_n_gains_reward_with_n_and_has_the_kl_of_the_formula(optimised, said):
    path = optimised[0] / "rewards" / "default-0.safetensors"
    spec = configured(optimised[0]).specs[DEFAULT]
    row = best_of_n_row(path, spec, TASK, 0, said, 6)
    curve = row["curve"]
    assert curve["n"] == [1, 2, 3, 4, 5, 6]
    assert curve["kl"] == pytest.approx([kl_of_best(n) for n in curve["n"]], abs=1e-5)
    assert (np.diff(curve["reward"]) >= 0).all()  # equal where the best of a context was said more than once
    assert curve["reward"][-1] > curve["reward"][0] + 0.1
    reward = score(load_ensemble(path), [s.sample for s in said], [s.response for s in said]).reshape(10, 6)
    gold = np.array([s.gold for s in said]).reshape(10, 6)
    assert curve["reward"][0] == pytest.approx(reward.mean(), abs=1e-5)
    assert curve["reward"][-1] == pytest.approx(reward.max(1).mean(), abs=1e-5)
    assert curve["gold"][0] == pytest.approx(gold.mean(), abs=1e-5)
    assert row["model"]["agreement"] == reward_models.agreement_of(path)


def test_seeds_learn_from_other_labels_and_fewer_labels_are_some_of_the_more(start, tmp_path, monkeypatch):
    pool, drawn = start.sample_pairs("train", 80, 1), []
    monkeypatch.setattr(reward_models, "fit_ensemble", lambda _, said, *more: drawn.append(said) or _Unfitted())
    monkeypatch.setattr(reward_models, "agreement", lambda *_: (0.5, 0.0))
    of = {"env_id": TASK, "start": None}
    default = reward_models.RewardModelSpec(DEFAULT, 40, 0.0, 1, 16)
    for spec, seed in ((default, 0), (default, 1), (default._replace(labels=20), 0), (default._replace(flip=0.5), 0)):
        make_reward(tmp_path / "reward.safetensors", spec, seed, of, pool, pool)
    asked = [[(c.sample_id, c.responses) for c in said] for said in drawn]
    assert len(set(asked[0]) & set(asked[1])) < 40
    assert asked[2] == asked[0][:20]
    assert asked[3] == asked[0]
    turned = np.mean([a.choice != b.choice for a, b in zip(drawn[0], drawn[3], strict=True)])
    assert 0.2 < turned < 0.8


class _Unfitted:
    def save(self, path, metadata):
        path.touch()


def course(n=40, reach=2.0):
    return np.linspace(0, reach, n)


def made_rows(peaks, seeds=3, noise=0.003):
    """Rows whose gold is d (a - b log d) with the peak given for each label, about a start of 0.6."""
    rng, rows, b = np.random.default_rng(0), [], 0.2
    versions, common = run_folder.versions(), {"env_id": TASK, "machine": "a machine", "commit": "abc"}
    model = {"labels": 1000, "flip": 0.1, "members": 1, "hidden": 128, "combine": "mean"}
    for label, (algorithm, peak) in peaks.items():
        for seed in range(seeds):
            d = course()
            gold = 0.6 + d * b * (1 + np.log(peak) - np.log(np.maximum(d, 1e-9))) + noise * rng.normal(size=len(d))
            curve = {"tokens": list(range(len(d))), "gold": gold.tolist(), "reward": d.tolist(), "kl": (d**2).tolist()}
            rows.append({
                "format": 2, "label": label, "algorithm": algorithm, "seed": seed, "status": "done", "log": "log.txt",
                "overrides": {"kl_coef": float(label.partition("kl_coef=")[2] or 0.01)}, "files": {}, "attempts": 1,
                "config": {"total_tokens": 1000}, "curve": curve, "versions": versions, **common,
            })  # fmt: skip
    for label in (DEFAULT, *(label for label in peaks if "=" in label and not label.startswith("kl_coef"))):
        for seed in range(seeds):
            n = np.arange(1, 65)
            d = np.sqrt([kl_of_best(int(k)) for k in n])
            gold = 0.6 + d * (0.3 - 0.1 * d)
            curve = {"n": n.tolist(), "kl": (d**2).tolist(), "gold": gold.tolist(), "reward": d.tolist()}
            factor, _, value = label.partition("=")
            varied = {factor: float(value) if factor == "flip" else int(value)} if value else {}
            rows.append({
                "format": 2, "label": label, "algorithm": "best-of-n", "seed": seed, "status": "done", "overrides": {},
                "files": {}, "n": 64, "contexts": 8, "curve": curve,
                "model": {**model, **varied, "agreement": 0.9 + 0.01 * seed},
                "versions": versions, **common,
            })  # fmt: skip
    return rows


PEAKS = {
    "ppo": ("ppo", 0.8), "rloo": ("rloo", 0.9), "labels=300": ("ppo", 0.5), "labels=3000": ("ppo", 1.2),
    "members=5": ("ppo", 1.1), "kl_coef=0.0": ("ppo", 0.7), "flip=0.0": ("ppo", 1.0), "hidden=16": ("ppo", 0.75),
}  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take most of the time."""
    for name in ("algorithms", "variations"):
        monkeypatch.setattr(figures, name, lambda *_: None)


def cells(text, name):
    """Rows of the tables that begin with a name."""
    lines = [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0] == name]


def test_the_report_finds_the_peaks_that_were_put_in_and_orders_what_is_varied(undrawn, tmp_path):
    text = report(made_rows(PEAKS), tmp_path)
    names = {**PEAKS, "labels=1000": PEAKS["ppo"], "members=1": PEAKS["ppo"]}
    for name, (_, peak) in names.items():
        found = cells(text, name)[0]
        assert found[1] == "RL"
        assert float(found[6].split()[0]) == pytest.approx(peak, abs=0.06)
        assert "[" in found[6]
        if "=" in name:  # a peak's distance from that of the default
            if peak == 0.8:
                assert found[7] == "the default"
            else:
                assert float(found[7].split()[0]) == pytest.approx(peak - 0.8, abs=0.1)
    best = cells(text, "best of n")[0]
    assert best[1:4] == ["best of n", "0.300", "0.100"]
    assert best[6] == "1.50 [1.50, 1.50]"
    order = [text.index(f"| {name} |") for name in ("labels=300", "labels=1000", "labels=3000", "flip=0.0")]
    assert order == sorted(order)
    assert "The start has 0.600" in text
    assert cells(text, "labels=300")[-1][-1].startswith("0.910 [")  # agreement


def test_gold_lost_is_what_lies_between_the_highest_of_the_fit_and_the_end():
    d = course()
    late = run_course({"gold": 0.6 + d * (0.3 - 0.2 * np.log(np.maximum(d, 1e-9))), "reward": d, "kl": d**2}, 0.6, 1)
    found = fit_courses("RL", {0: late}, 0.6)
    highest, end = found.ends[0]
    assert highest == pytest.approx(0.6 + 0.2 * np.exp(0.5), abs=1e-3)  # b times the peak, which is at exp(a / b - 1)
    assert end == pytest.approx(0.6 + 2 * (0.3 - 0.2 * np.log(2)), abs=1e-3)


def test_what_cannot_be_fitted_is_said_and_the_rest_is_fitted(undrawn, tmp_path):
    rows = made_rows(PEAKS)
    still = next(r for r in rows if r["label"] == "rloo" and r["seed"] == 1)
    still["curve"]["kl"] = [0.0] * 40
    for row in rows:
        if (row["label"], row["algorithm"]) == ("labels=300", "ppo"):
            row["curve"] = {name: [] for name in row["curve"]}
    failed = next(r for r in rows if r["label"] == "members=5" and r["seed"] == 2)
    failed |= {"status": "failed", "error": "it broke"}
    text = report(rows, tmp_path)
    assert "No fit of rloo, seed 1: 40 points at 0 distances beyond 0" in text
    assert [f"No fit of labels=300, seed {seed}: 0 points" in text for seed in range(3)] == [True] * 3
    assert float(cells(text, "rloo")[0][6].split()[0]) == pytest.approx(0.9, abs=0.06)
    assert cells(text, "rloo")[1][1] == "3"
    assert cells(text, "labels=300")[0][1:] == ["3", *["-"] * 6]
    assert cells(text, "members=5")[1][1] == "2"
    assert "| members=5 | mmenv/VQA-v0 | 2 | 1 | it broke | runs/log.txt |" in text


def test_a_later_peak_is_that_of_the_seeds_that_both_have(undrawn, tmp_path):
    rows = made_rows(PEAKS)
    away = [r for r in rows if (r["label"], r["algorithm"], r["seed"]) == ("ppo", "ppo", 2)]
    text = report([r for r in rows if r not in away], tmp_path)
    assert float(cells(text, "labels=3000")[0][7].split()[0]) == pytest.approx(0.4, abs=0.1)
    for row in rows:
        if (row["label"], row["algorithm"]) == ("labels=3000", "ppo"):
            row["curve"]["gold"] = [0.6 + 0.1 * np.sqrt(kl) for kl in row["curve"]["kl"]]
    assert cells(report(rows, tmp_path), "labels=3000")[0][6:] == ["beyond 1.95", "not seen"]


def test_runs_that_end_below_the_start_are_counted(undrawn, tmp_path):
    rows = made_rows(PEAKS)
    fallen = next(r for r in rows if r["label"] == "rloo" and r["seed"] == 1)
    fallen["curve"]["gold"] = [*fallen["curve"]["gold"][:-3], 0.1, 0.1, 0.1]
    text = report(rows, tmp_path)
    ends = {
        seed: r["curve"]["gold"][-3:] for seed in range(3) for r in rows if (r["label"], r["seed"]) == ("rloo", seed)
    }
    below = sum(np.mean(gold) < 0.6 for gold in ends.values())
    assert 1 <= below < 3
    assert cells(text, "rloo")[1][-1] == f"{below} of 3"


def test_a_course_leaves_out_what_is_not_known_and_averages_kl_and_gold_alike():
    curve = {"gold": [0.5, None, 0.8, 1.0], "reward": [0.0, 1.0, 2.0, 3.0], "kl": [0.0, 1.0, 3.0, None]}
    found = run_course(curve, 0.5, window=2)
    np.testing.assert_allclose(found.d, np.sqrt([0.0, 0.5, 2.0, 3.0]))
    np.testing.assert_allclose(found.gold, [0.0, 0.0, 0.3, 0.4])
    np.testing.assert_allclose(found.reward, [0.0, 0.5, 1.5, 2.5])
    unknown = run_course({**curve, "gold": [None] * 4}, 0.5)
    assert len(unknown.d) == 0


def test_points_of_best_of_n_are_even_in_log_n_and_begin_at_the_start():
    n = np.arange(1, 257)
    curve = {"n": n.tolist(), "kl": [kl_of_best(int(k)) for k in n], "gold": (0.5 + n / 999).tolist(), "reward": n}
    found = best_course(curve)
    assert (found.d[0], found.gold[0]) == (0, 0)
    assert found.reward[-1] == 256
    gaps = np.diff(np.log(found.reward))
    assert gaps.max() < 0.7
    assert len(found.d) <= 24


def test_without_best_of_n_nobody_knows_where_runs_begin():
    with pytest.raises(ValueError, match="python -m agents overoptimise"):
        Rows([r for r in made_rows(PEAKS) if r["algorithm"] != "best-of-n"])


def test_rows_of_other_versions_are_marked(undrawn, tmp_path):
    rows = made_rows(PEAKS)
    for row in rows:
        if row["label"] == "rloo":
            row["versions"] = {**row["versions"], "torch": "1.0.0"}
    text = report(rows, tmp_path)
    assert cells(text, "rloo †")
    assert "† marks rows of other versions" in text


def test_the_page_stands_on_rows_that_outlive_the_runs(optimised, undrawn, tmp_path, monkeypatch):
    for name, where in (("FOLDER", "runs"), ("DATA", "rows.jsonl"), ("PAGE", "page.md"), ("FIGURES", "img")):
        monkeypatch.setattr(overoptimisation, name, tmp_path / where)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- overoptimisation -->\nNot run yet.\n<!-- end of overoptimisation -->\nafter\n")
    (tmp_path / "runs").symlink_to(optimised[0])
    overoptimisation.page()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "(img/overoptimisation-algorithms.svg)" in text
    assert "| labels=20 |" in text
    assert str(optimised[0]) not in (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "runs").unlink()
    overoptimisation.page()
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithms": ()}, "at least one"),
        ({"algorithms": ("ppo", "ppo")}, "each once"),
        ({"algorithms": ("ppo", "best-of-n")}, "it is always there"),
        ({"labels": 0}, "labels=0"),
        ({"vary_labels": (1000,)}, "not labels=1000 again"),
        ({"vary_members": (5, 5)}, "give each once"),
        ({"flip": 0.6}, r"flip=0\.6: .* at most 0\.5"),
        ({"vary_hidden": (0,)}, r"vary_hidden=\(0,\): --vary-hidden takes"),
        ({"kl_coef": -1.0}, r"kl_coef=-1\.0: --kl-coef takes"),
        ({"best_of": 2}, "best_of=2"),
        ({"contexts": 0}, "contexts=0"),
        ({"held_out": 0}, "held_out=0"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0"),
        ({"seeds": 0}, "seeds=0"),
    ],
)
def test_nonsense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        OveroptimiseConfig(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithms": ("pppo",), "settings": ()}, "did you mean 'ppo'"),
        ({"env_id": "mmenv/VAQ-v0"}, "VAQ"),
        ({"settings": ("ppo/num-envs=8",)}, "has no ppo"),
        ({"settings": ("rloo/kl-coef=1",)}, "kl-coef follows from"),
        ({"settings": ("rloo/reward=gold",)}, "reward follows from"),
        ({"settings": ("rloo/clipcoef=1",)}, "rloo has no 'clipcoef'"),
        ({"algorithms": ("sft",), "settings": ()}, "sft has no kl_coef"),
    ],
)
def test_what_does_not_exist_is_told_before_anything_is_made(given, said, tmp_path):
    with pytest.raises((ValueError, gym.error.Error), match=said):
        configured(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_the_command_line_takes_every_option_and_refuses_a_bad_one(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["overoptimise", "--help"])
    shown = capsys.readouterr().out
    assert all("--" + field.name.replace("_", "-") in shown for field in dataclasses.fields(OveroptimiseConfig))
    assert main(["overoptimise", "--algorithms", "nobody", "--out", str(tmp_path)]) == 1


def test_best_of_n_and_the_compared_responses_have_the_decoding_that_is_trained(tmp_path):
    study = configured(tmp_path, temperature=0.7, top_p=0.8)
    policy = study.start._policy(study.start._env("train", 2), 0)
    assert (policy.temperature, policy.top_p) == (0.7, 0.8)
    for cell in study.cells():
        assert (cell.overrides["temperature"], cell.overrides["top_p"]) == (0.7, 0.8)
    with pytest.raises(ValueError, match="temperature follows from the options of this command"):
        configured(tmp_path, settings=("rloo/temperature=0.5",))
