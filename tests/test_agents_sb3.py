"""stable-baselines3's algorithms in our run folders: what they write, what they pay, and where they start."""

import ast
import inspect
import json
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from mmenv.models.checkpoints import load_pretrained, save_network
from mmenv.models.transformer import Network, NetworkConfig

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from stable_baselines3.common.callbacks import BaseCallback

from agents.integrations import sb3
from agents.integrations.sb3 import ALGORITHMS, SB3Config, SB3Run
from agents.integrations.sb3_penalties import Responses
from agents.training import checkpoints
from mmenv.integrations.sb3 import TokenVecEnv

TASK, TALK = "mmenv/VQA-v0", "mmenv/SpokenDialogue-v0"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(0)
    vocab = int(gym.make(TASK, reward="gold").action_space.n)
    network = Network(NetworkConfig(vocab_size=vocab, width=32, layers=1, heads=2))
    torch.nn.init.normal_(network.value_head.weight)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(network, path)
    return str(path)


def run_of(name, start, folder, env_id=TASK, **settings):
    given = {"num_envs": 8, "total_tokens": 96, "eval_episodes": 8, "seed": 3, "pictures": False, **settings}
    config = SB3Config(env_id=env_id, reward="gold", start=start, **given)
    return SB3Run(name, config, folder, Console(quiet=True), max_response_tokens=4)


def test_the_learning_rate_falls_from_the_first_to_above_nothing(start, tmp_path):
    run_of("sb3-ppo", start, tmp_path, learning_rate=0.01, total_tokens=80).train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Updates of 32 tokens begin at 0, 32 and 64 of 80.
    assert [r["learning_rate"] for r in rows] == pytest.approx([0.01, 0.006, 0.002])


