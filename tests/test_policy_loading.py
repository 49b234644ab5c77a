"""One function makes policies of weights and of runs, with the distribution that a run trained."""

from __future__ import annotations

import pytest
import torch
from small_runs import QUIET

from agents.algorithms.registry import find
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import rollout
from agents.training.loading import load_policy
from agents.training.trainer import Trainer
from mmenv.models.checkpoints import WeightsError, load_pretrained

SMALL = {
    "env_id": "mmenv/VQA-v0", "reward": "gold", "num_envs": 8, "total_tokens": 400, "eval_episodes": 0, "threads": 1,
    "pictures": False, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize(("name", "more"), [("ppo", {"temperature": 0.7, "top_p": 0.8}), ("nlpo", {"mask_every": 2})])
def test_the_policy_of_a_run_has_its_weights_and_its_distribution(start, tmp_path, name, more):
    run = Trainer(name, find(name).Config(start=start, **SMALL, **more), tmp_path, console=QUIET)
    run.train()
    assert run.updates > 2
    loaded = load_policy(tmp_path, run.env)
    batch = rollout(run.policy, run.env)
    with torch.no_grad():
        ours, theirs = (policy.evaluate(batch.responses())[0] for policy in (loaded, run.policy))
        other = load_policy(start, run.env).evaluate(batch.responses())[0]
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, other)


def test_a_policy_of_weights_samples_from_its_own_seed(start, tmp_path):
    env = Trainer("ppo", find("ppo").Config(start=start, **SMALL), tmp_path, console=QUIET).env
    by_hand = TokenPolicy(
        load_pretrained(start), env.episode_spec.budget, 0.7, generator=torch.Generator().manual_seed(3)
    )
    options = {"sample_index": torch.arange(8).numpy()}
    first = rollout(by_hand, env, options)
    assert torch.equal(first.tokens, rollout(load_policy(start, env, 3, 0.7), env, options).tokens)
    assert not torch.equal(first.tokens, rollout(load_policy(start, env, 4, 0.7), env, options).tokens)


def test_what_is_no_policy_is_refused(tmp_path, start):
    env = Trainer("ppo", find("ppo").Config(start=start, **SMALL), tmp_path / "run", console=QUIET).env
    with pytest.raises(WeightsError, match="no weights 'nothing'"):
        load_policy("nothing", env)
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint"):
        load_policy(tmp_path, env)
