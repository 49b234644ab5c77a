"""How far a preference model can be believed: accuracy, calibration, annotators, length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmenv.arguments import require
from mmenv.data.sample import Sample
from mmenv.feedback.comparison import TIE, Comparison, ordered
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.preference.ensemble import EnsembleReward
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.statistics import Share, clustered_wilson

BINS = 10
TEMPERATURES = (0.05, 20.0)  # a model that is never wrong on the pairs it is fitted to would have none


class UndecidedError(ValueError):
    """Comparisons of which none says that one response is better than another."""


class Bin(NamedTuple):
    """Pairs of about the same confidence: its mean, and how often the model was right."""

    confidence: float
    accuracy: Share


class Scaling(NamedTuple):
    """Temperature scaling: accuracy stays as it is, how sure the model is gets nearer to how often it is right.

    Attributes:
        temperature: fitted on all pairs; above 1 the model was too sure.
        log_loss, calibration_error: with it, each pair at a temperature fitted on samples that are not its own: half of
            them at a time.
    """

    temperature: float
    log_loss: float
    calibration_error: float


@dataclass(frozen=True)
class Verdicts:
    """What a model says of n pairs that people put in order.

    Attributes:
        credit: float64 (n,), 1 where the reward that is paid is higher for the response people preferred, 1/2 where it
            is the same for both, else 0.
        probability: float64 (n,) that the model gives to the response people preferred, averaged over members.
        nats: float64 (members, n), differences of scores that it was made from.
        samples: int64 (n,), of which sample, by number.
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
    """Numbers of a preference model on judged comparisons that it was not trained on.

    Attributes:
        comparisons: judged ones.
        ties: those of them that were ties; they have no right answer and are left out below.
        accuracy: share of the stated pairs that the reward which is paid orders as people did; the same response twice
            is no pair, and a pair of equal rewards is half right. All intervals allow for several pairs of a sample.
        undecided: pairs of equal rewards.
        probability_accuracy: the same share for the probability averaged over an ensemble's members, of which log loss,
            calibration and temperature speak; an ensemble that pays its minimum orders pairs otherwise.
        log_loss: nats a pair; log 2 is a coin's.
        calibration_error: expected calibration error, ``BINS`` bins.
        bins: of the reliability plot.
        annotators: accuracy on the pairs of each.
        length: correlation of score with words over all responses, and within comparisons; accuracy where people
            preferred the longer response, the shorter one, one of the same length.
        scaling: what a temperature fitted on these comparisons makes of log loss and calibration error.
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
    """What differences of preferred and other are worth: 1 where positive, 1/2 where they are 0, else 0."""
    return np.asarray((np.sign(gap) + 1) / 2)


def caution(accuracy: Share) -> str | None:
    """What is to be said of a model that may be no better than a coin; None where its interval lies above one half."""
    if accuracy.low > 0.5:
        return None
    where = "includes" if accuracy.high >= 0.5 else "lies below"
    interval = f"{accuracy.low:.1%} to {accuracy.high:.1%}, {where} one half"
    return (
        f"the accuracy's interval over {accuracy.n} pairs, {interval}: the model may be no better than a coin. Label "
        "more before a policy is trained on it (docs/preference_models.md)"
    )


def reliability(probability: np.ndarray, bins: int = BINS, samples: np.ndarray | None = None) -> tuple[Bin, ...]:
    """The bins of a reliability plot that hold something.

    Args:
        probability: (n,) given to what turned out to be right, in [0, 1]; the confidence of a choice between two is
            that or its complement, whichever is greater.
        bins: of equal width over [1/2, 1].
        samples: (n,), of which sample each pair is; None takes pairs as independent.
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
    """Differences of scores (members, n) in the nats that the heads were trained in, before any temperature.

    A model's normalised scores are brought back; other functions are taken to be in nats.
    """
    models = reward.models if isinstance(reward, EnsembleReward) else (reward,)
    return np.array([[m.std if isinstance(m, PreferenceModel) else 1.0] for m in models]) * gaps


def probabilities(nats: np.ndarray, temperature: float) -> np.ndarray:
    """P(first preferred) of differences in nats (members, n), averaged over members as probabilities: (n,)."""
    return np.asarray((1 / (1 + np.exp(-nats / temperature))).mean(0))


def fit_temperature(nats: np.ndarray) -> float:
    """The temperature under which what people preferred was likeliest (Guo et al. 2017), within ``TEMPERATURES``.

    Args:
        nats: (members, n), the preferred response's score less the other's; several members have one temperature.
    """
    low, high = TEMPERATURES
    best = 1.0
    for _ in range(3):  # each grid is some thirty times as fine as the last
        grid = np.geomspace(low, high, 61)
        best = float(grid[np.argmin([log_loss(probabilities(nats, t)) for t in grid])])
        step = grid[1] / grid[0]
        low, high = max(TEMPERATURES[0], best / step), min(TEMPERATURES[1], best * step)
    return best


