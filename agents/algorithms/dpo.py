"""Direct preference optimisation (Rafailov et al. 2023), on pairs of the policy's responses and on stored preferences.

If preferences are Bradley-Terry draws of the score, its optimum is that of PPO's penalised reward: the reference times
exp(score / (beta * label_temperature)). With ``loss="ipo"`` (identity preference optimisation, Azar et al. 2023) it is
the reference times exp(win rate / beta), where the win rate is that against a response from where the pairs come from:
it stays near the reference where every choice is certain.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.base import Learner
from agents.distributed import processes
from agents.distributed.stepper import Logs
from agents.maths.losses import dpo_loss, ipo_loss
from agents.maths.means import Mean, row_mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch, split_rows, to_responses, tokens_of
from agents.rollouts.judgements import read_stated
from agents.rollouts.rollout import context_generator
from agents.settings.bounds import Count, Divisor, Positive
from agents.settings.shared import OffPolicyConfig, OptimiserConfig, TrainConfig
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons

LOSSES = {"dpo": dpo_loss, "ipo": ipo_loss}


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(OptimiserConfig):
    """Learning from pairs of a better and a worse response."""

    kl_coef: Positive = 0.05
    """Beta of the KL-regularised reward that the preferences stand for."""
    label_temperature: Divisor = 1.0
    """Scores are divided by it before they become probabilities of preference."""
    loss: Literal["dpo", "ipo"] = "dpo"
    """Of a pair's margin: the logistic loss of DPO, or the squared one of IPO (Azar et al. 2023)."""


@dataclass(frozen=True, kw_only=True)
class DPOConfig(PreferenceConfig, TrainConfig):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the policy samples as it learns."""

    compared: ClassVar[int] = 2
    labels: Literal["soft", "drawn", "best"] = "soft"
    """The probability that the first of a pair is preferred, a choice drawn from it, or the better score's win."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.labels == "best":
            yield from self.without_effect("labels='best'", "label_temperature")


@dataclass(frozen=True, kw_only=True)
class OfflineDPOConfig(PreferenceConfig, OffPolicyConfig):
    """Direct preference optimisation on stored preferences."""

    compared: ClassVar[int] = 2
    train_encoder: bool = field(default=False, init=False)  # every context is read once, its encoder stays frozen
    kl_coef: Positive = 0.2
    """Beta of the KL-regularised reward; larger than online, where fresh pairs hold what old ones do not cover."""
    preferences: str | None = None
    """Comparisons on disk (JSON lines), or prompt, chosen and rejected; None samples pairs of the start, which the
    reward judges."""
    pairs: Count = 4000
    """Pairs that are sampled where none are stored; several processes share them."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.preferences is not None:
            why = "preferences are stored"
            yield from self.without_effect(why, "pairs", "label_temperature", "missing_eos_penalty")


@dataclass(frozen=True, kw_only=True)
class IPOConfig(OfflineDPOConfig):
    """Identity preference optimisation (Azar et al. 2023): offline DPO with a squared loss of the margin."""

    loss: Literal["dpo", "ipo"] = field(default="ipo", init=False)


@dataclass(frozen=True)
class DPOData(Minibatch):
    """Responses with their log-probabilities under the reference, (S,), and labels of pairs.

    Attributes:
        ref_logp: (S,), sums over tokens.
        preferred: (S,), at the first of each pair the probability that it is preferred, else nan.
    """

    ref_logp: Tensor
    preferred: Tensor


class DPO(Learner[DPOData]):
    """Raises the likelihood of preferred responses and lowers that of the others."""

    rows_per_unit = 2
    config: PreferenceConfig
    entropy_gradient = False

    def data(self, batch: Batch, ref_logp: Tensor) -> DPOData:
        first, second = pairs_of(batch).T
        scores = self.scores(batch)
        preferred = torch.full_like(batch.scores, float("nan"))
        preferred[first] = self.label(scores[first], scores[second])
        return DPOData(batch.responses(), (ref_logp * batch.mask).sum(1), preferred)

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        """Probability (P,) that the first of a pair is preferred, by their scores."""
        raise NotImplementedError(f"{type(self).__name__} has no labels")

    def minibatches(self, batch: Batch) -> Iterator[Tensor]:
        pairs = pairs_of(batch)
        order = torch.from_numpy(self.rng.permutation(len(pairs)))
        for minibatch in split_rows(pairs[order], self.config.minibatches):
            yield minibatch.flatten()

    def loss(self, new: Evaluated, old: DPOData) -> tuple[Mean, Logs]:
        log_ratio = (new.logp * old.mask).sum(1) - old.ref_logp  # (2 P,)
        margin = log_ratio[0::2] - log_ratio[1::2]  # (P,)
        preferred = old.preferred[0::2]
        loss = LOSSES[self.config.loss](margin, preferred, self.config.kl_coef)
        agreement = row_mean(((margin > 0) == (preferred > 0.5)).float())
        return loss, {f"{self.config.loss}_loss": loss, "implicit_agreement": agreement}


class OnlineDPO(DPO):
    """Pairs of the policy's responses, labelled by the reward (online DPO, Guo et al. 2024)."""

    Config = DPOConfig
    config: DPOConfig

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        config = self.config
        if config.labels == "best":
            return (first > second).float() + 0.5 * (first == second)
        probability = torch.sigmoid((first - second) / config.label_temperature)
        if config.labels == "soft":
            return probability
        return (torch.from_numpy(self.rng.random(len(probability))).to(probability) < probability).float()


