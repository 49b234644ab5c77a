"""What the folder of a run gives: a policy that samples, or the trainer that goes on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from agents import files
from agents.algorithms.registry import ALGORITHMS, check_trust, find
from agents.policies.token_policy import TokenPolicy
from agents.settings.saved import read_settings
from agents.training import checkpoints
from agents.training.start import find_start, weights_start
from agents.training.trainer import Trainer
from mmenv.envs.token_vector_env import TokenVectorEnv


def load_policy(
    source: str | Path,
    env: TokenVectorEnv,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    device: str = "cpu",
    greedy: bool = False,
) -> TokenPolicy:
    """A policy with a generator of its own, ready to sample in ``env``.

    Args:
        source: a shipped name or a file of weights, or the folder of a run. A run's policy samples as the run trained
            it: with its temperature, its top-p, and the nucleus of NLPO.
        env: gives the vocabulary and the longest response.
        seed: of the generator.
        temperature, top_p: for weights, which have none of their own.
        device: where the network runs.
        greedy: take the likeliest token at each step instead of a sampled one.

    Raises:
        FileNotFoundError: the folder is of a run without a checkpoint.
        WeightsError: there are no such weights.
        RunError: a file of the run is damaged.
    """
    generator = torch.Generator(device).manual_seed(seed)
    folder = Path(source)
    if folder.is_dir():
        policy = _policy_of_run(folder, env, generator)
    else:
        network = weights_start(source).network("", env.episode_spec)
        policy = TokenPolicy(network, env.episode_spec.budget, temperature, generator=generator, top_p=top_p)
    policy.greedy = greedy
    return policy.to(device)


def _policy_of_run(folder: Path, env: TokenVectorEnv, generator: torch.Generator) -> TokenPolicy:
    tensors, _ = checkpoints.load_checkpoint(folder)
    algorithm = find(files.algorithm_of(folder))
    config: Any = read_settings(folder / "config.json", algorithm.Config)
    network = find_start(config, checkpoints.newest_checkpoint(folder)).network(config.env_id, env.episode_spec)
    policy = algorithm.make_policy(config, network, env.episode_spec.budget, generator)
    for name, part in policy.networks().items():
        part.load_trained_state(tensors[name])
    return policy


def resume(folder: Path, trusted: Sequence[str] = ()) -> Trainer:
    """The trainer of a run's folder, where its checkpoint left off; nothing is written before it trains.

    Args:
        folder: of the run.
        trusted: modules, or names with them, that the folder may have imported, for its algorithm and its ids.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it names other modules, holds what has no exact resume, or has a damaged file.
    """
    name, path = files.algorithm_of(folder), folder / "config.json"
    if name not in ALGORITHMS and ":" not in name:
        remedy = "give the ppo of a round, round-1/ppo" if name == "rlhf" else "it has no exact resume, start it again"
        raise ValueError(f"{folder} holds {name}: {remedy}")
    check_trust([name], trusted, path)
    config = read_settings(path, find(name).Config)
    check_trust([config.env_id, *config.also], trusted, path)
    return Trainer(name, config, folder, resume=True)
