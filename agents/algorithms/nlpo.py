"""Natural language policy optimisation (Ramamurthy et al. 2023): PPO among the likely tokens of an earlier policy.

A mask policy, refreshed every so many updates, leaves the tokens that have ``mask_top_p`` of its probability; the
policy samples among them alone. Sampling and loss share that distribution. Evaluations are without the mask, as those
of every other algorithm: a mask at evaluation is a difference of decoding, not of learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from agents.algorithms.ppo import PPO, PPOConfig
from agents.policies.nucleus import NucleusPolicy
from agents.policies.protocol import AnyNetwork
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from agents.settings.bounds import Count, Nucleus
from mmenv.envs.token_vector_env import TokenVectorEnv


@dataclass(frozen=True, kw_only=True)
class NLPOConfig(PPOConfig):
    """PPO whose policy samples among the likely tokens of an earlier self (Ramamurthy et al. 2023)."""

    top_p: Nucleus = field(default=1.0, init=False)  # the mask has a probability of its own
    mask_top_p: Nucleus = 0.9
    """Total probability under the mask policy of the tokens that the mask leaves."""
    mask_every: Count = 5
    """Updates after which the mask policy becomes a copy of the policy."""


class NLPO(PPO):
    """PPO over a policy whose unlikely tokens are masked."""

    Config = NLPOConfig
    config: NLPOConfig
    policy: NucleusPolicy

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.updates = 0

    @classmethod
    def make_policy(cls, config: Any, network: AnyNetwork, budget: int, generator: torch.Generator) -> TokenPolicy:
        return NucleusPolicy(config.mask_top_p, network, budget, config.temperature, config.train_encoder, generator)

    def evaluation_policy(
        self, generator: torch.Generator, env: TokenVectorEnv, greedy: bool = False
    ) -> Callable[..., Any]:
        config, masked = self.config, self.policy
        network, budget = masked.network, masked.budget
        policy = TokenPolicy(network, budget, config.temperature, config.train_encoder, generator, config.top_p)
        policy.greedy = greedy
        return policy.to(masked.device).act

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        logs = super().update(batch, progress)
        self.updates += 1
        if self.updates % self.config.mask_every == 0:
            self.policy.mask.network.load_trained_state(self.policy.network.trained_state())
        return logs

    def networks(self) -> dict[str, AnyNetwork]:
        return {"mask": self.policy.mask.network}

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "updates": self.updates}

    def restore(self, counters: dict[str, Any]) -> None:
        super().restore(counters)
        self.updates = counters["updates"]
