"""Proximal policy optimisation on responses, as RLHF does it: KL by token, GAE, clipped policy and value losses.

Sources: Ziegler et al. 2019 (lm-human-preferences), Stiennon et al. 2020, and Huang et al. 2024 ("The N+
implementation details of RLHF with PPO").
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents import kl as kls
from agents.advantages import gae, masked_mean, whiten
from agents.config import PPOConfig
from agents.losses import clip_fraction, clipped_policy_loss, clipped_value_loss
from agents.policy import Responses, TokenPolicy
from agents.rollout import Batch
from mmenv.models.transformer import Network, Prefix


class PPO:
    """One ``update`` a batch of responses.

    Args:
        config: see ``PPOConfig``.
        policy: learns.
        reference: the frozen start that the KL is taken to.
        rng: order of the minibatches.
    """

    def __init__(
        self, config: PPOConfig, policy: TokenPolicy, reference: TokenPolicy, rng: np.random.Generator
    ) -> None:
        self.config, self.policy, self.reference, self.rng = config, policy, reference, rng
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
            self.parameters, lr=config.learning_rate, eps=config.adam_eps
        )
        self.kl = kls.KLController(config.kl_coef, config.kl_target, config.kl_horizon)

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        """Learn from a batch; ``progress`` in [0, 1] sets the learning rate.

        Returns:
            what a reader of the curves wants to know, by name.
        """
        config, mask = self.config, batch.mask
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate + progress * (config.final_learning_rate - config.learning_rate)
        with torch.no_grad():
            seen = self._seen(self.reference.network, batch)
            ref_logp, _, ref_entropy = self.reference.evaluate(seen)  # (S, T)
            scores = self._scores(batch)
            rewards = kls.penalised(scores, batch.logp, ref_logp, mask, self.kl.beta)
            advantages = gae(rewards, batch.values, mask, config.gamma, config.gae_lambda)
            returns = advantages + batch.values
            advantages = whiten(advantages, mask)
        logs: list[dict[str, float]] = []
        for _ in range(config.epochs):
            for rows in self._order(batch).chunk(config.minibatches):
                logs.append(self._step(batch, rows, advantages, returns))
        with torch.no_grad():
            sequence_kl = (kls.k1(batch.logp, ref_logp) * mask).sum(1).mean().item()
            report = {
                "kl": (kls.k3(batch.logp, ref_logp) * mask).sum(1).mean().item(),
                "kl_k1": sequence_kl,
                "beta": self.kl.beta,
                "reference_entropy": masked_mean(ref_entropy, mask).item(),
                "returns": masked_mean(returns, mask).item(),
                "explained_variance": _explained(batch.values, returns, mask),
                "learning_rate": self.optimiser.param_groups[0]["lr"],
                # Before the first step nothing has changed: ratio 1, KL 0, no clipping. Anything else is a bug.
                "first_ratio": logs[0]["ratio"],
                "first_approx_kl": logs[0]["approx_kl"],
                "first_clip_fraction": logs[0]["clip_fraction"],
            }
        self.kl.update(sequence_kl, len(mask))
        mean = {name: float(np.mean([log[name] for log in logs])) for name in logs[0] if name != "ratio"}
        return {**report, **mean}

    def _order(self, batch: Batch) -> Tensor:
        """A random order of the responses (S,) that keeps those to the same context together."""
        contexts = batch.contexts.cpu().numpy()
        rank = self.rng.permutation(int(contexts.max()) + 1)
        return torch.from_numpy(np.argsort(rank[contexts], kind="stable"))

    def counters(self) -> dict[str, float]:
        """What an exact resume needs beside weights and moments."""
        return {"beta": self.kl.beta}

    def restore(self, counters: dict[str, float]) -> None:
        """Put ``counters`` back."""
        self.kl.beta = counters["beta"]

    def _scores(self, batch: Batch) -> Tensor:
        """Scores (S,), lower where a response did not end by itself."""
        budget = torch.tensor([stop == "budget" for stop in batch.stops], device=batch.scores.device)
        scores = batch.scores - self.config.missing_eos_penalty * budget
        if self.config.whiten_rewards:
            scores = whiten(scores, torch.ones_like(scores), keep_mean=True)
        return scores

    def _step(self, batch: Batch, rows: Tensor, advantages: Tensor, returns: Tensor) -> dict[str, float]:
        """One gradient step on some responses."""
        config, responses = self.config, self._seen(self.policy.network, batch, rows)
        mask, t = responses.mask, responses.mask.shape[1]
        old_logp, old_values = batch.logp[rows, :t], batch.values[rows, :t]
        logp, values, entropy = self.policy.evaluate(responses, entropy_gradient=config.entropy_coef != 0)
        policy_loss = clipped_policy_loss(logp, old_logp, advantages[rows, :t], mask, config.clip_coef)
        value_loss = clipped_value_loss(values, old_values, returns[rows, :t], mask, config.value_clip)
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * masked_mean(entropy, mask)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}: lower learning_rate or look at the rewards")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimiser.step()
        with torch.no_grad():
            return {
                "policy_loss": policy_loss.item(),
                "value_loss": value_loss.item(),
                "entropy": masked_mean(entropy, mask).item(),
                "ratio": masked_mean((logp - old_logp).exp(), mask).item(),
                "approx_kl": masked_mean(kls.k3(old_logp, logp), mask).item(),
                "clip_fraction": clip_fraction(logp, old_logp, mask, config.clip_coef).item(),
                "grad_norm": norm.item(),
            }

    def _seen(self, network: Network, batch: Batch, rows: Tensor | None = None) -> Responses:
        """Responses with their contexts as ``network`` sees them: encoders that learn differ from the reference's."""
        responses = batch.responses(rows)
        if batch.observations is None:
            return responses
        kept = slice(None) if rows is None else batch.contexts[rows].unique().cpu()
        media = {k: v[kept].to(batch.tokens.device) for k, v in batch.observations.items()}
        fresh = network.encode({**media, "prompt": responses.prefix.prompt})
        return responses._replace(prefix=Prefix(fresh.media, responses.prefix.prompt))


def _explained(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Share of the returns' variance that the values explain."""
    mean = masked_mean(returns, mask)
    total, rest = masked_mean((returns - mean) ** 2, mask), masked_mean((returns - values) ** 2, mask)
    return float(1 - rest / total.clamp(min=1e-8))
