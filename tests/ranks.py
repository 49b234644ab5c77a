"""One of two processes that learn from a batch together: ``python tests/ranks.py FOLDER``; for test_parallel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import save_file
from test_ppo import tiny, token_seven
from torch import Tensor

from agents.algorithms.registry import find
from agents.distributed import processes, sharding
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from agents.rollouts.rollout import rollout
from agents.settings.bounds import offered

TURNS = {"advantage_level": "turn"}
# Losses over tokens with statistics over all, over responses, over pairs. In a dialogue the later turns are alone with
# their context, and are held against those of all processes.
CASES = {
    "ppo": ("ppo", "mmenv/SpokenDialogue-v0", {"kl_coef": 0.3, "whiten_rewards": True, "entropy_coef": 0.1}),
    "a2c": ("a2c", "mmenv/VQA-v0", {}),
    "grpo": ("grpo", "mmenv/SpokenDialogue-v0", {}),
    "gspo": ("gspo", "mmenv/VQA-v0", {}),
    "cispo": ("cispo", "mmenv/VQA-v0", {}),
    "dapo": ("dapo", "mmenv/VQA-v0", {}),
    "dr-grpo": ("dr-grpo", "mmenv/VQA-v0", {}),
    "sapo": ("sapo", "mmenv/SpokenDialogue-v0", {}),
    "token-mean": ("grpo", "mmenv/VQA-v0", {"normalisation": "dapo"}),
    "rloo": ("rloo", "mmenv/SpokenDialogue-v0", {}),
    "reinforce": ("reinforce", "mmenv/VQA-v0", {}),
    "reinforce-pp": ("reinforce-pp", "mmenv/VQA-v0", {"kl_coef": 0.3}),
    "reinforce-pp-baseline": ("reinforce-pp-baseline", "mmenv/SpokenDialogue-v0", {}),
    "vineppo": ("vineppo", "mmenv/SpokenDialogue-v0", {"kl_coef": 0.3, "branch_every": 2}),
    "ppo-turns": ("ppo", "mmenv/SpokenDialogue-v0", {"kl_coef": 0.3, "whiten_rewards": True, **TURNS}),
    "rloo-turns": ("rloo", "mmenv/SpokenDialogue-v0", TURNS),
    "grpo-turns": ("grpo", "mmenv/SpokenDialogue-v0", TURNS),
    "online-dpo": ("online-dpo", "mmenv/VQA-v0", {"label_temperature": 0.1}),
    "online-ipo": ("online-dpo", "mmenv/VQA-v0", {"label_temperature": 0.1, "loss": "ipo"}),
}
STEPS = {"minibatches": 16, "epochs": 2}  # 12 rows make 12 minibatches of a pass, 20 make 16


def scored(samples, responses):
    """Token seven, and something that tells samples and responses apart."""
    told = [len(s.prompt) % 5 + len(r.text) % 7 for s, r in zip(samples, responses)]
    return token_seven(samples, responses) + np.array(told, np.float32)


def play(env_id: str) -> tuple[Batch, TokenPolicy, TokenPolicy]:
    """Eight first contexts with four responses each, the same in every process; the policy and its reference."""
    env = gym.make_vec(
        env_id, num_envs=32, reward=scored, autoreset_mode="Disabled", copy=False, max_response_tokens=6
    ).unwrapped
    policy = TokenPolicy(tiny(), 6, generator=torch.Generator().manual_seed(0))
    policy.logit_bias[1] = 4.0  # responses end early, at different lengths
    batch = rollout(policy, env, {"sample_index": np.arange(8).repeat(4)})
    reference = TokenPolicy(tiny(), 6).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for p in reference.network.parameters():
        p += 0.02 * torch.randn(p.shape, generator=generator)
    return batch, policy, reference


def contexts_of_rank(batch: Batch, complete_episodes: bool) -> np.ndarray:
    """The contexts of this process: of the first three samples, or all others; with or without their later turns.

    The parts are of different sizes: a mean of means would be another gradient.
    """
    first = batch.contexts[batch.episodes < 12].unique().numpy() if complete_episodes else np.arange(3)
    return first if processes.rank() == 0 else np.setdiff1d(np.arange(int(batch.contexts.max()) + 1), first)


def learn(case: str, **settings) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradients of the last step on this process's part of the batch, the weights after it, and what is logged."""
    name, env_id, given = CASES[case]
    batch, policy, reference = play(env_id)
    if processes.size() > 1:
        batch = batch.select(contexts_of_rank(batch, name == "vineppo" or TURNS.items() <= given.items()))
    sharding.shard(policy)
    cls = find(name)
    plain = {"num_envs": 32, "epochs": 1, "minibatches": 1, "max_grad_norm": 1e9, "eval_episodes": 0}
    options = {k: v for k, v in {**plain, **given, **settings}.items() if k in offered(cls.Config)}
    algorithm = cls(cls.Config(**options), policy, reference, np.random.default_rng(0))
    names = [n for n, p in policy.network.named_parameters() if p.requires_grad]
    parameters = dict(zip(names, algorithm.stepper.parameters))
    logs = algorithm.update(batch, 0.0)
    tensors = {f"weights/{n}": p.detach() for n, p in parameters.items()}
    tensors |= {f"gradient/{n}": p.grad for n, p in parameters.items() if p.grad is not None}
    return sharding.full_tensors(tensors), logs


if __name__ == "__main__":
    processes.join("cpu")
    tensors, logs = {}, {}
    for case, settings in {**{case: {} for case in CASES}, "steps": STEPS}.items():
        found, logs[case] = learn("grpo" if case == "steps" else case, **settings)
        tensors |= {f"{case}/{name}": value.detach().contiguous() for name, value in found.items()}
    save_file(tensors, Path(sys.argv[1]) / f"{processes.rank()}.safetensors")
    (Path(sys.argv[1]) / f"{processes.rank()}.json").write_text(json.dumps(logs), encoding="utf-8")
    processes.leave()
    processes.hard_exit(0)
