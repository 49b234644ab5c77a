"""Advantages from a value head, for tokens or for turns: what PPO and A2C share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.algorithms.base import Learner
from agents.maths.advantages import gae, whiten
from agents.maths.kl import penalised, sequence_penalised
from agents.maths.turns import turn_gae
from agents.rollouts.batch import Batch
from agents.settings.shared import TokenLevel


class CriticTargets(NamedTuple):
    """Old values, whitened advantages, and returns, each (S, T) and 0 where the mask is.

    Over turns all tokens of a reply have the same: the value at its start, and the advantage and the return from it on.
    """

    values: Tensor
    advantages: Tensor
    returns: Tensor


def critic_targets(
    learner: Learner[Any], batch: Batch, ref_logp: Tensor, beta: float, whiten_rewards: bool = False
) -> CriticTargets:
    """What the policy and the value head learn from a batch.

    Args:
        learner: its config has ``gamma``, ``gae_lambda`` and ``advantage_level``.
        batch: S responses.
        ref_logp: (S, T), their log-probabilities under the reference.
        beta: cost of a nat of KL.
        whiten_rewards: whether scores are scaled to variance 1, keeping their mean.
    """
    config, mask = learner.config, batch.mask
    values = level_values(batch.values, mask, config.advantage_level)
    if config.advantage_level == "turn":
        earned = learner.turn_rewards(batch)  # (S,)
        if whiten_rewards:
            earned = whiten(earned, torch.ones_like(earned), learner.reduce, keep_mean=True)
        earned = sequence_penalised(earned, batch.logp, ref_logp, mask, beta)
        starts = start_values(batch.values, mask)
        advantages = turn_gae(earned, starts, batch.episodes, config.gamma, config.gae_lambda)[:, None] * mask
    else:
        rewards = penalised(learner.token_rewards(batch, whiten_rewards), batch.logp, ref_logp, mask, beta)  # (S, T)
        advantages = gae(rewards, values, mask, config.gamma, config.gae_lambda)
    return CriticTargets(values, whiten(advantages, mask, learner.reduce), advantages + values)


def level_values(values: Tensor, mask: Tensor, level: TokenLevel) -> Tensor:
    """Values (B, T) of tokens, or over turns at all tokens of a reply the value at its start, 0 where the mask is."""
    if level == "token":
        return values
    return start_values(values, mask)[:, None] * mask


def start_values(values: Tensor, mask: Tensor) -> Tensor:
    """The value before the first token of each response that was sampled: (B, T) -> (B,)."""
    first = (mask > 0).int().argmax(1, keepdim=True)  # a prefix was not sampled
    return values.gather(1, first)[:, 0]
