"""How reliable a preference model is: accuracy, calibration, annotators, length bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmenv.arguments import require
from mmenv.data.sample import Sample
from mmenv.feedback.comparison import TIE, Comparison
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.preference.ensemble import EnsembleReward
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.statistics import Share, clustered_wilson

BINS = 10
TEMPERATURES = (0.05, 20.0)  # bounds of the fit: it diverges for a model that is right on every pair


class UndecidedError(ValueError):
    """No comparison prefers one response to another."""


class Bin(NamedTuple):
    """Pairs of similar confidence: their mean confidence, and the share that the model ordered right."""

    confidence: float
    accuracy: Share


class Scaling(NamedTuple):
    """The effect of temperature scaling, which changes confidence and leaves accuracy (Guo et al. 2017).

    Attributes:
        temperature: fitted on all pairs; above 1 the model was overconfident.
        log_loss, calibration_error: cross-fitted: each pair is scaled by a temperature fitted on the other half of the
            samples.
    """

    temperature: float
    log_loss: float
    calibration_error: float


@dataclass(frozen=True)
class Verdicts:
    """A model's predictions for n pairs of responses that people put in order.

    Attributes:
        credit: float64 (n,), 1 where the preferred response has the higher reward, 1/2 where both have the same,
            else 0.
        probability: float64 (n,), of the preferred response, averaged over members.
        nats: float64 (members, n), differences of scores, from which the probability was computed.
        samples: int64 (n,), index of the sample.
        lengths: int64 (n, 2), words of the preferred and of the other response.
        annotators: n names.
    """

    credit: np.ndarray
    probability: np.ndarray
    nats: np.ndarray
    samples: np.ndarray
    lengths: np.ndarray
    annotators: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Metrics of a preference model on held-out comparisons.

    Attributes:
        comparisons: number of judged comparisons.
        ties: number of ties; they have no right answer and are left out of everything below.
        accuracy: share of preferences that the reward orders as people did; identical responses are left out, and equal
            rewards count one half. All intervals allow for several pairs of a sample.
        undecided: number of pairs with equal rewards.
        probability_accuracy: the same share for the probability averaged over an ensemble's members, which log loss,
            calibration and temperature describe; an ensemble that pays its minimum may order pairs differently.
        log_loss: nats a pair; log 2 for a coin.
        calibration_error: expected calibration error with ``BINS`` bins.
        bins: of the reliability plot.
        annotators: accuracy by annotator.
        length: correlation of score with words over all responses, and within comparisons; accuracy where people
            preferred the longer response, the shorter one, one of the same length.
        scaling: log loss and calibration error after temperature scaling on these comparisons.
    """

    comparisons: int
    ties: int
    accuracy: Share
    undecided: int
    probability_accuracy: Share
    log_loss: float
    calibration_error: float
    bins: tuple[Bin, ...]
    annotators: dict[str, Share]
    length: dict[str, Any]
    scaling: Scaling

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; named tuples become objects."""
        return {
            **asdict(self),
            "accuracy": self.accuracy.to_dict(),
            "probability_accuracy": self.probability_accuracy.to_dict(),
            "scaling": self.scaling._asdict(),
            "bins": [{"confidence": b.confidence, **b.accuracy.to_dict()} for b in self.bins],
            "annotators": {name: share.to_dict() for name, share in self.annotators.items()},
            "length": {k: v.to_dict() if isinstance(v, Share) else v for k, v in self.length.items()},
        }


def credit_of(gap: np.ndarray) -> np.ndarray:
    """Credit of score differences (preferred minus other): 1 where positive, 1/2 where 0, else 0."""
    return np.asarray((np.sign(gap) + 1) / 2)


def caution(accuracy: Share) -> str | None:
    """A warning about a model that may be no better than a coin; None where its interval lies above one half."""
    if accuracy.low > 0.5:
        return None
    where = "includes" if accuracy.high >= 0.5 else "lies below"
    interval = f"{accuracy.low:.1%} to {accuracy.high:.1%}, {where} one half"
    return (
        f"the accuracy's interval over {accuracy.n} pairs, {interval}: the model may be no better than a coin. Label "
        "more before a policy is trained on it (docs/preference_models.md)"
    )


def reliability(probability: np.ndarray, bins: int = BINS, samples: np.ndarray | None = None) -> tuple[Bin, ...]:
    """The bins of a reliability plot; empty ones are left out.

    Args:
        probability: (n,) of the preferred response, in [0, 1]; the confidence is this or its complement, whichever is
            greater.
        bins: number of bins of equal width over [1/2, 1].
        samples: (n,), index of each pair's sample; None treats pairs as independent.
    """
    confidence, right = np.maximum(probability, 1 - probability), credit_of(probability - 0.5)
    samples = np.arange(len(probability)) if samples is None else samples
    which = np.clip(((confidence - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    return tuple(
        Bin(float(confidence[which == b].mean()), clustered_wilson(right[which == b], samples[which == b]))
        for b in range(bins)
        if (which == b).any()
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of accuracy and confidence (Naeini et al. 2015; Guo et al. 2017)."""
    n = sum(b.accuracy.n for b in bins)
    return sum(b.accuracy.n * abs(b.accuracy.value - b.confidence) for b in bins) / n if n else math.nan


