"""Policies that sample, from weights or from the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from agents.algorithms.registry import find
from agents.policies.token_policy import TokenPolicy
from agents.settings.saved import read_settings
from agents.training import run_folder
from agents.training.start import find_start, weights_start
from mmenv.envs.token_vector_env import TokenVectorEnv


def load_policy(
    source: str | Path,
    env: TokenVectorEnv,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    device: str = "cpu",
) -> TokenPolicy:
    """A policy with a generator of its own, ready to sample in ``env``.

    Args:
        source: a shipped name or a file of weights, or the folder of a run. A run's policy samples as the run trained
            it: with its temperature, its top-p, and the nucleus of NLPO.
        env: gives the vocabulary and the longest response.
        seed: of the generator.
        temperature, top_p: for weights, which have none of their own.
        device: where the network runs.

    Raises:
        FileNotFoundError: the folder is of a run without a checkpoint.
        WeightsError: there are no such weights.
        RunError: a file of the run is damaged.
    """
    generator = torch.Generator(device).manual_seed(seed)
    folder = Path(source)
    if folder.is_dir():
        return _policy_of_run(folder, env, generator).to(device)
    network = weights_start(source).network("", env.setup)
    return TokenPolicy(network, env.setup.budget, temperature, generator=generator, top_p=top_p).to(device)


def _policy_of_run(folder: Path, env: TokenVectorEnv, generator: torch.Generator) -> TokenPolicy:
    tensors, _ = run_folder.load_checkpoint(folder)
    algorithm = find(run_folder.algorithm_of(folder))
    config: Any = read_settings(folder / "config.json", algorithm.Config)
    network = find_start(config, run_folder.newest_checkpoint(folder)).network(config.task_name, env.setup)
    policy = algorithm.make_policy(config, network, env.setup.budget, generator)
    for name, part in policy.networks().items():
        part.load_trained_state(tensors[name])
    return policy
