"""mmenv's PPO, environment and reward and reference included, on a toy task of the peers' shape."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from shape import read_shape, report

from agents.algorithms.ppo import PPO, PPOConfig
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import rollout
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer, WordTokenizer

SHAPE = read_shape()
LETTERS = "abcdefghij"
WORDS = [a + b for a in LETTERS for b in LETTERS][: SHAPE.vocab - 3]


class Words(Task):
    """Random pictures, and a prompt that fills its width."""

    name = "words"
    max_prompt_tokens = SHAPE.prompt - 1  # the network adds its start token
    max_response_tokens = SHAPE.response
    image_sizes = (16 * int(SHAPE.image**0.5),)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        side = self.image_size
        pictures = np.random.default_rng(0).integers(0, 256, (4096, side, side, 3), dtype=np.uint8)
        prompt = " ".join(WORDS[: self.max_prompt_tokens])
        self.pool = [Sample(f"words/{i}", i, prompt, image) for i, image in enumerate(pictures)]

    def default_tokenizer(self) -> Tokenizer:
        return WordTokenizer(WORDS)

    def size(self, split: str) -> int:
        return len(self.pool)

    def sample(self, split: str, index: int) -> Sample:
        return self.pool[index]


class Points:
    """One word is worth a point; notes the seconds it took."""

    name = "points"

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        begun = time.perf_counter()
        scores = np.array([r.text.split().count(WORDS[0]) for r in responses], np.float32)
        self.seconds += time.perf_counter() - begun
        return scores


class TimedEnv(TokenVectorEnv):
    """Notes the seconds spent in it, reward included."""

    seconds = 0.0

    def reset(self, **arguments: Any) -> Any:
        begun = time.perf_counter()
        result = super().reset(**arguments)
        self.seconds += time.perf_counter() - begun
        return result

    def step(self, actions: Any) -> Any:
        begun = time.perf_counter()
        result = super().step(actions)
        self.seconds += time.perf_counter() - begun
        return result


def policy_of(network: Network) -> TokenPolicy:
    """A policy that never ends a response, so that every response has its full length."""
    policy = TokenPolicy(network, SHAPE.response, generator=torch.Generator().manual_seed(0))
    policy.logit_bias[list(WordTokenizer.eos_ids)] = float("-inf")
    return policy


def fresh_network() -> Network:
    """Random weights at the shape."""
    config = NetworkConfig(
        SHAPE.vocab, modalities=("image",), width=SHAPE.width, layers=SHAPE.layers, heads=SHAPE.heads,
        max_prompt=SHAPE.prompt, max_response=SHAPE.response, image_grid=int(SHAPE.image**0.5),
        image_side=16 * int(SHAPE.image**0.5),
    )  # fmt: skip
    return Network(config)


def build() -> tuple[TimedEnv, TokenPolicy, PPO]:
    """Environment, policy and algorithm at the shape."""
    network = fresh_network()
    reference = Network(network.config)
    reference.load_state_dict(network.state_dict())
    env = TimedEnv(Words, SHAPE.batch, autoreset_mode="Disabled", copy=False, reward=Points())
    policy = policy_of(network)
    settings = PPOConfig(num_envs=SHAPE.batch, epochs=SHAPE.epochs, minibatches=1)
    return env, policy, PPO(settings, policy, policy_of(reference).requires_grad_(False), np.random.default_rng(0))


def main() -> None:
    torch.set_num_threads(SHAPE.threads)
    torch.manual_seed(0)
    env, policy, algorithm = build()
    reward: Any = env.reward_function
    tokens, sampling, begun = 0, 0.0, 0.0
    rng = np.random.default_rng(1)
    for number in range(SHAPE.updates + 1):
        indices = rng.choice(len(env.task.pool), SHAPE.batch // SHAPE.group, replace=False).repeat(SHAPE.group)
        if number == 1:
            tokens, sampling, env.seconds, reward.seconds, begun = 0, 0.0, 0.0, 0.0, time.perf_counter()
        started = time.perf_counter()
        batch = rollout(policy, env, {"sample_index": indices})
        sampling += time.perf_counter() - started
        algorithm.update(batch, 0.0)
        tokens += batch.num_tokens
    seconds = time.perf_counter() - begun
    report(
        tokens, seconds, env_share=(env.seconds - reward.seconds) / seconds, reward_share=reward.seconds / seconds,
        rollout_share=sampling / seconds, update_share=1 - sampling / seconds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
