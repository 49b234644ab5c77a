"""Training preference models on judged comparisons: the whole network with its head, or the head alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.models.transformer import Network
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.preference.config import RewardConfig, Trained
from mmenv.rewards.preference.evidence import Evidence, Likelihood, flatten
from mmenv.rewards.preference.files import with_decoder_copied
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.reading import PART, Reading

LEAST_GAP = 0.1  # of gold; responses that are closer count as tied
MOST_REFERENCES = 2048  # responses that a mean and a deviation are taken of
LARGEST_GRADIENT = 1.0  # norm of all gradients together; greater ones are scaled down
Report = Callable[[float, float], None]  # takes passes done and a loss
Scores = Callable[[Tensor], Tensor]  # int64 (m,), indices of responses -> their raw scores (m,)


@dataclass(frozen=True)
class Pairs:
    """Two responses to each of n samples.

    Attributes:
        samples: n samples.
        responses: n pairs.
        gold: (n, 2)
    """

    samples: Sequence[Sample]
    responses: Sequence[tuple[Response, Response]]
    gold: np.ndarray

    @property
    def distinct(self) -> np.ndarray:
        """Whether the gold of the two differs by at least ``LEAST_GAP``, bool (n,)."""
        return np.abs(self.gold[:, 0] - self.gold[:, 1]) >= LEAST_GAP - 1e-9

    def take(self, indices: np.ndarray) -> Pairs:
        """The pairs at ``indices``, int64 (m,)."""
        chosen = indices.tolist()
        return Pairs([self.samples[i] for i in chosen], [self.responses[i] for i in chosen], self.gold[indices])

    def flat(self) -> tuple[list[Sample], list[Response]]:
        """2n samples and responses: pair i is at 2i and 2i + 1."""
        return [s for s in self.samples for _ in range(2)], [r for pair in self.responses for r in pair]


def fit(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    config: RewardConfig | None = None,
    report: Report | None = None,
) -> None:
    """Train a model on judged comparisons, then normalise it on their responses.

    Choices, ties, rankings and scores may be mixed; undecided comparisons are left out.

    Args:
        model: trained further, in place; ``config.trained`` says whether its backbone is.
        comparisons: judged.
        samples: that of each comparison.
        config: ``RewardConfig()`` where it is None; what describes a new head is not used.
        report: called after every minibatch with the number of passes done, such as 1.25, and the pass's mean loss so
            far, in nats a comparison.

    Raises:
        ValueError: no comparison prefers a response.
    """
    config = config or RewardConfig()
    contexts, responses, evidence = flatten(comparisons, samples, config)
    reading = model.reader.read_many(contexts, responses)
    train(model, reading, evidence, config, config.seed, report)
    set_scale(model, raw_scores(model, references(reading)))


def train(
    model: PreferenceModel,
    reading: Reading,
    evidence: Evidence,
    config: RewardConfig,
    seed: int,
    report: Report | None = None,
    states: Tensor | None = None,
) -> Likelihood:
    """Maximise the likelihood of the evidence; returns the likelihood with its learned parameters.

    Args:
        model: trained in place, not normalised. Trained whole, it gets a decoder of its own, and its parent stays.
        reading: of N responses.
        evidence: its rows are indices of the N responses.
        config: how to train.
        seed: of the order of the comparisons.
        report: called after every minibatch with the number of passes done, such as 1.25, and the pass's mean loss so
            far, in nats a comparison.
        states: (N, T, width), the frozen backbone's, where the head alone is trained; None computes them.
    """
    likelihood = Likelihood(evidence, config)
    groups = [
        {"params": list(model.head.parameters()), "lr": config.lr, "weight_decay": config.l2},
        # The likelihood's few parameters must keep up with the head's many.
        {"params": list(likelihood.parameters()), "lr": 10 * config.lr, "weight_decay": 0.0},
    ]
    if config.trained == "head":
        scores = _head_scores(model, reading, all_states(model, reading) if states is None else states)
        _maximise(likelihood, evidence, reading.contexts, scores, groups, config, seed, report)
        return likelihood
    if model.backbone is model.parent.network:
        model.backbone = with_decoder_copied(model.parent.network)
    learned = decoder_parameters(model.backbone, config.trained)
    for parameter in learned:
        parameter.requires_grad_(True)
    groups.append({"params": learned, "lr": config.backbone_lr, "weight_decay": config.l2})
    _maximise(
        likelihood, evidence, reading.contexts, lambda rows: model.raw(reading.take(rows)), groups, config, seed, report
    )
    model.backbone.requires_grad_(False)
    return likelihood


def _head_scores(model: PreferenceModel, reading: Reading, states: Tensor) -> Scores:
    """Scores by a head of states (N, T, width) that do not change."""
    words = model.backbone.embed.weight.detach()
    return lambda rows: model.head(states[rows].float(), reading.tokens[rows], words, reading.mask[rows])


def _maximise(
    likelihood: Likelihood,
    evidence: Evidence,
    contexts: Tensor,
    scores: Scores,
    groups: list[dict[str, object]],
    config: RewardConfig,
    seed: int,
    report: Report | None,
) -> None:
    """The optimisation: AdamW with a one-cycle schedule over minibatches of comparisons.

    Args:
        likelihood: of the evidence, given scores.
        evidence: n comparisons.
        contexts: int64 (N,), the context of each response.
        scores: of responses, with gradients.
        groups: parameters with their learning rates.
        config: how to train.
        seed: of the order of the comparisons.
        report: as in ``train``.
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(groups)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    steps = config.epochs * -(-len(evidence) // config.batch)
    rates = [group["lr"] for group in optimiser.param_groups]
    # A cycle needs steps to rise and to fall; a handful of comparisons is learned at the full rate.
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = one_cycle(optimiser, rates, total_steps=steps, pct_start=0.1) if steps >= 20 else None
    for epoch in range(config.epochs):
        total, seen = 0.0, 0
        for at in torch.split(_order(evidence, contexts, rng), config.batch):
            minibatch = evidence.take(at)
            responses, rows = torch.unique(minibatch.rows, return_inverse=True)  # padding repeats responses
            found = scores(responses).float()[rows]
            loss = likelihood(found, minibatch).mean() + config.centre * level(found, minibatch.real).square().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            optimiser.step()
            if schedule is not None:
                schedule.step()
            total += loss.item() * len(at)
            seen += len(at)
            if report is not None:
                report(epoch + seen / len(evidence), total / seen)


def level(scores: Tensor, real: Tensor) -> Tensor:
    """The mean score (n,) of each comparison's responses: scores (n, K), real (n, K) False on padding."""
    return torch.where(real, scores, 0.0).sum(1) / real.sum(1)


def _order(evidence: Evidence, contexts: Tensor, rng: np.random.Generator) -> Tensor:
    """A random order of the comparisons, int64 (n,), in which those of one context are neighbours: it is read once."""
    context = contexts[evidence.rows[:, 0]].numpy()
    place = rng.permutation(int(context.max()) + 1)[context]
    shuffled = rng.permutation(len(place))
    return torch.from_numpy(shuffled[np.argsort(place[shuffled], kind="stable")])


def decoder_parameters(network: Network, trained: Trained = "all") -> list[nn.Parameter]:
    """The parameters that training changes: never the encoders of media, which the cached media tokens depend on."""
    if trained == "upper":
        upper = network.layers[len(network.layers) // 2 :]
        return [parameter for module in (*upper, network.norm) for parameter in module.parameters()]
    encoders = {id(parameter) for parameter in network.encoder_parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in encoders]


@torch.no_grad()
def all_states(model: PreferenceModel, reading: Reading) -> Tensor:
    """States (N, T, width) of all responses in half precision."""
    longest = reading.tokens.shape[1]
    states = torch.zeros(*reading.tokens.shape, model.backbone.config.width, dtype=torch.half)
    for rows in torch.split(torch.arange(len(reading.tokens)), PART):
        part = model.states(reading.take(rows))
        states[rows, : min(longest, part.shape[1])] = part.half()
    return states


@torch.no_grad()
def raw_scores(model: PreferenceModel, reading: Reading) -> Tensor:
    """Scores (n,) of all responses before normalisation, in nats."""
    parts = torch.split(torch.arange(len(reading.tokens)), PART)
    return torch.cat([model.raw(reading.take(rows)) for rows in parts])


def references(reading: Reading) -> Reading:
    """``MOST_REFERENCES`` responses at equal distances, or all, to take a mean and a deviation of."""
    n = len(reading.tokens)
    return reading.take(torch.linspace(0, n - 1, min(n, MOST_REFERENCES)).round().long())


def set_scale(model: PreferenceModel, scores: Tensor) -> None:
    """Set the model's mean and standard deviation to those of raw scores (n,)."""
    model.mean, model.std = scores.mean().item(), max(scores.std().item(), 1e-6)


def agreement(model: RewardFunction, pairs: Pairs) -> tuple[float, float]:
    """Share of distinct pairs that the model orders as gold does, and the share of pairs that are ties in gold.

    Equal scores of a distinct pair count as a miss.
    """
    samples, responses = pairs.flat()
    scores = model(samples, responses).reshape(-1, 2)
    keep = pairs.distinct
    right = (scores[:, 1] - scores[:, 0]) * (pairs.gold[:, 1] - pairs.gold[:, 0]) > 0
    return float(right[keep].mean()), float(1 - keep.mean())
