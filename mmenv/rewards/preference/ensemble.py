"""Ensembles of preference models begun as one network: combined scores and the disagreement of members."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.models.checkpoints import WeightsError
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.evidence import Evidence, flatten
from mmenv.rewards.preference.files import Backbone, own_tensors, read_reward, save_reward
from mmenv.rewards.preference.model import PreferenceModel, restored
from mmenv.rewards.preference.reading import PART, Reading
from mmenv.rewards.preference.training import all_states, raw_scores, references, set_scale, train

COMBINATIONS = ("mean", "minimum", "variance")


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
    """Preference models begun as one network, as one reward function; media are encoded once.

    Models whose heads alone were trained have one backbone, which reads once for all of them; models that were trained
    whole have a decoder each, which costs a pass each. Combined scores are normalised: those of the reference responses
    have mean 0 and standard deviation 1.

    Args:
        models: one or more, each normalised, all with the same encoders and tokenizer and the same kind of head.
        combine: ``"mean"``, ``"minimum"`` or ``"variance"`` (the mean less ``weight`` times the variance).
        weight: of the variance.
        reference: the members' scores of reference responses, (members, n); None leaves combined scores as they are.
        name: name of the reward in ``info``.

    Attributes:
        temperature: divides members' differences in nats where they become probabilities; scores do not use it.

    Raises:
        ValueError: the models do not share their encoders, or ``combine`` is unknown.
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
        if any(m.backbone.encoders is not first.backbone.encoders or m.head.kind != first.head.kind for m in models):
            raise ValueError(
                "the models of an ensemble differ in encoders or head: make them with fresh_models from one network"
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
        reader = self.models[0].reader
        parts = [slice(i, i + PART) for i in range(0, len(samples), PART)]
        return torch.cat([each_of(self.models, reader.read(samples[p], responses[p])) for p in parts], 1).numpy()

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
        """Write all members as float16 into one file, with what is needed to rebuild the ensemble.

        Of each it has the head and what differs from the parent: nothing more where heads alone were trained.
        """
        first = self.models[0]
        config = {
            "head": first.head.kind, "combine": self.combine, "weight": self.weight,
            "members": [[m.mean, m.std] for m in self.models], "temperature": self.temperature,
        }  # fmt: skip
        tensors: dict[str, Tensor] = {}
        for i, model in enumerate(self.models):
            of_member = own_tensors(model.head, model.backbone, model.parent.network)
            tensors |= {f"{i}.{name}": tensor for name, tensor in of_member.items()}
        if self.reference is not None:
            tensors["reference"] = torch.from_numpy(self.reference)
        about = {"kind": "ensemble", "ensemble": json.dumps(config), **(metadata or {})}
        save_reward(tensors, first.parent, path, about)


def each_of(models: Sequence[PreferenceModel], reading: Reading) -> Tensor:
    """Normalised scores (members, n); a backbone that several models share reads once."""
    states: dict[int, Tensor] = {}
    scores = []
    for model in models:
        if id(model.backbone) not in states:
            states[id(model.backbone)] = model.states(reading)
        raw = model.scored(reading, states[id(model.backbone)])
        scores.append((raw - model.mean) / model.std)
    return torch.stack(scores)


def fit_ensemble(
    parent: Backbone,
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    config: RewardConfig | None = None,
    members: int = 5,
    combine: str = "mean",
    weight: float = 1.0,
    report: Callable[[int, float, float], None] | None = None,
) -> EnsembleReward:
    """Train an ensemble on judged comparisons; members differ by seed and by bootstrap of the comparisons.

    Args:
        parent: what every member begins as: ``read_backbone("start")``.
        comparisons: judged.
        samples: that of each comparison.
        config: as in ``fit``; ``RewardConfig()`` where it is None.
        members: number of models; a single one sees all comparisons once, as in ``fit``.
        combine, weight: as in ``EnsembleReward``.
        report: called with the member and what ``fit`` reports.

    Raises:
        ValueError: no comparison prefers a response, or ``members`` is below 1.
    """
    if members < 1:
        raise ValueError(f"members={members!r} is too small: give 1 or more")
    config = config or RewardConfig()
    contexts, responses, evidence = flatten(comparisons, samples, config)
    models = fresh_models(parent, config, members)
    reading = models[0].reader.read_many(contexts, responses)
    fit_members(models, reading, evidence, config, report)
    return EnsembleReward(models, combine, weight, reference_scores(models, reading))


def fit_members(
    models: Sequence[PreferenceModel],
    reading: Reading,
    evidence: Evidence,
    config: RewardConfig,
    report: Callable[[int, float, float], None] | None = None,
) -> None:
    """Train every model on its own bootstrap of the evidence and normalise it; a single one sees all evidence once.

    Args:
        models: as ``fresh_models`` makes them.
        reading: of N responses.
        evidence: its rows are indices of the N responses.
        config: as in ``fit``.
        report: called with the member and what ``fit`` reports.
    """
    states = all_states(models[0], reading) if config.trained == "head" else None
    for member, model in enumerate(models):
        rng = np.random.default_rng([config.seed, member, 1])
        drawn = rng.integers(len(evidence), size=len(evidence)) if len(models) > 1 else np.arange(len(evidence))
        drawn_evidence = evidence.take(torch.from_numpy(drawn))
        report_member = None if report is None else functools.partial(report, member)
        train(model, reading, drawn_evidence, config, config.seed + member, report_member, states)
        set_scale(model, raw_scores(model, references(reading)))


@torch.no_grad()
def reference_scores(models: Sequence[PreferenceModel], reading: Reading) -> np.ndarray:
    """Normalised scores (members, n) of up to ``MOST_REFERENCES`` responses of a reading."""
    return each_of(models, references(reading)).numpy()


def fresh_models(parent: Backbone, config: RewardConfig, members: int = 1) -> list[PreferenceModel]:
    """Untrained models that begin as one network, each with a head of its own; global random state is left alone.

    All have the parent's backbone until they are trained whole.

    Args:
        parent: what every model begins as.
        config: says the kind and the size of the heads, and the seed.
        members: number of models.
    """
    models = []
    for member in range(members):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([config.seed, member]).integers(2**31)))
            models.append(PreferenceModel(parent, head=config.head, hidden=config.hidden))
    return models


