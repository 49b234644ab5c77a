"""A policy that samples among the tokens that a frozen copy of it finds likely."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.policies.protocol import AnyNetwork, Cache, Prefix
from agents.policies.token_policy import Responses, TokenPolicy, nucleus


class PairedCache(NamedTuple):
    """Caches of the policy and of its mask policy."""

    policy: Cache
    mask: Cache

    def select(self, index: Tensor) -> PairedCache:
        """The rows ``index`` (n,) of both."""
        return PairedCache(self.policy.select(index), self.mask.select(index))

    def replace(self, rows: Tensor, other: PairedCache) -> None:
        """Overwrite ``rows`` (n,) by the n rows of ``other``."""
        self.policy.replace(rows, other.policy)
        self.mask.replace(rows, other.mask)


class NucleusPolicy(TokenPolicy):
    """Samples among the tokens that a frozen copy finds likely; hidden states of both are concatenated, (..., 2 width).

    Args:
        mask_top_p: the likeliest tokens with this probability together are left (Holtzman et al. 2020), at least one.
        network, *arguments: of ``TokenPolicy``.
    """

    def __init__(self, mask_top_p: float, network: AnyNetwork, *arguments: Any) -> None:
        super().__init__(network, *arguments)
        frozen = network.frozen()
        if frozen.trained_state().keys() != network.trained_state().keys():
            raise ValueError(
                "nlpo masks by a copy of its policy, which a model of transformers does not give: take ppo, or start "
                "from one of our networks"
            )
        self.mask_top_p = mask_top_p
        self.mask = TokenPolicy(frozen, *arguments).requires_grad_(False)

    def networks(self) -> dict[str, AnyNetwork]:
        return {**super().networks(), "mask": self.mask.network}

    def begin(self, prefix: Prefix) -> tuple[Tensor, Any]:
        hidden, cache = super().begin(prefix)
        mask_hidden, mask_cache = self.mask.begin(prefix)
        return torch.cat([hidden, mask_hidden], -1), PairedCache(cache, mask_cache)

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        return torch.cat([super().step(tokens, cache.policy), self.mask.step(tokens, cache.mask)], -1)

    def read(self, responses: Responses) -> Tensor:
        with torch.no_grad():
            mask_hidden = self.mask.read(responses)
        return torch.cat([super().read(responses), mask_hidden], -1)

    def log_probs(self, hidden: Tensor, sampled: Tensor | None = None) -> Tensor:
        policy_hidden, mask_hidden = hidden.chunk(2, -1)
        with torch.no_grad():
            likely = nucleus(self.mask.log_probs(mask_hidden), self.mask_top_p)
            if sampled is not None:
                likely = likely.scatter(-1, sampled[..., None], True)  # so that no ratio of probabilities is 0
        return super().log_probs(policy_hidden).masked_fill(~likely, float("-inf")).log_softmax(-1)

    def log_prob(self, hidden: Tensor, sampled: Tensor) -> Tensor:
        return self.log_probs(hidden, sampled).gather(-1, sampled[..., None])[..., 0]

    def value(self, hidden: Tensor) -> Tensor:
        return super().value(hidden.chunk(2, -1)[0])
