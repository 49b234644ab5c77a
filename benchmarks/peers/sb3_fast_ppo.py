"""stable-baselines3's PPO through mmenv's cache and sequence buffer, on the task of mmenv's own PPO beside it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from mmenv_ppo import SHAPE, Points, Words, fresh_network
from shape import report
from stable_baselines3 import PPO

import mmenv
from agents.algorithms.ppo import PPOConfig
from mmenv.integrations.sb3 import TokenVecEnv
from mmenv.integrations.sb3_fast import FastTokenPolicy, SequenceBuffer
from mmenv.models.checkpoints import save_network
from mmenv.tokenizer import WordTokenizer

mmenv.register("bench/Words-v0", Words, reward=Points())


def build(start: str) -> PPO:
    """What mmenv's own PPO does in an update: the same responses, passes, minibatches and reference."""
    model = PPO(
        FastTokenPolicy, TokenVecEnv("bench/Words-v0", SHAPE.batch), n_steps=SHAPE.response, n_epochs=SHAPE.epochs,
        batch_size=SHAPE.batch * SHAPE.response, gamma=1.0, policy_kwargs={"start": start}, device="cpu", seed=0,
        rollout_buffer_class=SequenceBuffer,
        rollout_buffer_kwargs={"reference": start, "kl_coef": PPOConfig.kl_coef},
    )  # fmt: skip
    model.policy.action_net.penalty[list(WordTokenizer.eos_ids)] = -1e9  # every response has its full length
    return model


def main() -> None:
    torch.set_num_threads(SHAPE.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.safetensors"
        save_network(fresh_network(), start)
        model = build(str(start))
    one = SHAPE.batch * SHAPE.response
    model.learn(one)  # not timed
    begun = time.perf_counter()
    model.learn(SHAPE.updates * one, reset_num_timesteps=False)
    report(SHAPE.updates * one, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