def log_loss(probability: np.ndarray) -> float:
    """Nats a pair, of the probability (n,) that was given to what was preferred."""
    return float(-np.log(np.maximum(probability, 1e-12)).mean())


def evaluate(reward: RewardFunction, comparisons: Sequence[Comparison], samples: Sequence[Sample]) -> Report:
    """The report of a model on judged comparisons.

    Args:
        reward: a preference model, an ensemble, or any reward function.
        comparisons: judged, and held out from training.
        samples: that of each comparison.

    Raises:
        UndecidedError: none of the comparisons puts two responses in order.
    """
    of = [s for c, s in zip(comparisons, samples, strict=True) for _ in c.responses]
    responses = [r for c in comparisons for r in c.as_responses()]
    each = reward.each(of, responses) if isinstance(reward, EnsembleReward) else reward(of, responses)[None]
    words = np.array([len(r.text.split()) for r in responses])
    starts = np.cumsum([0, *(len(c.responses) for c in comparisons)])
    scores = reward.score_of(each) if isinstance(reward, EnsembleReward) else each[0]
    found = _verdicts(reward, comparisons, starts, each, scores, words)
    if not found.annotators:
        raise UndecidedError(
            f"none of {len(comparisons)} comparisons puts two responses in order: hold more of them out"
        )
    bins, names = reliability(found.probability, samples=found.samples), np.array(found.annotators)
    return Report(
        comparisons=len(comparisons),
        ties=sum(c.choice == TIE for c in comparisons),
        accuracy=clustered_wilson(found.credit, found.samples),
        undecided=int((found.credit == 0.5).sum()),
        probability_accuracy=clustered_wilson(credit_of(found.probability - 0.5), found.samples),
        log_loss=log_loss(found.probability),
        calibration_error=calibration_error(bins),
        bins=bins,
        annotators={
            str(a): clustered_wilson(found.credit[names == a], found.samples[names == a]) for a in np.unique(names)
        },
        length=_length(scores, words, starts, found),
        scaling=scaled(found.nats, found.samples),
    )


def scaled(nats: np.ndarray, samples: np.ndarray) -> Scaling:
    """What one temperature makes of pairs.

    Args:
        nats: (members, n), the preferred response's score less the other's.
        samples: int64 (n,), of which sample; pairs of one sample are in the same half.
    """
    first, given = samples % 2 == 0, np.empty(nats.shape[1])
    for half, rest in ((first, ~first), (~first, first)):
        given[half] = probabilities(nats[:, half], fit_temperature(nats[:, rest]) if rest.any() else 1.0)
    return Scaling(fit_temperature(nats), log_loss(given), calibration_error(reliability(given)))


def _verdicts(
    reward: RewardFunction,
    comparisons: Sequence[Comparison],
    starts: np.ndarray,
    each: np.ndarray,
    scores: np.ndarray,
    words: np.ndarray,
) -> Verdicts:
    better, worse, names, of = [], [], [], []
    number = {name: k for k, name in enumerate(dict.fromkeys(c.sample_id for c in comparisons))}
    for comparison, start in zip(comparisons, starts[:-1], strict=True):
        said = comparison.as_responses()
        for a, b in ordered(comparison):
            if said[a] == said[b]:
                continue  # whoever told them apart tossed a coin
            better.append(start + a)
            worse.append(start + b)
            names.append(comparison.annotator or "unknown")
            of.append(number[comparison.sample_id])
    nats = in_nats(reward, each[:, better] - each[:, worse])
    temperature = reward.temperature if isinstance(reward, PreferenceModel | EnsembleReward) else 1.0
    given, lengths = probabilities(nats, temperature), np.stack([words[better], words[worse]], 1)
    credit = credit_of(scores[better] - scores[worse])
    return Verdicts(credit, given, nats, np.array(of, np.int64), lengths, tuple(names))


def _length(scores: np.ndarray, words: np.ndarray, starts: np.ndarray, found: Verdicts) -> dict[str, Any]:
    """The length-bias report."""
    of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    count = np.maximum(np.bincount(of), 1)
    own_score, own_words = (x - (np.bincount(of, x) / count)[of] for x in (scores, words))
    difference = found.lengths[:, 0] - found.lengths[:, 1]
    kinds = {"longer preferred": difference > 0, "shorter preferred": difference < 0, "same length": difference == 0}
    return {
        "correlation": correlation(scores, words),
        "correlation within comparisons": correlation(own_score, own_words),
        **{name: clustered_wilson(found.credit[at], found.samples[at]) for name, at in kinds.items()},
    }


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's; None where either does not vary."""
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.std(x) > 0 and np.std(y) > 0 else None


def plot_reliability(report: Report, path: str | Path) -> None:
    """Accuracy over confidence with its intervals, and how many pairs each bin holds.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    with require("agents"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(4.6, 4.8), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    x, shares = [b.confidence for b in report.bins], [b.accuracy for b in report.bins]
    reach = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
    above.plot([0.5, 1], [0.5, 1], color="#777777", linewidth=1, linestyle="--", label="as sure as right")
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