def in_nats(reward: RewardFunction, gaps: np.ndarray) -> np.ndarray:
    """Score differences (members, n) in nats, the units that the heads were trained in, before any temperature.

    The normalisation of preference models is undone; other reward functions are assumed to be in nats.
    """
    models = reward.models if isinstance(reward, EnsembleReward) else (reward,)
    return np.array([[m.std if isinstance(m, PreferenceModel) else 1.0] for m in models]) * gaps


def probabilities(nats: np.ndarray, temperature: float) -> np.ndarray:
    """P(first preferred) from differences in nats (members, n), averaged over members: (n,)."""
    return np.asarray((1 / (1 + np.exp(-nats / temperature))).mean(0))


def fit_temperature(nats: np.ndarray) -> float:
    """The temperature of greatest likelihood (Guo et al. 2017), within ``TEMPERATURES``, by three nested grids.

    Args:
        nats: (members, n), score of the preferred response minus that of the other; members share one temperature.
    """
    low, high = TEMPERATURES
    best = 1.0
    for _ in range(3):  # each grid is about thirty times as fine as the one before
        grid = np.geomspace(low, high, 61)
        best = float(grid[np.argmin([log_loss(probabilities(nats, t)) for t in grid])])
        step = grid[1] / grid[0]
        low, high = max(TEMPERATURES[0], best / step), min(TEMPERATURES[1], best * step)
    return best


def log_loss(probability: np.ndarray) -> float:
    """Mean -log of the probability (n,) of the preferred responses, in nats."""
    return float(-np.log(np.maximum(probability, 1e-12)).mean())


def evaluate(reward: RewardFunction, comparisons: Sequence[Comparison], samples: Sequence[Sample]) -> Report:
    """Evaluate a reward function on judged comparisons.

    Args:
        reward: a preference model, an ensemble, or any reward function.
        comparisons: judged, and not used in training.
        samples: that of each comparison.

    Raises:
        UndecidedError: no comparison prefers one response to another.
    """
    contexts = [s for c, s in zip(comparisons, samples, strict=True) for _ in c.responses]
    responses = [r for c in comparisons for r in c.as_responses()]
    words = np.array([len(r.text.split()) for r in responses])
    starts = np.cumsum([0, *(len(c.responses) for c in comparisons)])
    if isinstance(reward, EnsembleReward):
        member_scores = reward.each(contexts, responses)
        scores = reward.score_of(member_scores)
    else:
        scores = reward(contexts, responses)
        member_scores = scores[None]
    verdicts = _verdicts(reward, comparisons, starts, member_scores, scores, words)
    if not verdicts.annotators:
        raise UndecidedError(
            f"none of {len(comparisons)} comparisons puts two responses in order: hold more of them out"
        )
    bins = reliability(verdicts.probability, samples=verdicts.samples)
    names = np.array(verdicts.annotators)
    return Report(
        comparisons=len(comparisons),
        ties=sum(c.choice == TIE for c in comparisons),
        accuracy=clustered_wilson(verdicts.credit, verdicts.samples),
        undecided=int((verdicts.credit == 0.5).sum()),
        probability_accuracy=clustered_wilson(credit_of(verdicts.probability - 0.5), verdicts.samples),
        log_loss=log_loss(verdicts.probability),
        calibration_error=calibration_error(bins),
        bins=bins,
        annotators={
            str(a): clustered_wilson(verdicts.credit[names == a], verdicts.samples[names == a])
            for a in np.unique(names)
        },
        length=_length(scores, words, starts, verdicts),
        scaling=scaled(verdicts.nats, verdicts.samples),
    )


