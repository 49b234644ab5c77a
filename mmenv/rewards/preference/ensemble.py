"""Several heads on one backbone: their mean, their minimum, or their mean less their variance; and their doubt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmenv.data.sample import Response, Sample
from mmenv.feedback.comparison import Comparison
from mmenv.models.checkpoints import WeightsError, metadata_object, read_tensors, resolve
from mmenv.models.transformer import Network
from mmenv.rewards.base import RewardFunction
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.evidence import Evidence, flatten
from mmenv.rewards.preference.model import PreferenceModel, load_preference_model, restored
from mmenv.rewards.preference.training import all_features, fit_head, head_scores, set_scale

COMBINATIONS = ("mean", "minimum", "variance")
REMEMBERED = 2048


def combined(each: np.ndarray, combine: str, weight: float) -> np.ndarray:
    """Scores (members, n) -> (n,): mean, minimum, or mean - weight * variance (Coste et al. 2023).

    Raises:
        ValueError: ``combine`` is none of these.
    """
    if combine == "mean":
        return each.mean(0)
    if combine == "minimum":
        return each.min(0)
    if combine == "variance":
        return each.mean(0) - weight * each.var(0)
    raise ValueError(f"combine={combine!r} is none of {COMBINATIONS}: give one of these")


def preference_spread(raw: np.ndarray) -> float:
    """Raw scores (members, K) of one comparison -> how far the members differ in which response is better."""
    i, j = np.triu_indices(raw.shape[1], 1)
    return float((1 / (1 + np.exp(raw[:, j] - raw[:, i]))).std(0).mean()) if len(i) else 0.0


class EnsembleReward:
    """Preference models that share a backbone, read as one reward function; features are computed once.

    Combined scores are normalised: those of the reference responses have mean 0 and standard deviation 1.

    Args:
        models: one or more, all with the same backbone object and the same kind of head, each normalised.
        combine: ``"mean"``, ``"minimum"`` or ``"variance"`` (the mean less ``weight`` times the variance).
        weight: of the variance.
        reference: the members' scores of reference responses, (members, n); None leaves combined scores as they are.
        name: name of the reward in ``info``.

    Attributes:
        temperature: what members' differences in nats are divided by to become probabilities; scores are as they are.

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
            raise ValueError("an ensemble of no models: give at least one")
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
        combined(np.zeros((1, 1)), combine, weight)  # an unknown way fails here and not in an episode

    @torch.no_grad()
    def each(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Normalised scores of every member, float32 (members, n)."""
        parts = []
        for i in range(0, len(samples), 512):
            features, mask = self.models[0].features(samples[i : i + 512], responses[i : i + 512])
            parts.append(torch.stack([(m.head(features, mask) - m.mean) / m.std for m in self.models]))
        return torch.cat(parts, 1).numpy()

    def disagreement(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Standard deviation over the members, float32 (n,); a member's scores have standard deviation 1."""
        return self.each(samples, responses).std(0)

    def doubt(self, comparisons: Sequence[Comparison], samples: Sequence[Sample]) -> np.ndarray:
        """How far the members differ in which response is better, (n,): what to ask people about.

        The standard deviation over members of the probability of a preference, as in Christiano et al. (2017); with
        more than two responses its mean over the pairs. 0 for a single response.
        """
        of = [s for c, s in zip(comparisons, samples, strict=True) for _ in c.responses]
        raw = self.each(of, [r for c in comparisons for r in c.as_responses()])
        raw *= np.array([[m.std] for m in self.models], np.float32) / self.temperature
        ends = np.cumsum([len(c.responses) for c in comparisons])
        return np.array([preference_spread(part) for part in np.split(raw, ends[:-1], axis=1)], np.float32)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        """Normalised combined scores, float32 (n,)."""
        return self.score_of(self.each(samples, responses))

    def score_of(self, each: np.ndarray) -> np.ndarray:
        """The members' scores (members, n) as the ensemble combines and normalises them, float32 (n,)."""
        return ((combined(each, self.combine, self.weight) - self.mean) / self.std).astype(np.float32)

    def with_combine(self, combine: str, weight: float = 1.0) -> EnsembleReward:
        """The same members read in another way, normalised on the same reference."""
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
            tensors["reference"] = torch.from_numpy(self.reference[:, :REMEMBERED]).half().contiguous()
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
        backbone: frozen, read once.
        comparisons: judged.
        samples: that of each comparison.
        config: as in ``fit``; ``RewardConfig()`` where it is None.
        members: how many; a single one sees all comparisons once, as in ``fit``.
        combine, weight: as in ``EnsembleReward``.
        kind: of the heads.
        backbone_name: shipped name or path of the backbone, saved instead of its weights.
        report: called with (member, epoch, mean loss).

    Raises:
        ValueError: none of the comparisons says what is better, or ``members`` is below 1.
    """
    if members < 1:
        raise ValueError(f"members={members!r} is not positive: give 1 or more")
    config = config or RewardConfig()
    of, responses, evidence = flatten(comparisons, samples, config)
    models = fresh_models(backbone, config.seed, members, kind, backbone_name, config.hidden)
    features, mask = all_features(models[0], of, responses)
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
    """Train every head on its own bootstrap of the evidence and normalise it; a single one sees all of it once.

    Args:
        models: heads of one kind on one backbone.
        features: (N, T, size), of all responses.
        mask: (N, T)
        evidence: its rows count the responses.
        config: as in ``fit``.
        report: called with (member, epoch, mean loss).
    """
    for member, model in enumerate(models):
        rng = np.random.default_rng([config.seed, member, 1])
        drawn = rng.integers(len(evidence), size=len(evidence)) if len(models) > 1 else np.arange(len(evidence))
        told = None if report is None else _of_member(report, member)
        fit_head(model.head, features, mask, evidence.take(torch.from_numpy(drawn)), config, config.seed + member, told)
        set_scale(model, head_scores(model.head, features, mask))


def fresh_model(
    backbone: Network, kind: str, seed: int, backbone_name: str = "base", hidden: int = 128
) -> PreferenceModel:
    """An untrained preference model whose head begins where ``seed`` says; global randomness is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PreferenceModel(backbone, kind, backbone_name=backbone_name, hidden=hidden)


def fresh_models(
    backbone: Network, seed: int, members: int, kind: str = "token", backbone_name: str = "base", hidden: int = 128
) -> list[PreferenceModel]:
    """Untrained members of an ensemble, each with a head of its own."""
    seeds = [int(np.random.default_rng([seed, member]).integers(2**31)) for member in range(members)]
    return [fresh_model(backbone, kind, one, backbone_name, hidden) for one in seeds]


def _of_member(report: Callable[[int, int, float], None], member: int) -> Callable[[int, float], None]:
    return lambda epoch, loss: report(member, epoch, loss)


def load_ensemble(name_or_path: str | Path, combine: str | None = None, weight: float | None = None) -> EnsembleReward:
    """An ensemble by path; ``combine`` and ``weight`` are those it was saved with unless given.

    Raises:
        WeightsError: the file is missing, broken or of another kind.
    """
    path = resolve(name_or_path)
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != "ensemble":
        raise WeightsError(f"{path} holds {metadata.get('kind', 'something else')!r}, not an ensemble")
    config = metadata_object(metadata, "ensemble", path)
    scales, told = config.get("members"), (config.get("combine"), config.get("weight"))
    if not isinstance(scales, list) or not all(isinstance(s, list) and len(s) == 2 for s in scales):
        raise WeightsError(f"{path} has members={scales!r}, no list of means and deviations: make or copy it again")
    if told[0] not in COMBINATIONS or not isinstance(told[1], int | float):
        raise WeightsError(f"{path} has combine={told[0]!r} and weight={told[1]!r}: make or copy it again")
    models = []
    for i, (mean, std) in enumerate(scales):
        head = {k.removeprefix(f"{i}."): v for k, v in tensors.items() if k.startswith(f"{i}.")}
        models.append(restored(path, config, head, mean, std))
    reference = tensors["reference"].numpy() if "reference" in tensors else None
    ensemble = EnsembleReward(models, combine or told[0], told[1] if weight is None else weight, reference, path.stem)
    ensemble.temperature = config.get("temperature", 1.0)
    return ensemble


def load_reward(name_or_path: str | Path) -> RewardFunction:
    """A preference model or an ensemble, by shipped name or path; a transformers model, by its folder.

    Raises:
        WeightsError: the file is missing, broken or of another kind.
        ModuleNotFoundError: a folder is given and transformers is missing.
    """
    if Path(name_or_path).is_dir():
        from mmenv.rewards.judges.classifier import load_classifier

        return load_classifier(name_or_path)
    if read_tensors(resolve(name_or_path))[1].get("kind") == "ensemble":
        return load_ensemble(name_or_path)
    return load_preference_model(name_or_path)
