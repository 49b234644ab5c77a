"""Ensembles of preference heads on one backbone: combined scores and the disagreement of members."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.models.checkpoints import WeightsError
from mmenv.models.transformer import Network
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.evidence import Evidence, flatten
from mmenv.rewards.preference.model import BATCH, PreferenceModel, read_kind, restored
from mmenv.rewards.preference.training import all_features, fit_head, head_scores, set_scale

COMBINATIONS = ("mean", "minimum", "variance")
MOST_REFERENCES = 2048  # reference scores that are saved; enough for a mean and a deviation


def combined(each: np.ndarray, combine: str, weight: float) -> np.ndarray:
    """Scores (members, n) -> (n,): mean, minimum, or mean - weight * variance (Coste et al. 2023).

    Raises:
        ValueError: ``combine`` is unknown.
    """
    if combine == "mean":
        return each.mean(0)
    if combine == "minimum":
        return each.min(0)
    if combine == "variance":
        return each.mean(0) - weight * each.var(0)
    raise ValueError(f"combine={combine!r} is unknown: give one of {COMBINATIONS}")


def preference_spread(raw: np.ndarray) -> float:
    """Mean over pairs of the members' standard deviation of P(one response is better).

    Args:
        raw: scores in nats (members, K) of one comparison; 0.0 for K = 1.
    """
    i, j = np.triu_indices(raw.shape[1], 1)
    return float((1 / (1 + np.exp(raw[:, j] - raw[:, i]))).std(0).mean()) if len(i) else 0.0


class EnsembleReward:
    """Preference models that share a backbone, as one reward function; features are computed once.

    Combined scores are normalised: those of the reference responses have mean 0 and standard deviation 1.

    Args:
        models: one or more, all with the same backbone object and the same kind of head, each normalised.
        combine: ``"mean"``, ``"minimum"`` or ``"variance"`` (the mean less ``weight`` times the variance).
        weight: of the variance.
        reference: the members' scores of reference responses, (members, n); None leaves combined scores as they are.
        name: name of the reward in ``info``.

    Attributes:
        temperature: divides members' differences in nats where they become probabilities; scores do not use it.

    Raises:
        ValueError: the models do not share a backbone, or ``combine`` is unknown.
    """

    def __init__(
        self,
        models: Sequence[PreferenceModel],
        combine: str = "mean",
        weight: float = 1.0,
        reference: np.ndarray | None = None,
        name: str = "ensemble",
    ) -> None:
        if not models:
            raise ValueError("an ensemble needs models: give at least one")
        first = models[0]
        if any(m.backbone is not first.backbone or m.head.kind != first.head.kind for m in models):
            raise ValueError(
                "the models of an ensemble differ in backbone or head: build them on one Network, one kind"
            )
        self.models, self.combine, self.weight, self.name = tuple(models), combine, weight, name
        self.temperature = 1.0
        self.reference = reference
        self.mean, self.std = 0.0, 1.0
        if reference is not None:
            scores = combined(reference, combine, weight)
            self.mean, self.std = float(scores.mean()), max(float(scores.std()), 1e-6)
        combined(np.zeros((1, 1)), combine, weight)  # an unknown ``combine`` fails here, not in an episode

    @torch.no_grad()
    def each(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Normalised scores of every member, float32 (members, n)."""
        parts = []
        for i in range(0, len(samples), BATCH):
            features, mask = self.models[0].features(samples[i : i + BATCH], responses[i : i + BATCH])
            parts.append(torch.stack([(m.head(features, mask) - m.mean) / m.std for m in self.models]))
        return torch.cat(parts, 1).numpy()

    def disagreement(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Standard deviation over the members, float32 (n,); a member's scores have standard deviation 1."""
        return self.each(samples, responses).std(0)

    def doubt(self, comparisons: Sequence[Comparison], samples: Sequence[Sample]) -> np.ndarray:
        """Disagreement of the members about which response is better, float32 (n,), for selecting what to label.

        The standard deviation over members of the probability of a preference, as in Christiano et al. (2017); with
        more than two responses its mean over the pairs. 0 for a single response.
        """
        contexts = [s for c, s in zip(comparisons, samples, strict=True) for _ in c.responses]
        raw = self.each(contexts, [r for c in comparisons for r in c.as_responses()])
        raw *= np.array([[m.std] for m in self.models], np.float32) / self.temperature
        ends = np.cumsum([len(c.responses) for c in comparisons])
        return np.array([preference_spread(part) for part in np.split(raw, ends[:-1], axis=1)], np.float32)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Normalised combined scores, float32 (n,)."""
        return self.score_of(self.each(samples, responses))

    def score_of(self, each: np.ndarray) -> np.ndarray:
        """Combine and normalise the members' scores (members, n) -> float32 (n,)."""
        return ((combined(each, self.combine, self.weight) - self.mean) / self.std).astype(np.float32)

    def with_combine(self, combine: str, weight: float = 1.0) -> EnsembleReward:
        """The same members, combined in another way and normalised on the same reference."""
        other = EnsembleReward(self.models, combine, weight, self.reference, self.name)
        other.temperature = self.temperature
        return other

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write all heads as float16 into one file, with what is needed to rebuild the ensemble."""
        first = self.models[0]
        config = {
            "head": first.head.kind, "backbone": first.backbone_name, "combine": self.combine, "weight": self.weight,
            "members": [[m.mean, m.std] for m in self.models], "temperature": self.temperature,
        }  # fmt: skip
        tensors: dict[str, Tensor] = {}
        for i, model in enumerate(self.models):
            tensors |= {f"{i}.{k}": v.detach().half().contiguous() for k, v in model.head.state_dict().items()}
        if self.reference is not None:
            tensors["reference"] = torch.from_numpy(self.reference[:, :MOST_REFERENCES]).half().contiguous()
        save_file(tensors, path, {"kind": "ensemble", "ensemble": json.dumps(config), **(metadata or {})})


def fit_ensemble(
    backbone: Network,
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    config: RewardConfig | None = None,
    members: int = 5,
    combine: str = "mean",
    weight: float = 1.0,
    kind: str = "token",
    backbone_name: str = "base",
    report: Callable[[int, int, float], None] | None = None,
) -> EnsembleReward:
    """Train an ensemble on judged comparisons; members differ by seed and by bootstrap of the comparisons.

    Args:
        backbone: frozen; its features are computed once.
        comparisons: judged.
        samples: that of each comparison.
        config: as in ``fit``; ``RewardConfig()`` where it is None.
        members: number of heads; a single one sees all comparisons once, as in ``fit``.
        combine, weight: as in ``EnsembleReward``.
        kind: of the heads.
        backbone_name: shipped name or path of the backbone, saved instead of its weights.
        report: called with (member, epoch, mean loss).

    Raises:
        ValueError: no comparison prefers a response, or ``members`` is below 1.
    """
    if members < 1:
        raise ValueError(f"members={members!r} is too small: give 1 or more")
    config = config or RewardConfig()
    contexts, responses, evidence = flatten(comparisons, samples, config)
    models = fresh_models(backbone, config.seed, members, kind, backbone_name, config.hidden)
    features, mask = all_features(models[0], contexts, responses)
    fit_members(models, features, mask, evidence, config, report)
    scores = [(head_scores(m.head, features, mask) - m.mean) / m.std for m in models]
    return EnsembleReward(models, combine, weight, torch.stack(scores).numpy())


def fit_members(
    models: Sequence[PreferenceModel],
    features: Tensor,
    mask: Tensor,
    evidence: Evidence,
    config: RewardConfig,
    report: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train every head on its own bootstrap of the evidence and normalise it; a single head sees all evidence once.

    Args:
        models: heads of one kind on one backbone.
        features: (N, T, size), of all responses.
        mask: (N, T)
        evidence: its rows are indices of the N responses.
        config: as in ``fit``.
        report: called with (member, epoch, mean loss).
    """
    for member, model in enumerate(models):
        rng = np.random.default_rng([config.seed, member, 1])
        drawn = rng.integers(len(evidence), size=len(evidence)) if len(models) > 1 else np.arange(len(evidence))
        drawn_evidence = evidence.take(torch.from_numpy(drawn))
        report_epoch = None if report is None else functools.partial(report, member)
        fit_head(model.head, features, mask, drawn_evidence, config, config.seed + member, report_epoch)
        set_scale(model, head_scores(model.head, features, mask))


def fresh_model(
    backbone: Network, kind: str, seed: int, backbone_name: str = "base", hidden: int = 128
) -> PreferenceModel:
    """An untrained preference model whose head is initialised from ``seed``; global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PreferenceModel(backbone, kind, backbone_name=backbone_name, hidden=hidden)


def fresh_models(
    backbone: Network, seed: int, members: int, kind: str = "token", backbone_name: str = "base", hidden: int = 128
) -> list[PreferenceModel]:
    """Untrained members of an ensemble, each with a head of its own."""
    seeds = [int(np.random.default_rng([seed, member]).integers(2**31)) for member in range(members)]
    return [fresh_model(backbone, kind, member_seed, backbone_name, hidden) for member_seed in seeds]


def load_ensemble(name_or_path: str | Path, combine: str | None = None, weight: float | None = None) -> EnsembleReward:
    """An ensemble by path; ``combine`` and ``weight`` are those it was saved with unless given.

    Raises:
        WeightsError: the file is missing, broken or of another kind.
    """
    path, tensors, config = read_kind(name_or_path, "ensemble", "an ensemble")
    scales, saved_combine, saved_weight = config.get("members"), config.get("combine"), config.get("weight")
    if not isinstance(scales, list) or not all(isinstance(s, list) and len(s) == 2 for s in scales):
        raise WeightsError(f"{path} has members={scales!r}, not a list of means and deviations: make or copy it again")
    if saved_combine not in COMBINATIONS or not isinstance(saved_weight, int | float):
        raise WeightsError(f"{path} has combine={saved_combine!r} and weight={saved_weight!r}: make or copy it again")
    models = []
    for i, (mean, std) in enumerate(scales):
        head = {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")}
        models.append(restored(path, config, head, mean, std))
    reference = tensors["reference"].numpy() if "reference" in tensors else None
    weight = saved_weight if weight is None else weight
    ensemble = EnsembleReward(models, combine or saved_combine, weight, reference, path.stem)
    ensemble.temperature = config.get("temperature", 1.0)
    return ensemble
