"""VinePPO (Kazemnejad et al. 2024, arXiv 2410.01679): PPO whose values are mean returns of branches.

The environment begins again at the states that a response passed through, and the policy continues from each of them
``branches`` times. The advantage of the tokens from one such state to the next is what they were paid, minus their KL,
plus the value of the next state minus that of the first. A value is the mean of what branches earn to the end of the
episode: their scores minus ``kl_coef`` times the k1 of their tokens, as PPO's rewards are.

A dialogue is one episode: a branch plays its later turns too, and after the last token of a reply comes the state in
which the next turn begins. So a reply answers for the later rewards that it leads to, where PPO's default lets it
answer for its own alone.

Branches cost tokens. They count towards the budget, and ``branch_tokens`` in the log is their number. States that
several responses share, the first of a context above all, are branched from once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.algorithms.base import Learner, ratio_and_kl
from agents.distributed.stepper import Logs
from agents.maths.advantages import at_the_end, stretch_advantages, whiten
from agents.maths.kl import penalised, sequence_penalised
from agents.maths.losses import clip_fraction, clipped_policy_loss
from agents.maths.means import Mean, batch_total
from agents.maths.turns import next_turn_values
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch
from agents.rollouts.branching import continue_from, states_of
from agents.settings.bounds import ClipRange, Count, LaneCount
from agents.settings.shared import KLConfig, OptimiserConfig, TrainConfig
from mmenv.envs.token_vector_env import TokenVectorEnv


@dataclass(frozen=True, kw_only=True)
class VinePPOConfig(KLConfig, OptimiserConfig, TrainConfig):
    """PPO with values from branches instead of a value head (VinePPO, Kazemnejad et al. 2024)."""

    num_envs: LaneCount = 64
    """Responses of one update, sampled side by side; so many branches are sampled side by side, too."""
    epochs: Count = 2
    """Passes over the responses of one update."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef."""
    branches: Count = 9
    """Continuations from each state (K)."""
    branch_every: Count = 1
    """Tokens from one state that is branched from to the next; the tokens between share an advantage."""


@dataclass(frozen=True)
class VinePPOData(Minibatch):
    """Responses with log-probabilities from sampling and advantages, each (S, T)."""

    logp: Tensor
    advantages: Tensor


class VinePPO(Learner[VinePPOData]):
    """Clipped steps along advantages from branches."""

    Config = VinePPOConfig
    config: VinePPOConfig
    entropy_gradient = False

    def collect(self, env: TokenVectorEnv) -> Batch:
        """Responses whose ``values`` are means over branches, at the tokens before which the policy branched."""
        batch = self.play(self.policy, env)
        every = self.config.branch_every
        states = states_of(batch, every)
        number = {state: i for i, state in enumerate(dict.fromkeys(s for several in states for s in several))}
        found = continue_from(list(number), self.config.branches, self.policy, env, self._earned)
        values = torch.zeros_like(batch.values)
        for row, several in enumerate(states):
            values[row, : every * len(several) : every] = found.values[[number[s] for s in several]].to(values)
        return dataclasses.replace(batch, values=values, extra_tokens=found.tokens)

    def _earned(self, batch: Batch) -> Tensor:
        """What each response earned by itself, minus the cost of its KL, (S,)."""
        rewards = self.turn_rewards(batch)
        if not self.config.kl_coef:
            return rewards
        ref_logp, _ = self.stepper.evaluate(self.reference, batch.responses(), entropy=False)
        return sequence_penalised(rewards, batch.logp, ref_logp, batch.mask, self.config.kl_coef)

    def data(self, batch: Batch, ref_logp: Tensor) -> VinePPOData:
        mask = batch.mask
        spread = self.scores(batch) - self.turn_rewards(batch)  # of a later reply, where a task pays at the end
        rewards = self.token_rewards(batch) - at_the_end(spread, mask)  # (S, T)
        rewards = penalised(rewards, batch.logp, ref_logp, mask, self.config.kl_coef)
        after = next_turn_values(batch.values[:, 0], batch.episodes)  # (S,)
        rewards = rewards + at_the_end(after, mask)
        advantages = stretch_advantages(rewards, batch.values, mask, self.config.branch_every)
        return VinePPOData(batch.responses(), batch.logp, whiten(advantages, mask, self.reduce))

    def loss(self, new: Evaluated, old: VinePPOData) -> tuple[Mean, Logs]:
        clip = self.config.clip_coef
        loss = clipped_policy_loss(new.logp, old.logp, old.advantages, old.mask, clip)
        return loss, {
            "policy_loss": loss,
            "clip_fraction": clip_fraction(new.logp, old.logp, old.mask, clip),
            **ratio_and_kl(new.logp, old.logp, old.mask),
        }

    def batch_logs(self, batch: Batch, data: VinePPOData) -> dict[str, float]:
        tokens = torch.tensor(float(batch.extra_tokens), device=batch.scores.device)
        return {"branch_tokens": batch_total(tokens, self.reduce).item()}
