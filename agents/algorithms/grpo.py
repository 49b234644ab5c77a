"""Group-relative policy optimisation (Shao et al. 2024) and its relatives, which differ from it by their settings.

The published KL term, k3 in the loss, moves each token towards the reference at the states that were visited. It gives
no credit to earlier tokens for the KL that they lead to, and on-policy its gradient is that of KL(reference || policy).
``kl_in="reward"`` subtracts the KL from the score instead: its optimum is the KL-regularised one
(tests/test_exact_references.py).

``advantage_level="turn"`` compares the rewards from turn k of a dialogue on with those of the same turn of the group's
other episodes: (G_k - mean of G_k) / deviation of G_k. The paper's process supervision adds up rewards from a step on,
too, but normalises them before.

Each relative fixes the settings that its paper defines it by, and offers the others with the paper's numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from agents.algorithms.base import Learner, ratio_and_kl
from agents.distributed.stepper import Logs
from agents.maths.advantages import group_relative, group_size, overlong_punishment, scores_differ
from agents.maths.kl import k3, sequence_penalised
from agents.maths.losses import (
    capped_weight_loss,
    clip_fraction,
    clipped_policy_loss,
    gated_policy_loss,
    sequence_clipped_loss,
)
from agents.maths.means import Mean, batch_total, budget_mean, response_mean, row_ends, token_mean
from agents.maths.turns import turn_groups, turn_returns
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch, split_rows
from agents.settings.bounds import ClipRange, Count, NonNegative, Positive, Share
from agents.settings.shared import KLConfig, OptimiserConfig, ResponseLevel, TrainConfig, TurnConfig
from mmenv.envs.token_vector_env import TokenVectorEnv

Surrogate = Literal["grpo", "gspo", "cispo", "sapo"]
Normalisation = Literal["grpo", "dapo", "dr-grpo"]
Scale = Literal["group", "none"]
KLPlace = Literal["loss", "reward"]


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(TurnConfig, KLConfig, OptimiserConfig, TrainConfig):
    """Group-relative policy optimisation (Shao et al. 2024): scores against those of the same context."""

    compared: ClassVar[int] = 2
    epochs: Count = 2
    """Passes over the responses of one update."""
    # What of the ratio of new to old probability multiplies an advantage: the clipped ratio of a token (grpo) or of a
    # response (gspo), the capped weight of a log-probability (cispo), or a soft gate (sapo).
    surrogate: Surrogate = field(default="grpo", init=False)
    weight_cap: Positive = field(default=5.0, init=False)  # of cispo
    tau_positive: Positive = field(default=1.0, init=False)  # of sapo
    tau_negative: Positive = field(default=1.05, init=False)  # of sapo
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_high."""
    clip_high: NonNegative | None = None
    """Upper half of the clip range where it is another one; None takes clip_coef."""
    normalisation: Normalisation = "grpo"
    """The loss is the mean over responses of their means over tokens (grpo), the mean over all tokens (dapo), or the
    mean over responses of their sums over tokens, divided by the budget (dr-grpo)."""
    scale: Scale = "group"
    """Advantages are divided by the group's standard deviation, or left as they are."""
    kl_in: KLPlace = "loss"
    """Where the KL is paid: k3 in the loss, as published, or off the score, which also credits earlier tokens."""
    dynamic_sampling: bool = False
    """Whether groups whose scores are all equal are dropped, and others sampled in their place."""
    max_refills: Count = 9
    """With --dynamic-sampling: further rollouts of an update at most; then it learns from fewer groups."""
    overlong_share: Share = 0.0
    """The last part of the budget, in which a response loses up to 1 point of its score, linearly by its length."""
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step, as in PPO."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if not self.dynamic_sampling:
            yield from self.without_effect("dynamic_sampling=False", "max_refills")
        elif self.advantage_level == "turn":
            yield (
                "advantage_level='turn' with dynamic_sampling=True, which drops groups by the scores of single "
                "replies: leave out --dynamic-sampling"
            )


@dataclass(frozen=True)
class GRPOData(Minibatch):
    """Responses with log-probabilities from sampling, those of the reference, and advantages, each (S, T)."""

    logp: Tensor
    ref_logp: Tensor
    advantages: Tensor