def test_a_run_leaves_no_log_folder_of_sb3(start, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    run_of("sb3-ppo", start, tmp_path / "run", total_tokens=32).train()
    assert not list((tmp_path / "temporary").glob("SB3*"))


def test_every_setting_has_a_sentence_under_it():
    body = ast.parse(inspect.getsource(SB3Config)).body[0].body
    for i, node in enumerate(body):
        if isinstance(node, ast.AnnAssign):
            assert body[i + 1].value.value.endswith("."), node.target.id


@pytest.mark.parametrize("env_id", [TASK, TALK])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_leaves_the_folder_of_the_other_algorithms(name, env_id, start, tmp_path):
    summary = run_of(name, start, tmp_path, env_id, pictures=True).train()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert json.loads((tmp_path / "config.json").read_text())["algorithm"] == name == summary["algorithm"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["update"] for r in rows] == [1, 2, 3]
    assert [r["tokens"] for r in rows] == [32, 64, 96]
    for key in ("seconds", "reward", "gold", "length", "kl", "entropy", "tokens_per_second"):
        assert all(np.isfinite(r[key]) for r in rows), key
    assert all(r["kl"] >= 0 for r in rows)
    assert rows[0]["kl"] < 1e-4  # nothing has been learned yet
    assert rows[1]["kl"] > 1e-5
    assert summary["episodes"] == 8
    assert summary["tokens"] == 96
    assert summary["gold"]["before"] is not None
    learned = load_pretrained(checkpoints.policy_of(tmp_path))
    assert not torch.equal(learned.embed.weight, load_pretrained(start).embed.weight)
    for file in ("curves.png", "samples.png", "samples.jsonl", "model.zip"):
        assert (tmp_path / file).is_file()
    again = ALGORITHMS[name].cls.load(tmp_path / "model.zip", device="cpu")
    torch.testing.assert_close(again.policy.features_extractor.network.embed.weight, learned.embed.weight)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_kl_of_a_run_is_that_of_the_policy_it_ended_with(name, start, tmp_path):
    run = run_of(name, start, tmp_path, total_tokens=32, learning_rate=0.01, num_envs=8)
    summary = run.train()
    (row,) = run.rows
    assert row["kl"] < 1e-4  # of the start to itself
    assert summary["kl"] > 1e-2
    assert summary["tokens"] == 32


@pytest.mark.parametrize("name", ["sb3-ppo", "sb3-recurrent-ppo"])
def test_the_same_seed_gives_the_same_run(name, start, tmp_path):
    one, two, other = (
        run_of(name, start, tmp_path / str(i), seed=seed, eval_episodes=0) for i, seed in enumerate((5, 5, 6))
    )
    for run in (one, two, other):
        run.train()
    a, b, c = ([(r["reward"], r["kl"]) for r in run.rows] for run in (one, two, other))
    assert a == b
    assert a != c


def test_the_recurrent_policy_begins_as_the_network_does(start, tmp_path):
    plain, recurrent = (run_of(name, start, tmp_path / name) for name in ("sb3-ppo", "sb3-recurrent-ppo"))
    observations = plain.env.reset()
    one, two = (r.model.predict(observations, deterministic=True)[0] for r in (plain, recurrent))
    np.testing.assert_array_equal(one, two)
    gate = recurrent.model.policy.lstm_actor.gate
    assert (gate == 0).all()
    recurrent.train()
    assert not (gate == 0).any()


class Rewards(BaseCallback):
    """What reaches the buffer of a policy that has left the start, and what the environment paid."""

    def __init__(self):
        super().__init__()
        self.stored, self.logp = None, None

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.stored = self.model.rollout_buffer.rewards.copy()
        self.logp = self.model.rollout_buffer.log_probs.copy()


def test_both_ways_to_pay_the_penalty_pay_the_same(start, tmp_path):
    """RecurrentPPO is paid step by step, PPO by its buffer: with the same draws the rewards are the same."""
    stored = {}
    for name in ("sb3-ppo", "sb3-recurrent-ppo"):
        run = run_of(name, start, tmp_path / name, kl_coef=0.5, missing_eos_penalty=0.25)
        with torch.no_grad():
            run.model.policy.features_extractor.network.response_position += 0.5
        seen = Rewards()
        torch.manual_seed(0)
        run.model.learn(32, callback=[*([run.penalty] if run.penalty else []), seen], log_interval=None)
        stored[name] = seen
    one, two = stored.values()
    np.testing.assert_allclose(one.logp, two.logp, atol=1e-4)
    np.testing.assert_allclose(one.stored, two.stored, atol=1e-4)
    assert np.abs(one.stored).min() > 0


def test_a_response_that_used_up_its_budget_is_reported_unpenalised_and_paid_less():
    env = Responses(TokenVecEnv(TASK, 2, reward="gold", max_response_tokens=2), 0.5)
    env.reset()
    env.step(np.array([5, 1]))
    _, rewards, _, _ = env.step(np.array([5, 5]))
    assert env.ended.stops == ["eos", "budget"]
    assert env.ended.num_tokens == 3
    assert rewards[0] == pytest.approx(env.ended.paid[1] - 0.5)
    assert env.ended.gold == pytest.approx(env.ended.paid)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="num_envs=0"):
        SB3Config(num_envs=0)
    with pytest.raises(ValueError, match="learning_rate"):
        SB3Config(learning_rate=0.0)
    assert sb3.SB3Config(env_id="a/b").folder("sb3-ppo") == "runs/sb3-ppo-a-b-0"


def test_settings_out_of_bounds_or_without_effect_are_refused(tmp_path):
    for settings, told in (
        ({"gamma": 2.0}, "--gamma takes"),
        ({"kl_coef": float("nan")}, "--kl-coef takes"),
        ({"n_steps": -1}, "--n-steps takes"),
        ({"seed": 2**32}, "--seed takes"),
        ({"eval_episodes": 0, "also": ("mmenv/VQAHard-v0",)}, "leave out --also"),
        ({"num_envs": 1, "n_steps": 1, "minibatches": 2}, "give fewer --minibatches"),
    ):
        with pytest.raises(ValueError, match=told):
            SB3Config(**settings)
    with pytest.raises(ValueError, match=r"epochs=3 has no effect \(A2C"):
        SB3Run("sb3-a2c", SB3Config(epochs=3), tmp_path)