class Pair(NamedTuple):
    """Two responses to a sample, the preferred one first."""

    sample: Sample
    better: Response
    worse: Response


class OfflineDPO(DPO):
    """Pairs that were labelled before; responses of the policy are only logged."""

    Config: ClassVar[type[TrainConfig]] = OfflineDPOConfig
    config: OfflineDPOConfig
    on_policy = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pairs: Batch | None = None  # a context for each pair, the preferred response first
        if self.config.preferences is not None:
            self.reward_is = "only watched"

    def watches_responses(self, update: int) -> bool:
        return self.config.watch_every is not None and update % self.config.watch_every == 0

    def prepare(self, env: TokenVectorEnv) -> None:
        if self.config.preferences is not None and self.pairs is None:
            self.pairs = self._as_batch(env, self._stored())

    def collect(self, env: TokenVectorEnv) -> Batch:
        self.prepare(env)
        if self.pairs is None:
            self.pairs = self._as_batch(env, self._sampled(env))
        n = int(self.pairs.contexts.max()) + 1
        return self.pairs.select(self.rng.permutation(n)[: max(1, self.config.num_envs // 2)])

    def label(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.ones_like(first)  # the chosen one comes first

    def _as_batch(self, env: TokenVectorEnv, pairs: Sequence[Pair]) -> Batch:
        """Pairs as a batch, a context each; pairs that are equal within the budget are left out."""
        budget = self.policy.budget

        def tokens(response: Response, length: int = budget) -> list[int]:
            return tokens_of(env.tokenizer, response, length)

        different = [p for p in pairs if tokens(p.better) != tokens(p.worse)]
        if equal := len(pairs) - len(different):
            self.say(f"{equal} of {len(pairs)} pairs are the same within {budget} tokens and are left out")
        if not different:
            raise ValueError(f"none of {len(pairs)} pairs differs within {budget} tokens: give others")
        cut = sum(len(tokens(response, budget + 1)) > budget for p in different for response in (p.better, p.worse))
        if cut:
            self.say(f"{cut} of {2 * len(different)} responses are cut to {budget} tokens")
        responses = [(p.better, p.worse) for p in different]
        return Batch.from_responses(self.policy, env, [p.sample for p in different], responses)

    def _stored(self) -> list[Pair]:
        """Every pair that a judgement of the file states; a message counts the judgements that state none."""
        assert self.config.preferences is not None
        path = Path(self.config.preferences)
        unit = ("pairs", "preference between two responses")
        stated = read_stated(path, read_comparisons(path), Comparison.preference_pairs, unit, self.say)
        return [Pair(sample, responses[a], responses[b]) for sample, responses, pairs in stated for a, b in pairs]

    def _sampled(self, env: TokenVectorEnv) -> list[Pair]:
        """Pairs of the reference with Bradley-Terry labels of the reward; the same after a resume.

        Each rank samples its share, and all ranks learn from all pairs.
        """
        wanted = -(-self.config.pairs // processes.size())
        rng = np.random.default_rng(self.config.seed)
        contexts = context_generator(self.config.seed)
        reference = copy.copy(self.reference)
        reference.generator = torch.Generator(self.policy.device).manual_seed(self.config.seed)
        pairs: list[Pair] = []
        rollouts = 0
        while len(pairs) < wanted:
            if rollouts == 50 * (1 + wanted // env.num_envs):
                raise ValueError(f"{len(pairs)} pairs that differ in {rollouts} rollouts: give fewer --pairs")
            rollouts += 1
            batch = self.play(reference, env, contexts)
            responses = to_responses(batch)
            scores = self.scores(batch)
            index = pairs_of(batch)
            odds = torch.sigmoid((scores[index[:, 0]] - scores[index[:, 1]]) / self.config.label_temperature)
            for (a, b), probability in zip(index.tolist(), odds.tolist(), strict=True):
                better, worse = (a, b) if rng.random() < probability else (b, a)
                pairs.append(Pair(batch.samples[a], responses[better], responses[worse]))
        return [pair for local in processes.gather(pairs[:wanted]) for pair in local][: self.config.pairs]


class IPO(OfflineDPO):
    """The same with IPO's loss."""

    Config = IPOConfig
    config: IPOConfig


def pairs_of(batch: Batch) -> Tensor:
    """Disjoint pairs of different responses to the same context, int64 (P, 2)."""
    unpaired: dict[int, list[int]] = {}
    pairs = []
    for i, context in enumerate(batch.contexts.tolist()):
        others = unpaired.setdefault(context, [])
        match = next((j for j in others if batch.texts[j] != batch.texts[i] or batch.stops[j] != batch.stops[i]), None)
        if match is None:
            others.append(i)
        else:
            others.remove(match)
            pairs.append((match, i))
    return torch.tensor(pairs, dtype=torch.long, device=batch.contexts.device).reshape(-1, 2)
