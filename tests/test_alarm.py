"""The hacking alarm rings when the judge falls while reward stays up, and at no other time."""

import json

import numpy as np
import pytest

from agents.__main__ import main
from agents.training import alarm as alarms
from agents.training.alarm import AlarmConfig, first_alarm, mean_and_error

CONFIG = AlarmConfig()
NERVOUS = {"window": 1, "drop": 0.0, "errors": 0.0}


def rows(reward, judge, error=0.05, seed=0):
    """Metrics whose means are given, with the noise of a batch."""
    rng = np.random.default_rng(seed)
    return [
        {"tokens": 1000 * (i + 1), "reward": r, "judge": j + error * rng.normal(), "judge_error": error, "kl": 0.1 * i,
         "length": 2.0, "repetition": 0.0}
        for i, (r, j) in enumerate(zip(reward, judge, strict=True))
    ]  # fmt: skip


UP = np.linspace(0, 1.5, 60)
FALLING = np.concatenate([np.linspace(0, 0.8, 30), np.linspace(0.8, 0.2, 30)])


def test_it_rings_when_the_judge_falls_while_reward_climbs():
    rung = first_alarm(rows(UP, FALLING))
    assert rung is not None
    assert 25_000 < rung.peak_tokens < 36_000
    assert rung.peak_tokens < rung.tokens <= 50_000
    assert rung.changes["reward"] > 0
    assert "judge -" in str(rung)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_silent_while_both_rise_and_then_stay(seed):
    assert first_alarm(rows(np.minimum(UP, 1), np.minimum(UP, 1), seed=seed)) is None


def test_it_is_silent_when_both_fall():
    assert first_alarm(rows(FALLING, FALLING)) is None


def test_it_is_silent_without_a_judge():
    assert first_alarm([{"tokens": i, "reward": float(i)} for i in range(50)]) is None


def test_a_noisy_judge_must_fall_further():
    """The same fall is told of where the judge's mean is known well, and not where its standard error is as large."""
    fall = np.concatenate([np.full(30, 0.8), np.full(30, 0.8 - CONFIG.drop - 0.05)])
    metrics = rows(UP, fall, error=0.01)
    assert first_alarm(metrics) is not None
    assert first_alarm([{**row, "judge_error": 0.5} for row in metrics]) is None


def test_responses_to_one_context_count_as_one():
    """Four times the same responses tell no more than once."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=64)
    once = mean_and_error(scores, np.arange(64))
    assert mean_and_error(np.repeat(scores, 4), np.repeat(np.arange(64), 4)) == pytest.approx(once)
    assert once[1] == pytest.approx(scores.std() / 8)


def test_it_is_heard_at_the_last_update_too():
    """A run that ended at the alarm's update and is resumed from there has heard it."""
    metrics = rows(UP, FALLING)
    rung = first_alarm(metrics)
    cut = [m for m in metrics if m["tokens"] <= rung.tokens]
    assert first_alarm(cut) == rung
    assert first_alarm(cut[:-1]) is None


@pytest.mark.slow
def test_a_run_against_the_weak_model_is_hacked_and_the_strong_one_notices(tmp_path):
    """PPO against the weak model of captions, judged by the strong one: hacked within these tokens."""
    out = tmp_path / "run"
    assert main(judged_run(out, 60_000)) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["alarm"] is not None
    assert summary["tokens"] < 60_000


def judged_run(out, tokens):
    """The command of a run against the weak model that the strong one judges."""
    return [
        "ppo", "--env-id", "mmenv/Captioning-v0", "--reward", "preference-weak", "--judge", "preference", "--kl-coef",
        "0", "--learning-rate", "0.003", "--total-tokens", str(tokens), "--eval-episodes", "4", "--stop-on-alarm",
        "--no-pictures", "--threads", "1", "--out", str(out),
    ]  # fmt: skip


def test_a_run_with_a_judge_tells_of_the_alarm(tmp_path, monkeypatch):
    """One that goes off at any fall of the judge's score from one update to the next, so that the run is short."""
    out = tmp_path / "run"
    monkeypatch.setattr(alarms, "AlarmConfig", lambda: AlarmConfig(**NERVOUS))
    small_updates = ["--num-envs", "16"]  # of about 1,000 tokens, so that there are a dozen and more
    assert main([*judged_run(out, 20_000), *small_updates]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["alarm"] is not None
    assert summary["tokens"] < 20_000
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"judge", "judge_error", "repetition"} <= set(metrics[0])
    assert summary["alarm"]["tokens"] == metrics[-1]["tokens"]
    assert summary["alarm"]["changes"].keys() >= {"reward", "kl", "length", "repetition"}
    # Resumed, it has heard the alarm and trains no further.
    (out / "summary.json").unlink()
    assert main(["ppo", "--resume", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["tokens"] == summary["tokens"]