def scaled(nats: np.ndarray, samples: np.ndarray) -> Scaling:
    """Temperature scaling of pairs, cross-fitted on two halves.

    Args:
        nats: (members, n), score of the preferred response minus that of the other.
        samples: int64 (n,), index of the sample; pairs of one sample are in the same half.
    """
    first = samples % 2 == 0
    probability = np.empty(nats.shape[1])
    for half, rest in ((first, ~first), (~first, first)):
        probability[half] = probabilities(nats[:, half], fit_temperature(nats[:, rest]) if rest.any() else 1.0)
    return Scaling(fit_temperature(nats), log_loss(probability), calibration_error(reliability(probability)))


def _verdicts(
    reward: RewardFunction,
    comparisons: Sequence[Comparison],
    starts: np.ndarray,
    member_scores: np.ndarray,
    scores: np.ndarray,
    words: np.ndarray,
) -> Verdicts:
    better: list[int] = []
    worse: list[int] = []
    names: list[str] = []
    samples: list[int] = []
    index_of = {name: k for k, name in enumerate(dict.fromkeys(c.sample_id for c in comparisons))}
    for comparison, start in zip(comparisons, starts[:-1], strict=True):
        responses = comparison.as_responses()
        for a, b in comparison.preference_pairs():
            if responses[a] == responses[b]:
                continue  # a preference between identical responses is chance
            better.append(start + a)
            worse.append(start + b)
            names.append(comparison.annotator or "unknown")
            samples.append(index_of[comparison.sample_id])
    nats = in_nats(reward, member_scores[:, better] - member_scores[:, worse])
    temperature = reward.temperature if isinstance(reward, PreferenceModel | EnsembleReward) else 1.0
    return Verdicts(
        credit=credit_of(scores[better] - scores[worse]),
        probability=probabilities(nats, temperature),
        nats=nats,
        samples=np.array(samples, np.int64),
        lengths=np.stack([words[better], words[worse]], 1),
        annotators=tuple(names),
    )


def _length(scores: np.ndarray, words: np.ndarray, starts: np.ndarray, verdicts: Verdicts) -> dict[str, Any]:
    """The length-bias report."""
    comparison = np.repeat(np.arange(len(starts) - 1), np.diff(starts))  # of each response
    sizes = np.maximum(np.bincount(comparison), 1)
    centred_scores = scores - (np.bincount(comparison, scores) / sizes)[comparison]
    centred_words = words - (np.bincount(comparison, words) / sizes)[comparison]
    difference = verdicts.lengths[:, 0] - verdicts.lengths[:, 1]
    kinds = {"longer preferred": difference > 0, "shorter preferred": difference < 0, "same length": difference == 0}
    return {
        "correlation": correlation(scores, words),
        "correlation within comparisons": correlation(centred_scores, centred_words),
        **{name: clustered_wilson(verdicts.credit[at], verdicts.samples[at]) for name, at in kinds.items()},
    }


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's; None where either does not vary."""
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.std(x) > 0 and np.std(y) > 0 else None


def plot_reliability(report: Report, path: str | Path) -> None:
    """Plot accuracy over confidence with intervals, and the number of pairs in each bin.

    Raises:
        MissingExtraError: matplotlib is missing.
    """
    with require("agents"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(4.6, 4.8), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    x, shares = [b.confidence for b in report.bins], [b.accuracy for b in report.bins]
    reach = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
    above.plot([0.5, 1], [0.5, 1], color="#777777", linewidth=1, linestyle="--", label="perfect calibration")
    above.errorbar(x, [s.value for s in shares], reach, color="#0072B2", marker="o", capsize=2, label="95% intervals")
    above.set(ylabel="share right", xlim=(0.49, 1.01), ylim=(0, 1.03))
    title = f"{report.probability_accuracy.value:.1%} right, calibration error {report.calibration_error:.3f}"
    above.set_title(title, loc="left", fontsize=11, fontweight="bold")
    above.legend(frameon=False, loc="lower right")
    below.bar(x, [s.n for s in shares], width=0.03, color="#56B4E9")
    below.set(xlabel="how sure the model was", ylabel="pairs")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(path)
