"""What an algorithm is to the trainer, and the learning loop of those that take gradient steps on a loss."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from agents.distributed.stepper import Logs, Stepper
from agents.maths.advantages import at_the_end, whiten
from agents.maths.kl import k1, k3
from agents.maths.losses import ratio_of
from agents.maths.means import Mean, batch_mean, batch_mean_and_var, batch_token_mean, token_mean
from agents.maths.turns import last_turns
from agents.policies.protocol import AnyNetwork
from agents.policies.token_policy import Evaluated, TokenPolicy
from agents.rollouts.batch import Batch, Minibatch, split_rows
from agents.rollouts.rollout import context_generator, draw_contexts, rollout
from agents.settings.shared import TrainConfig
from mmenv.envs.token_vector_env import TokenVectorEnv

M = TypeVar("M", bound=Minibatch)


class Algorithm:
    """Collects responses and updates a policy. Most subclass ``Learner``.

    Args:
        config: an instance of ``Config``.
        policy: learns.
        reference: the frozen start, to which the KL is measured.
        rng: draws the order of minibatches and whatever else is random.
        contexts: draws contexts, and nothing else: at a seed all algorithms see the same ones. None begins the stream
            of the config's seed.

    Attributes:
        Config: the dataclass that the command line is made from.
        on_policy: whether ``collect`` samples from the policy. Otherwise the trainer logs a fresh rollout of it.
        reward_is: the role of the reward, for the title of its curve.
        optimiser: its moments go into the checkpoint; None without gradient steps.
        finished: set by an algorithm that has nothing more to learn.
        say: shows a sentence to the person who started the run.
    """

    Config: ClassVar[type[TrainConfig]] = TrainConfig
    on_policy = True
    reward_is = "what was trained on"

    def __init__(
        self,
        config: Any,
        policy: TokenPolicy,
        reference: TokenPolicy,
        rng: np.random.Generator,
        contexts: np.random.Generator | None = None,
    ) -> None:
        self.config = config
        self.policy = policy
        self.reference = reference
        self.rng = rng
        self.contexts = context_generator(config.seed) if contexts is None else contexts
        self.finished = False
        self.say: Callable[[str], None] = print

    @property
    def optimiser(self) -> torch.optim.Optimizer | None:
        return None

    @classmethod
    def make_policy(cls, config: Any, network: AnyNetwork, budget: int, generator: torch.Generator) -> TokenPolicy:
        """The policy that learns."""
        return TokenPolicy(network, budget, config.temperature, config.train_encoder, generator, config.top_p)

    def prepare(self, env: TokenVectorEnv) -> None:
        """Read data that the algorithm learns from beside the environment; the trainer calls it before a run begins.

        Raises:
            ValueError: the data cannot be used.
        """

    def collect(self, env: TokenVectorEnv) -> Batch:
        """Responses to learn from: by default those of the policy, ``responses_per_context`` to each sample."""
        return self.play(self.policy, env)

    def play(self, policy: TokenPolicy, env: TokenVectorEnv, contexts: np.random.Generator | None = None) -> Batch:
        """Responses of a policy to random samples, ``responses_per_context`` to each.

        Args:
            policy: responds.
            env: the environment.
            contexts: draws the samples; None takes the algorithm's own. What is not learned from draws from another.
        """
        indices = draw_contexts(env, contexts or self.contexts, self.config.responses_per_context)
        return rollout(policy, env, {"sample_index": indices})

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        """Learn from a batch.

        Args:
            batch: the result of ``collect``.
            progress: in [0, 1], the share of the run that is over.

        Returns:
            metrics by name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def distance(self, batch: Batch) -> dict[str, float]:
        """KL of the policy to the reference in nats a response, estimated on responses of the policy."""
        raise NotImplementedError(f"{type(self).__name__} has no distance")

    def watches_responses(self, update: int) -> bool:
        """Whether the trainer samples the policy for the log at an update.

        Args:
            update: number of the update, from 1; asked only if the algorithm is not ``on_policy``.
        """
        return True

    def evaluation_policy(
        self, generator: torch.Generator, env: TokenVectorEnv, greedy: bool = False
    ) -> Callable[..., Any]:
        """The function ``act`` that evaluations call: without what an algorithm adds to decoding for its own sampling.

        Args:
            generator: source of randomness of its sampling.
            env: the training environment.
            greedy: take the likeliest token at each step instead of a sampled one.
        """
        policy = copy.copy(self.policy)
        policy.generator = generator
        policy.greedy = greedy
        return policy.act

    def networks(self) -> dict[str, AnyNetwork]:
        """Further networks that an exact resume needs, by name."""
        return {}

    def counters(self) -> dict[str, Any]:
        """State beside weights and moments that an exact resume needs, as plain JSON."""
        return {}

    def restore(self, counters: dict[str, Any]) -> None:
        """Restore the state that ``counters`` returned."""