class GRPO(Learner[GRPOData]):
    """Steps along scores relative to those of the same context."""

    Config: ClassVar[type[TrainConfig]] = GRPOConfig
    config: GRPOConfig
    entropy_gradient = False

    def collect(self, env: TokenVectorEnv) -> Batch:
        """All responses of the update: with dynamic sampling also those that ``minibatches`` leaves out."""
        batch = self.play(self.policy, env)
        if not self.config.dynamic_sampling:
            return batch
        batches = [batch]
        informative = _num_informative(batch)
        while informative < self.config.num_envs and len(batches) <= self.config.max_refills:
            batches.append(self.play(self.policy, env))
            informative += _num_informative(batches[-1])
        return batches[0].join(batches[1:], env.tokenizer.pad_id)

    def minibatches(self, batch: Batch) -> Iterator[Tensor]:
        rows = self.shuffled(batch)
        if self.config.dynamic_sampling:
            retained = self._retained(batch).cpu()
            rows = rows[retained[rows]]
        yield from split_rows(rows, self.config.minibatches)

    def scores(self, batch: Batch) -> Tensor:
        """As ``Learner.scores``, minus the punishment of long responses."""
        scores = super().scores(batch)
        share = self.config.overlong_share
        if not share:
            return scores
        return scores + overlong_punishment(row_ends(batch.mask), self.policy.budget, share)

    def prepare_batch(self, batch: Batch) -> Batch:
        return self.rescored(batch) if self.config.recompute_logp else batch

    def data(self, batch: Batch, ref_logp: Tensor) -> GRPOData:
        advantages = self._advantages(batch, ref_logp)[:, None].expand_as(batch.logp)
        return GRPOData(batch.responses(), batch.logp, ref_logp, advantages)

    def _advantages(self, batch: Batch, ref_logp: Tensor) -> Tensor:
        """An advantage for each response, (S,)."""
        config = self.config
        over_turns = config.advantage_level == "turn"
        scores = self.turn_rewards(batch) if over_turns else self.scores(batch)  # (S,)
        if config.kl_in == "reward":
            scores = sequence_penalised(scores, batch.logp, ref_logp, batch.mask, config.kl_coef)
        scale = config.scale == "group"
        if not over_turns:
            return group_relative(scores, batch.contexts, scale, self.reduce)
        returns, groups, rows = turn_groups(turn_returns(scores, batch.episodes), batch.contexts, batch.episodes)
        return group_relative(returns, groups, scale, self.reduce)[rows]

    def loss(self, new: Evaluated, old: GRPOData) -> tuple[Mean, Logs]:
        config = self.config
        policy_loss, logs = self._policy_loss(new.logp, old)
        kl_loss = self._mean(k3(new.logp, old.ref_logp), old.mask)
        loss = policy_loss + config.kl_coef * kl_loss if config.kl_in == "loss" else policy_loss
        return loss, {
            "policy_loss": policy_loss,
            "kl_loss": kl_loss,
            **logs,
            **ratio_and_kl(new.logp, old.logp, old.mask),
        }

    def batch_logs(self, batch: Batch, data: GRPOData) -> dict[str, float]:
        """With dynamic sampling: groups that were dropped, and responses for which refills found no other."""
        if not self.config.dynamic_sampling:
            return {}
        differ = scores_differ(batch.scores, batch.contexts)
        dropped = batch.contexts[~differ & (group_size(batch.contexts) > 1)]
        missing = max(0, self.config.num_envs - _num_informative(batch))
        counts = batch_total(batch.scores.new_tensor([float(len(set(dropped.tolist()))), float(missing)]), self.reduce)
        return {"dropped_groups": counts[0].item(), "missing_responses": counts[1].item()}

    def _retained(self, batch: Batch) -> Tensor:
        """Which rows dynamic sampling retains, bool (S,): the first groups whose scores differ, ``num_envs`` responses.

        Responses that are alone with their context, as later turns of a dialogue can be, are retained too.
        """
        contexts = batch.contexts
        differ = scores_differ(batch.scores, contexts)
        sizes = torch.bincount(contexts[differ], minlength=int(contexts.max()) + 1)  # (K,), 0 where scores are equal
        needed = sizes.cumsum(0) - sizes < self.config.num_envs
        return (differ & needed[contexts]) | (group_size(contexts) == 1)

    @property
    def _mean(self) -> Callable[[Tensor, Tensor], Mean]:
        """The mean over the tokens of a minibatch that ``normalisation`` names."""
        if self.config.normalisation == "dr-grpo":
            return functools.partial(budget_mean, budget=self.policy.budget)
        return response_mean if self.config.normalisation == "grpo" else token_mean

    def _policy_loss(self, logp: Tensor, old: GRPOData) -> tuple[Mean, Logs]:
        """The surrogate's loss; for the log, how often it clips, or caps a weight."""
        config = self.config
        tensors = (logp, old.logp, old.advantages, old.mask)  # each (B, T)
        if config.surrogate == "cispo":
            capped = token_mean((logp - old.logp > math.log(config.weight_cap)).to(old.mask.dtype), old.mask)
            return capped_weight_loss(*tensors, config.weight_cap, self._mean), {"clip_fraction": capped}
        if config.surrogate == "sapo":
            return gated_policy_loss(*tensors, config.tau_positive, config.tau_negative, self._mean), {}
        high = config.clip_coef if config.clip_high is None else config.clip_high
        if config.surrogate == "gspo":
            loss, outside = sequence_clipped_loss(*tensors, config.clip_coef, high)
        else:
            loss = clipped_policy_loss(*tensors, config.clip_coef, high, self._mean)
            outside = clip_fraction(logp, old.logp, old.mask, config.clip_coef, high)
        return loss, {"clip_fraction": outside}


