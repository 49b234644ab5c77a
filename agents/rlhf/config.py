"""Settings of the loop of RLHF, and those of PPO that its rounds take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from agents.algorithms.ppo import PPOHyperparameters
from agents.settings.bounds import Checked, Count, EpisodeCount, Finite, NonNegative, Range, Share
from agents.settings.shared import BudgetConfig, ComputeConfig, EvaluationConfig, MonitorConfig, RolloutConfig


@dataclass(frozen=True, kw_only=True)
class RoundPPOConfig(PPOHyperparameters, MonitorConfig, EvaluationConfig, ComputeConfig, RolloutConfig, BudgetConfig):
    """PPO in each round: the settings that a round takes. The loop sets all others of ``PPOConfig``."""

    prefix: ClassVar[str] = "ppo."
    total_tokens: Count = 50_000
    """Tokens of each round."""
    eval_episodes: EpisodeCount = 512
    """Episodes of each evaluation, before and after each round."""
    final_split: str = field(default="test", init=False)


@dataclass(frozen=True, kw_only=True)
class RLHFConfig(Checked):
    """Rounds of sampling, labelling, learning a reward and PPO, each from the policy of the round before."""

    env_id: str = "mmenv/VQA-v0"
    """Id of the environment to train on."""
    rounds: Annotated[int, Range(1, 1000)] = 4
    """Number of rounds."""
    labels: Count = 2000
    """Comparisons that are labelled in each round."""
    annotator: Literal["synthetic", "browser"] = "synthetic"
    """Who labels: a synthetic annotator that knows gold, or people at the labelling page."""
    annotator_temperature: NonNegative = 0.1
    """Synthetic annotator: where the gold of two responses differs by this much, it prefers the better one 73 times in
    100."""
    flip: Share = 0.1
    """Synthetic annotator: share of the choices that are flipped."""
    length_bias: Finite = 0.0
    """Synthetic annotator: gold that one more token is worth to it."""
    select: Literal["random", "uncertain", "mixed"] = "random"
    """Pairs to label: random ones, those that the last round's ensemble disagrees on, or half of each."""
    pool: Count = 4
    """Pairs sampled for each one that is labelled, where --select chooses among them."""
    members: Count = 5
    """Preference models in the ensemble."""
    combine: Literal["mean", "minimum", "variance"] = "variance"
    """Reward of the ensemble: the mean, the minimum, or the mean minus --weight times the variance over members."""
    weight: NonNegative = 1.0
    """Weight of the variance over members that is subtracted from their mean."""
    epochs: Count = 3
    """Passes of the preference models over all labels so far."""
    held_out: Annotated[float, Range(0, 1, below=True)] = 0.15
    """Share of the labels that the reward does not see: agreement is measured on them, and the alarm's judge learns
    from them."""
    start: str | None = None
    """Weights of the first round's policy; None takes the shipped start of the task."""
    seed: Annotated[int, Range(0, 4_000_000)] = 0
    """Seed of everything random."""
    out: str | None = None
    """Folder of the loop; None makes runs/rlhf-ENV-SEED."""
    store: str | None = None
    """Database of the labels, a path or an SQLAlchemy URL; None makes feedback.db in the folder."""
    port: Annotated[int, Range(1, 65_535)] = 8765
    """Port of the labelling page."""
    overlap: Count = 1
    """Number of people who label the same pair, where people label."""
    ppo: RoundPPOConfig = field(default_factory=RoundPPOConfig)
    """PPO in each round."""

    def conflicts(self) -> Iterator[str]:
        if self.annotator == "browser":
            yield from self.without_effect("people answer", "annotator_temperature", "flip", "length_bias")
        else:
            yield from self.without_effect("annotator='synthetic'", "port", "overlap")
        if self.select == "random":
            yield from self.without_effect("select='random'", "pool")
        if self.combine != "variance":
            yield from self.without_effect(f"combine={self.combine!r}", "weight")
        if self.ppo.stop_on_alarm and not self.held_out:
            yield "held_out=0 leaves no judge: give --held-out above 0, or leave out --ppo.stop-on-alarm"

    @property
    def folder(self) -> str:
        """Path of the loop's folder."""
        return self.out or f"runs/rlhf-{self.env_id.replace('/', '-')}-{self.seed}"