class Learner(Algorithm, Generic[M]):
    """An algorithm that takes gradient steps. A new one is a subclass with ``Config``, ``data`` and ``loss``.

    Attributes:
        rows_per_unit: neighbouring rows that the loss needs together: 2 if it compares pairs.
    """

    rows_per_unit = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stepper = Stepper(self.policy, self.config, self.rows_per_unit, self.entropy_gradient)
        self.reduce = self.stepper.reduce  # sums over the parts of a batch; see agents/maths/means.py

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        return self.stepper.optimiser

    @property
    def entropy_gradient(self) -> bool:
        """Whether the loss uses the entropy; False saves memory."""
        return True

    def data(self, batch: Batch, ref_logp: Tensor) -> M:
        """The S responses of a batch with what the loss needs beside them.

        Args:
            batch: S responses.
            ref_logp: (S, T), their log-probabilities under the reference.
        """
        raise NotImplementedError(f"{type(self).__name__} has no data")

    def loss(self, new: Evaluated, old: M) -> tuple[Mean, Logs]:
        """The loss of B responses, and further means for the log.

        It must be a pure function of ``new``, ``old`` and the config: it is also called with zeros, to count items.

        Args:
            new: log-probabilities, values and entropies of the policy now, each (B, T).
            old: the rows of ``data`` for these responses, cut to the longest.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def minibatches(self, batch: Batch) -> Iterator[Tensor]:
        """Row indices of the minibatches of one epoch.

        By default contexts are in random order and the responses to one side by side. The sizes of minibatches differ
        by at most one; a minibatch may split the responses to one context.
        """
        yield from split_rows(self.shuffled(batch), self.config.minibatches)

    def shuffled(self, batch: Batch) -> Tensor:
        """Row indices (S,) of a batch, with contexts in random order and the responses to one side by side."""
        contexts = batch.contexts.cpu().numpy()
        rank = self.rng.permutation(int(contexts.max()) + 1)
        return torch.from_numpy(np.argsort(rank[contexts], kind="stable"))

    def prepare_batch(self, batch: Batch) -> Batch:
        """The batch that ``data`` takes: by default with the log-probabilities from sampling."""
        return batch

    def batch_logs(self, batch: Batch, data: M) -> dict[str, float]:
        """Further numbers for the log, of a whole batch before its first step."""
        return {}

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        """Learn from a batch: the central loop.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        learning_rate = self.stepper.set_learning_rate(progress)
        batch = self.prepare_batch(batch)
        ref_logp, ref_entropy = self.stepper.evaluate(self.reference, batch.responses())  # (S, T)
        with torch.no_grad():
            data = self.data(batch, ref_logp)
            batch_logs = self.batch_logs(batch, data)
        for _ in range(self.config.epochs):
            for indices in self.stepper.align(self.minibatches(batch)):
                self.stepper.step(data, indices, self.loss)
        steps = self.stepper.finish()
        return {
            "reference_entropy": batch_token_mean(ref_entropy, batch.mask, self.reduce).item(),
            "learning_rate": learning_rate,
            **batch_logs,
            **(self._kl(batch, ref_logp) if self.on_policy else {}),
            **_summarise(steps),
        }

    def distance(self, batch: Batch) -> dict[str, float]:
        return self._kl(batch, self.stepper.evaluate(self.reference, batch.responses(), entropy=False)[0])

    def rescored(self, batch: Batch) -> Batch:
        """A batch with log-probabilities from the parallel pass that the loss takes."""
        logp, _ = self.stepper.evaluate(self.policy, batch.responses(), entropy=False)
        return dataclasses.replace(batch, logp=logp)

    def scores(self, batch: Batch) -> Tensor:
        """Scores (S,) minus the penalty of responses that did not end with an end token."""
        unended = torch.tensor([stop != "eos" for stop in batch.stops], device=batch.scores.device)
        return batch.scores - self.config.missing_eos_penalty * unended

    def token_rewards(self, batch: Batch, whiten_rewards: bool = False) -> Tensor:
        """What is paid at each token, (S, T): the scores of ``scores`` at the end, and token rewards where they fell.

        Args:
            batch: S responses.
            whiten_rewards: whether the sums are scaled to variance 1, keeping their mean.
        """
        scores = raw = self.scores(batch)  # (S,)
        if whiten_rewards:
            scores = whiten(raw, torch.ones_like(raw), self.reduce, keep_mean=True)
        if batch.token_rewards is None:
            return at_the_end(scores, batch.mask)
        early = batch.token_rewards
        if whiten_rewards:
            early = early * torch.rsqrt(batch_mean_and_var(raw, self.reduce)[1] + 1e-8)
        return early + at_the_end(scores - early.sum(1), batch.mask)

    def turn_rewards(self, batch: Batch) -> Tensor:
        """What each reply of an episode earned by itself, (S,): its score of ``scores``.

        Of a task that pays at the end of an episode only, replies before the last one earned nothing but penalties.
        """
        scores = self.scores(batch)
        if not batch.pays_at_end:
            return scores
        return scores - batch.scores * ~last_turns(batch.episodes)

    def _kl(self, batch: Batch, ref_logp: Tensor) -> dict[str, float]:
        """Two estimates of the KL to the reference in nats a response."""
        estimates = {"kl": k3(batch.logp, ref_logp), "kl_k1": k1(batch.logp, ref_logp)}
        return {name: batch_mean((x * batch.mask).sum(1), self.reduce).item() for name, x in estimates.items()}


def ratio_and_kl(logp: Tensor, old_logp: Tensor, mask: Tensor) -> Logs:
    """How far the policy has moved from the one that sampled; before the first step the ratio is 1 and the KL 0."""
    return {
        "ratio": token_mean(ratio_of(logp, old_logp), mask),
        "approx_kl": token_mean(k3(old_logp, logp), mask),
    }


def _summarise(steps: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps of an update, and what the first step logged before the policy had moved."""
    if not steps:
        return {}
    first = {f"first_{name}": steps[0][name] for name in ("ratio", "approx_kl", "clip_fraction") if name in steps[0]}
    means = {name: float(np.mean([logs[name] for logs in steps])) for name in steps[0] if name != "ratio"}
    return {**first, **means}
