"""Natural language policy optimisation (Ramamurthy et al. 2023): PPO among the likely tokens of an earlier self.

A mask policy, refreshed every so many updates, leaves the tokens that have ``mask_top_p`` of its probability; the
policy samples among them alone. The mask is part of the one distribution: sampling, loss and evaluation see the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.algorithms.ppo import PPO
from agents.policies.protocol import AnyNetwork, Cache, Prefix
from agents.policies.token_policy import Responses, TokenPolicy, nucleus
from agents.rollouts.rollout import Batch
from agents.settings.shared import NLPOConfig


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


class Both(NamedTuple):
    """Caches of the policy and of its mask."""

    own: Cache
    mask: Cache

    def select(self, index: Tensor) -> Both:
        """The rows ``index`` (n,) of both."""
        return Both(self.own.select(index), self.mask.select(index))

    def replace(self, rows: Tensor, other: Both) -> None:
        """Overwrite ``rows`` (n,) by the n rows of ``other``."""
        self.own.replace(rows, other.own)
        self.mask.replace(rows, other.mask)


class NucleusPolicy(TokenPolicy):
    """A policy among the tokens that a frozen copy finds likely; hidden states of both go side by side, (..., 2 width).

    Args:
        top_p: probability that the tokens left have together (Holtzman et al. 2020); the likeliest is always left.
        network, *arguments: of ``TokenPolicy``.
    """

    def __init__(self, top_p: float, network: AnyNetwork, *arguments: Any) -> None:
        super().__init__(network, *arguments)
        frozen = network.frozen()
        if frozen.trained_state().keys() != network.trained_state().keys():
            raise ValueError(
                "nlpo masks by a copy of its policy, which a model of transformers does not give: take ppo, or start "
                "from one of our networks"
            )
        self.kept, self.mask = top_p, TokenPolicy(frozen, *arguments).requires_grad_(False)

    def networks(self) -> dict[str, AnyNetwork]:
        return {**super().networks(), "mask": self.mask.network}

    def begin(self, prefix: Prefix) -> tuple[Tensor, Any]:
        own, cache = super().begin(prefix)
        hidden, other = self.mask.begin(prefix)
        return torch.cat([own, hidden], -1), Both(cache, other)

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        return torch.cat([super().step(tokens, cache.own), self.mask.step(tokens, cache.mask)], -1)

    def read(self, responses: Responses) -> Tensor:
        with torch.no_grad():
            hidden = self.mask.read(responses)
        return torch.cat([super().read(responses), hidden], -1)

    def log_probs(self, hidden: Tensor, sampled: Tensor | None = None) -> Tensor:
        own, other = hidden.chunk(2, -1)
        with torch.no_grad():
            likely = nucleus(self.mask.log_probs(other), self.kept)
            if sampled is not None:
                likely = likely.scatter(-1, sampled[..., None], True)  # so that no ratio of probabilities is 0
        return super().log_probs(own).masked_fill(~likely, float("-inf")).log_softmax(-1)

    def log_prob(self, hidden: Tensor, sampled: Tensor) -> Tensor:
        return self.log_probs(hidden, sampled).gather(-1, sampled[..., None])[..., 0]

    def value(self, hidden: Tensor) -> Tensor:
        return super().value(hidden.chunk(2, -1)[0])
