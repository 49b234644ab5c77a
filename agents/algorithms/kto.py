"""Kahneman-Tversky optimisation (KTO, Ethayarajh et al. 2024, arXiv 2402.01306): DPO's reward, from single judgements.

Each response is desirable or undesirable. The loss pulls its log-ratio to the reference above or below a reference
point: the KL of the policy, estimated on responses that are paired with contexts of others. Where judgements of a
response differ, it follows the majority without a finite optimum. The paper estimates the reference point at
every step; here once for the batch of an update, before its first step, so that parts of a batch share it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.algorithms.base import Learner
from agents.distributed import processes
from agents.distributed.stepper import Logs
from agents.maths.losses import kto_loss
from agents.maths.means import Mean, batch_mean
from agents.policies.token_policy import Evaluated
from agents.rollouts.batch import Batch, Minibatch, to_responses, tokens_of
from agents.rollouts.judgements import read_stated
from agents.rollouts.rollout import context_generator
from agents.settings.bounds import Count, Divisor, Finite, NonNegative, Positive
from agents.settings.shared import OffPolicyConfig
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons


@dataclass(frozen=True, kw_only=True)
class KTOConfig(OffPolicyConfig):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on responses that are desirable or undesirable."""

    train_encoder: bool = field(default=False, init=False)  # every context is read once, its encoder stays frozen
    kl_coef: Positive = 0.1
    """Beta: how fast the value of a response saturates with its log-ratio to the start."""
    desirable_weight: NonNegative = 1.0
    """Weight of desirable responses (lambda_D)."""
    undesirable_weight: NonNegative = 1.0
    """Weight of undesirable responses (lambda_U)."""
    threshold: Finite | None = None
    """Scores above it are desirable, all others undesirable; None takes the mean of all scores."""
    label_temperature: Divisor = 1.0
    """Distances of scores to the threshold are divided by it before they become probabilities of a desirable label."""
    preferences: str | None = None
    """Comparisons on disk (JSON lines). Scores are compared with the threshold; of a choice or a ranking each pair
    states a desirable and an undesirable response. None samples responses of the start, which the reward judges."""
    judgements: Count = 4000
    """Responses that are sampled where none are stored; several processes share them."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.preferences is not None:
            why = "judgements are stored"
            yield from self.without_effect(why, "judgements", "label_temperature", "missing_eos_penalty")
        if not self.desirable_weight and not self.undesirable_weight:
            yield "desirable_weight=0 and undesirable_weight=0 leave nothing to learn: give one of them above 0"


class Judgement(NamedTuple):
    """A response to a sample, and whether it is desirable."""

    sample: Sample
    response: Response
    desirable: bool


@dataclass(frozen=True)
class KTOData(Minibatch):
    """Responses with their log-probabilities under the reference and their labels.

    Attributes:
        ref_logp: (S,), sums over tokens.
        desirable: (S,), 1 for desirable responses, 0 for undesirable ones.
        reference_point: (S,), the same for all.
    """

    ref_logp: Tensor
    desirable: Tensor
    reference_point: Tensor


class KTO(Learner[KTOData]):
    """Raises the likelihood of desirable responses and lowers that of the others; both effects saturate."""

    Config = KTOConfig
    config: KTOConfig
    entropy_gradient = False
    on_policy = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.judged: Batch | None = None  # a context for each response, whose score is 1 if it is desirable, else 0
        if self.config.preferences is not None:
            self.reward_is = "only watched"

    def watches_responses(self, update: int) -> bool:
        return self.config.watch_every is not None and update % self.config.watch_every == 0

    def prepare(self, env: TokenVectorEnv) -> None:
        if self.config.preferences is not None and self.judged is None:
            self.judged = self._as_batch(env, self._stored())

    def collect(self, env: TokenVectorEnv) -> Batch:
        self.prepare(env)
        if self.judged is None:
            self.judged = self._as_batch(env, self._sampled(env))
        n = len(self.judged.scores)
        return self.judged.select(self.rng.permutation(n)[: self.config.num_envs])

    def data(self, batch: Batch, ref_logp: Tensor) -> KTOData:
        point = self.reference_point(batch).expand(len(batch.scores))
        return KTOData(batch.responses(), (ref_logp * batch.mask).sum(1), batch.scores, point)

    def reference_point(self, batch: Batch) -> Tensor:
        """The mean of log(pi / ref) of responses to the next context of the batch, at least 0; a scalar."""
        contexts = (batch.contexts + 1) % len(batch.prefix.prompt)
        mismatched = batch.responses()._replace(contexts=contexts)
        logp, _ = self.stepper.evaluate(self.policy, mismatched, entropy=False)
        ref_logp, _ = self.stepper.evaluate(self.reference, mismatched, entropy=False)
        return batch_mean(((logp - ref_logp) * batch.mask).sum(1), self.reduce).clamp(min=0)

    def loss(self, new: Evaluated, old: KTOData) -> tuple[Mean, Logs]:
        config = self.config
        log_ratio = (new.logp * old.mask).sum(1) - old.ref_logp  # (B,)
        weights = (config.desirable_weight, config.undesirable_weight)
        loss = kto_loss(log_ratio, old.reference_point, old.desirable, config.kl_coef, weights)
        return loss, {"kto_loss": loss}

    def batch_logs(self, batch: Batch, data: KTOData) -> dict[str, float]:
        return {"reference_point": data.reference_point[0].item()}

    def _as_batch(self, env: TokenVectorEnv, judged: Sequence[Judgement]) -> Batch:
        """Judged responses as a batch, a context each."""
        budget = self.policy.budget
        cut = sum(len(tokens_of(env.tokenizer, j.response, budget + 1)) > budget for j in judged)
        if cut:
            self.say(f"{cut} of {len(judged)} responses are cut to {budget} tokens")
        desirable = sum(j.desirable for j in judged)
        self.say(f"{desirable:,} responses are desirable, {len(judged) - desirable:,} are undesirable")
        batch = Batch.from_responses(self.policy, env, [j.sample for j in judged], [[j.response] for j in judged])
        labels = torch.tensor([float(j.desirable) for j in judged]).to(batch.scores)
        return dataclasses.replace(batch, scores=labels)

    def _stored(self) -> list[Judgement]:
        """Every response that a judgement of the file calls desirable or undesirable."""
        assert self.config.preferences is not None
        path = Path(self.config.preferences)
        reading = read_comparisons(path)
        scores = [s for c in reading.comparisons if _is_scored(c) for s in c.scores or ()]
        threshold = self._threshold(scores)

        def labels(comparison: Comparison) -> list[tuple[int, bool]]:
            return labels_of(comparison, threshold)

        unit = ("labels of responses", "desirable or undesirable response")
        stated = read_stated(path, reading, labels, unit, self.say)
        return [Judgement(sample, responses[i], good) for sample, responses, items in stated for i, good in items]

    def _sampled(self, env: TokenVectorEnv) -> list[Judgement]:
        """Responses of the reference, labelled by how far the reward is above the threshold; the same after a resume.

        Each rank samples its share, and all ranks learn from all responses.
        """
        wanted = -(-self.config.judgements // processes.size())
        rng = np.random.default_rng(self.config.seed)
        contexts = context_generator(self.config.seed)
        reference = copy.copy(self.reference)
        reference.generator = torch.Generator(self.policy.device).manual_seed(self.config.seed)
        local: list[tuple[Sample, Response, float, float]] = []
        while len(local) < wanted:
            batch = self.play(reference, env, contexts)
            scores, draws = self.scores(batch).tolist(), rng.random(len(batch.samples)).tolist()
            local += zip(batch.samples, to_responses(batch), scores, draws, strict=True)
        scored = [row for part in processes.gather(local[:wanted]) for row in part][: self.config.judgements]
        threshold = self._threshold([score for _, _, score, _ in scored])
        distances = torch.tensor([score - threshold for _, _, score, _ in scored], dtype=torch.float64)
        odds = torch.sigmoid(distances / self.config.label_temperature).tolist()
        return [Judgement(s, r, draw < p) for (s, r, _, draw), p in zip(scored, odds, strict=True)]

    def _threshold(self, scores: Sequence[float]) -> float:
        """The threshold of the settings, or the mean of all scores."""
        if self.config.threshold is not None:
            return self.config.threshold
        return float(np.mean(scores)) if scores else 0.0


def labels_of(comparison: Comparison, threshold: float) -> list[tuple[int, bool]]:
    """The responses of a judged comparison by index, each with whether it is desirable.

    Scores are compared with the threshold. A choice or a ranking states pairs: of each pair the better response is
    desirable and the worse one is not, so that a response of several pairs comes several times.
    """
    if _is_scored(comparison):
        return [(i, score > threshold) for i, score in enumerate(comparison.scores or ())]
    return [label for better, worse in comparison.preference_pairs() for label in ((better, True), (worse, False))]


def _is_scored(comparison: Comparison) -> bool:
    """Whether an annotator's judgement consists of scores."""
    return comparison.annotator is not None and (comparison.choice, comparison.ranking) == (None, None)