def load_ensemble(name_or_path: str | Path, combine: str | None = None, weight: float | None = None) -> EnsembleReward:
    """An ensemble by path; ``combine`` and ``weight`` are those it was saved with unless given.

    Raises:
        WeightsError: the file or its parent is missing, broken or of another kind.
    """
    saved = read_reward(name_or_path, "ensemble", "an ensemble")
    path, tensors, config, _ = saved
    scales, saved_combine, saved_weight = config.get("members"), config.get("combine"), config.get("weight")
    if not isinstance(scales, list) or not all(isinstance(s, list) and len(s) == 2 for s in scales):
        raise WeightsError(f"{path} has members={scales!r}, not a list of means and deviations: make or copy it again")
    if saved_combine not in COMBINATIONS or not isinstance(saved_weight, int | float):
        raise WeightsError(f"{path} has combine={saved_combine!r} and weight={saved_weight!r}: make or copy it again")
    models = []
    for i, (mean, std) in enumerate(scales):
        of_member = {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")}
        described = {"head": config.get("head"), "mean": mean, "std": std}
        models.append(restored(saved._replace(tensors=of_member, settings=described)))
    reference = tensors["reference"].numpy() if "reference" in tensors else None
    weight = saved_weight if weight is None else weight
    ensemble = EnsembleReward(models, combine or saved_combine, weight, reference, path.stem)
    ensemble.temperature = config.get("temperature", 1.0)
    return ensemble