def _num_informative(batch: Batch) -> int:
    """Number of responses in groups whose scores differ."""
    return int(scores_differ(batch.scores, batch.contexts).sum())


@dataclass(frozen=True, kw_only=True)
class GSPOConfig(GRPOConfig):
    """Group sequence policy optimisation (Zheng et al. 2025, arXiv 2507.18071): GRPO with the ratio of a response."""

    surrogate: Surrogate = field(default="gspo", init=False)
    normalisation: Normalisation = field(default="grpo", init=False)
    clip_coef: ClipRange = 3e-4
    """The ratio of a response, to the power 1 / length, is clipped to 1 - clip_coef .. 1 + clip_high."""
    clip_high: NonNegative | None = 4e-4
    """Upper half of the clip range; None takes clip_coef. Both numbers are the paper's."""


class GSPO(GRPO):
    """GRPO whose ratio of probabilities is that of a response (Zheng et al. 2025)."""

    Config = GSPOConfig
    config: GSPOConfig


@dataclass(frozen=True, kw_only=True)
class SAPOConfig(GRPOConfig):
    """Soft adaptive policy optimisation (Gao et al. 2025, arXiv 2511.20347): a soft gate on the ratio of a token."""

    surrogate: Surrogate = field(default="sapo", init=False)
    normalisation: Normalisation = field(default="grpo", init=False)
    clip_coef: ClipRange = field(default=0.2, init=False)  # nothing is clipped
    clip_high: NonNegative | None = field(default=None, init=False)
    tau_positive: Positive = 1.0
    """Steepness of the gate where the advantage is above 0."""
    tau_negative: Positive = 1.05
    """Steepness of the gate where the advantage is below 0: larger, as these gradients are less stable."""


class SAPO(GRPO):
    """GRPO with a gate that closes slowly on tokens far from the old policy (Gao et al. 2025)."""

    Config = SAPOConfig
    config: SAPOConfig


@dataclass(frozen=True, kw_only=True)
class GRPOWithoutKLConfig(GRPOConfig):
    """GRPO without a KL penalty."""

    kl_coef: NonNegative = field(default=0.0, init=False)
    kl_in: KLPlace = field(default="loss", init=False)


@dataclass(frozen=True, kw_only=True)
class DrGRPOConfig(GRPOWithoutKLConfig):
    """Dr. GRPO, "GRPO done right" (Liu et al. 2025, arXiv 2503.20783): no deviation, no length of responses, no KL."""

    normalisation: Normalisation = field(default="dr-grpo", init=False)
    scale: Scale = field(default="none", init=False)


class DrGRPO(GRPO):
    """GRPO whose loss divides neither by deviations nor by lengths of responses (Liu et al. 2025)."""

    Config = DrGRPOConfig
    config: DrGRPOConfig


@dataclass(frozen=True, kw_only=True)
class DAPOConfig(GRPOWithoutKLConfig):
    """DAPO (Yu et al. 2025, arXiv 2503.14476): dynamic sampling, a higher upper clip, a mean over all tokens, a soft
    punishment of overlong responses, no KL."""

    normalisation: Normalisation = field(default="dapo", init=False)
    scale: Scale = field(default="group", init=False)
    dynamic_sampling: bool = field(default=True, init=False)
    advantage_level: ResponseLevel = field(default="response", init=False)
    clip_high: NonNegative | None = 0.28
    """Upper half of the clip range; None takes clip_coef."""
    overlong_share: Share = 0.2
    """The last part of the budget, in which a response loses up to 1 point of its score, linearly by its length."""
    missing_eos_penalty: NonNegative = 0.0
    """Subtracted from the score of a response that used up its budget without an end token, beside 1 for its length."""


class DAPO(GRPO):
    """GRPO with dynamic sampling, two clip ranges, and a punishment of overlong responses (Yu et al. 2025)."""

    Config = DAPOConfig
    config: DAPOConfig


@dataclass(frozen=True, kw_only=True)
class CISPOConfig(GRPOWithoutKLConfig):
    """CISPO (MiniMax 2025, arXiv 2506.13585): capped ratios weight log-probabilities, every token has a gradient."""

    surrogate: Surrogate = field(default="cispo", init=False)
    normalisation: Normalisation = field(default="dapo", init=False)
    scale: Scale = field(default="group", init=False)
    clip_coef: ClipRange = field(default=0.2, init=False)  # nothing is clipped
    clip_high: NonNegative | None = field(default=None, init=False)
    weight_cap: Positive = 5.0
    """The largest weight of a token."""


class CISPO(GRPO):
    """GRPO whose ratios are weights with a cap, through which no gradient passes (MiniMax 2025)."""

    Config = CISPOConfig
    config: CISPOConfig
