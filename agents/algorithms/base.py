"""What algorithms share: batches, minibatches, one gradient step, the KL to the start, and what is logged of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.distributed import processes, sharding
from agents.maths import kl as kls
from agents.maths.advantages import masked_mean, whiten
from agents.maths.losses import ratio_of
from agents.policies.protocol import AnyNetwork
from agents.policies.token_policy import Responses, TokenPolicy
from agents.rollouts.rollout import Batch, rollout
from agents.settings.shared import TrainConfig
from mmenv.envs.token_vector_env import TokenVectorEnv

Targets = dict[str, Tensor]


class Algorithm:
    """Learns from batches of responses. One joins by a subclass with ``Config``, ``targets`` and ``loss``.

    Args:
        config: an instance of ``Config``.
        policy: learns.
        reference: the frozen start that the KL is taken to.
        rng: order of the minibatches, and whatever else is drawn.

    Attributes:
        Config: the dataclass that the command line is made from.
        on_policy: whether ``collect`` plays the policy that learns; else the trainer plays it once more, to watch it.
        together: neighbours in a minibatch that the loss needs at once: 2 where it learns of pairs.
        reward_is: what the reward is to it, for the title of its curve.
        finished: set by an algorithm that has nothing more to learn.
        say: tells the person who started the run a sentence.
        optimiser: its moments go into the checkpoint.
    """

    Config: ClassVar[type[TrainConfig]] = TrainConfig
    on_policy = True
    together = 1
    reward_is = "what was trained on"
    finished = False

    def __init__(self, config: Any, policy: TokenPolicy, reference: TokenPolicy, rng: np.random.Generator) -> None:
        self.config, self.policy, self.reference, self.rng = config, policy, reference, rng
        self.say: Callable[[str], None] = print
        self.parameters = policy.trainable_parameters()
        self.optimiser = self.make_optimiser()

    # What an algorithm says of itself.

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        """What the loss needs beside the responses, by name, a row for each of the S responses.

        Args:
            batch: S responses.
            ref_logp: (S, T), their log-probabilities under the reference.
        """
        raise NotImplementedError(f"{type(self).__name__} has no targets")

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some responses, and what else is logged.

        Args:
            logp, values, entropy: of the policy as it is now, each (B, T).
            mask: (B, T), 1 for real tokens.
            rows: ``old_logp`` and the targets of these responses.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    # What it may do differently.

    def make_optimiser(self) -> torch.optim.Optimizer:
        """The optimiser of ``parameters``."""
        return torch.optim.Adam(self.parameters, lr=self.config.learning_rate, eps=self.config.adam_eps)

    def prepared(self, batch: Batch) -> Batch:
        """The batch as ``targets`` and the loss take it: by default with the log-probabilities of sampling."""
        return batch

    def watches(self, update: int) -> bool:
        """Whether the policy's own responses are sampled for the log at an update, counted from 1.

        Asked of an algorithm that is not ``on_policy`` alone.
        """
        return True

    def described(self, batch: Batch, targets: Targets) -> dict[str, float]:
        """What else a reader of the curves wants to know of a whole batch, by name."""
        return {}

    def weight(self, mask: Tensor) -> float:
        """How much of a minibatch some responses are, in what the loss is a mean over: by default tokens.

        Of several processes each has a part of a minibatch; this weighs its gradient so that the sum is that of the
        whole.

        Args:
            mask: (B, T), of those responses.
        """
        return mask.sum().item()

    @classmethod
    def make_policy(cls, config: Any, network: AnyNetwork, budget: int, generator: torch.Generator) -> TokenPolicy:
        """The policy that learns."""
        return TokenPolicy(network, budget, config.temperature, config.train_encoder, generator, config.top_p)

    def prepare(self, env: TokenVectorEnv) -> None:
        """Read what is learned from beside the environment; what is wrong with it is told before a run begins."""

    def collect(self, env: TokenVectorEnv) -> Batch:
        """Responses to learn from: by default those of the policy, ``responses_per_context`` to each sample."""
        return self.play(self.policy, env)

    def rows(self, batch: Batch, targets: Targets) -> Iterator[Tensor]:
        """Minibatches of one pass, as row numbers: contexts in a random order, the responses to one side by side.

        Minibatches are of equal size, so that the border between two may fall among the responses to one context.
        """
        contexts = batch.contexts.cpu().numpy()
        rank = self.rng.permutation(int(contexts.max()) + 1)
        yield from torch.from_numpy(np.argsort(rank[contexts], kind="stable")).chunk(self.config.minibatches)

    def actor(self, generator: torch.Generator, env: TokenVectorEnv) -> Callable[..., Any]:
        """``act`` as evaluations ask for it, with a generator of its own; ``env`` is the one that is trained on."""
        policy = copy.copy(self.policy)
        policy.generator = generator
        return policy.act

    def networks(self) -> dict[str, AnyNetwork]:
        """Further networks that an exact resume needs, by name."""
        return {}

    def counters(self) -> dict[str, Any]:
        """What an exact resume needs beside weights and moments, as plain JSON."""
        return {}

    def restore(self, counters: dict[str, Any]) -> None:
        """Put ``counters`` back."""

    # The rest is the same for all.

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        """Learn from a batch.

        Args:
            batch: what ``collect`` gave.
            progress: in [0, 1], the share of the run that is over; sets the learning rate.

        Returns:
            what a reader of the curves wants to know, by name.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate + progress * (config.final_learning_rate - config.learning_rate)
        batch = self.prepared(batch)
        ref_logp, ref_entropy = self.scored(self.reference, batch)  # (S, T)
        with torch.no_grad():
            targets = {"old_logp": batch.logp, **self.targets(batch, ref_logp)}
            described = self.described(batch, targets)
        steps = [self._step(batch, rows, targets) for _ in range(config.epochs) for rows in self._rows(batch, targets)]
        sharding.whole(self.policy.network)
        logs = [log for log in processes.merged(steps) if log]
        first = logs[0] if logs else {}
        report = {
            "reference_entropy": processes.masked_mean(ref_entropy, batch.mask).item(),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            **described,
            **(_distance(batch, ref_logp) if self.on_policy else {}),
            **{f"first_{name}": first[name] for name in ("ratio", "approx_kl", "clip_fraction") if name in first},
        }
        mean = {name: float(np.mean([log[name] for log in logs])) for name in first if name != "ratio"}
        return {**report, **mean}

    def distance(self, batch: Batch) -> dict[str, float]:
        """KL of the policy to the reference in nats a response, estimated on the policy's own responses."""
        return _distance(batch, self.scored(self.reference, batch, entropy=False)[0])

    @torch.no_grad()
    def scored(self, policy: TokenPolicy, batch: Batch, entropy: bool = True) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a batch under a policy, and its entropies, each (S, T); without gradients.

        With ``micro_batches`` it reads no more responses at a time than a part of a gradient step holds.

        Args:
            policy: which scores.
            batch: S responses.
            entropy: False leaves entropies out, they are 0 then: over a large vocabulary they cost memory.
        """
        config, wide = self.config, batch.mask.shape[1]
        parts: list[Tensor | None] = [None]
        if config.micro_batches > 1:
            everything = torch.arange(len(batch.mask), device=batch.mask.device)
            size = -(-len(everything) // (config.minibatches * config.micro_batches))
            parts = list(everything.split(size))
        found = []
        for rows in parts:
            logp, _, entropies = policy.evaluate(self.seen(policy.network, batch, rows), entropy=entropy)
            found.append([F.pad(x, (0, wide - x.shape[1])) for x in (logp, entropies)])
        logps, every_entropy = zip(*found, strict=True)
        return torch.cat(logps), torch.cat(every_entropy)

    def scored_again(self, batch: Batch) -> Batch:
        """A batch whose log-probabilities are those of the pass that the loss takes."""
        return dataclasses.replace(batch, logp=self.scored(self.policy, batch, entropy=False)[0])

    def play(self, policy: TokenPolicy, env: TokenVectorEnv, rng: np.random.Generator | None = None) -> Batch:
        """Responses of a policy to samples drawn at random, ``responses_per_context`` to each.

        Args:
            policy: which responds.
            env: where.
            rng: draws the samples; None takes the algorithm's own.
        """
        n, each, rng = env.num_envs, self.config.responses_per_context, rng or self.rng
        indices = rng.integers(env.task.size("train"), size=-(-n // each)).repeat(each)[:n]
        return rollout(policy, env, {"sample_index": indices})

    def scores(self, batch: Batch) -> Tensor:
        """Scores (S,), lower where a response did not end by itself."""
        unended = torch.tensor([stop != "eos" for stop in batch.stops], device=batch.scores.device)
        return batch.scores - self.config.missing_eos_penalty * unended

    def seen(self, network: AnyNetwork, batch: Batch, rows: Tensor | None = None) -> Responses:
        """Responses with their contexts as ``network`` sees them: encoders that learn differ from the reference's."""
        responses = batch.responses(rows)
        if batch.observations is None:
            return responses
        kept = slice(None) if rows is None else batch.contexts[rows].unique().cpu()
        media = {k: v[kept].to(batch.tokens.device) for k, v in batch.observations.items()}
        fresh = network.encode({**media, "prompt": responses.prefix.prompt})
        return responses._replace(prefix=responses.prefix.with_media(fresh))

    def _rows(self, batch: Batch, targets: Targets) -> list[Tensor]:
        """``rows`` of one pass, with empty ones at the end where another process has more."""
        own = list(self.rows(batch, targets))
        return own + [torch.empty(0, dtype=torch.long)] * (max(processes.gather(len(own))) - len(own))

    def _step(self, batch: Batch, rows: Tensor, targets: Targets) -> tuple[float, dict[str, float]]:
        """One gradient step on some responses: this process's share in it, and what is logged."""
        self.optimiser.zero_grad(set_to_none=True)
        # A process with no rows still takes the step that the others take; where no responses differ nobody has pairs.
        idle = not len(rows)
        parts = [] if idle else rows.view(-1, self.together).chunk(self.config.micro_batches)
        weights = [self.weight(batch.mask[part.flatten()]) for part in parts]
        share, told = processes.share(sum(weights), batch.mask.device), dict[str, float]()
        loss = self._nothing(batch) if idle and sharding.asked() else torch.zeros((), device=batch.mask.device)
        for part, weight in zip(parts, weights, strict=True):
            (own, logged), of = self._loss(batch, part.flatten(), targets), weight / sum(weights)
            (own * (of * share)).backward()
            loss = loss + own.detach() * (of * share)
            told = {name: told.get(name, 0.0) + value.item() * of for name, value in logged.items()}
        _finite("loss", processes.total(loss.detach()))
        if not sharding.asked():
            processes.add_up(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        norm = sharding.full({"grad_norm": norm})["grad_norm"]
        _finite("norm of the gradient", norm)
        self.optimiser.step()
        return share, {} if idle else told | {"grad_norm": norm.item()}

    def _nothing(self, batch: Batch) -> Tensor:
        """A loss of nothing, and its backward pass, which meet those of other processes."""
        logp, values, _ = self.policy.evaluate(self.seen(self.policy.network, batch, torch.zeros(1, dtype=torch.long)))
        loss = 0.0 * (logp.sum() + values.sum())
        loss.backward()
        return loss.detach()

    def _loss(self, batch: Batch, rows: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some responses, and what is logged."""
        config, responses = self.config, self.seen(self.policy.network, batch, rows)
        mask, t = responses.mask, responses.mask.shape[1]
        chosen = {k: v[rows, :t] if v.ndim > 1 else v[rows] for k, v in targets.items()}
        logp, values, entropy = self.policy.evaluate(
            responses, entropy_gradient=getattr(config, "entropy_coef", 0.0) != 0
        )
        loss, logged = self.loss(logp, values, entropy, mask, chosen)
        if sharding.asked():
            loss = loss + 0.0 * values.sum()  # parts meet by position: every process has gradients of the same weights
        return loss, {**logged, "entropy": masked_mean(entropy, mask)}


def _finite(name: str, value: Tensor) -> None:
    """Refuse to take a step that would make the weights nan."""
    if not torch.isfinite(value):
        raise FloatingPointError(
            f"the {name} is {value.item()} and no step was taken: lower --learning-rate, or look at the rewards"
        )


def _distance(batch: Batch, ref_logp: Tensor) -> dict[str, float]:
    return {
        "kl": processes.mean((kls.k3(batch.logp, ref_logp) * batch.mask).sum(1)).item(),
        "kl_k1": processes.mean((kls.k1(batch.logp, ref_logp) * batch.mask).sum(1)).item(),
    }


def drift(logp: Tensor, old_logp: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far the policy has moved from the one that sampled; before the first step ratio 1 and KL 0."""
    return {
        "ratio": masked_mean(ratio_of(logp, old_logp), mask),
        "approx_kl": masked_mean(kls.k3(old_logp, logp), mask),
    }


def standardised(scores: Tensor) -> Tensor:
    """Scores (S,) with variance 1 and the mean that they had."""
    return whiten(scores, torch.ones_like(scores), keep_mean=True)
