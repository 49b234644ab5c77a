"""Settings of training runs: frozen dataclasses from which the command line is made, and the one home of defaults.

Each group of settings is a class; the settings of an algorithm inherit from the groups that it has. A setting that an
algorithm fixes is a field with ``init=False``: it has a value, but neither an argument nor an option. Options are
listed from the last base to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from agents.settings.bounds import (
    Checked,
    ClipRange,
    Count,
    Divisor,
    EpisodeCountOrZero,
    LaneCount,
    NonNegative,
    Nucleus,
    Positive,
    Rank,
    Seed,
    Share,
    Threads,
)
from agents.settings.ids import task_name


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Where a run trains, from what start, and where it writes."""

    env_id: str = "mmenv/VQA-v0"
    """Id of the environment to train on."""
    dataset: str | None = None
    """Data of your own: a folder or file as python -m mmenv check-data takes it; None takes the embedded world."""
    reward: str = "preference"
    """Reward to train against: preference, preference-weak, gold, a path of saved weights, a server, or a metric of
    references: cider, bleu, rouge-l, wer, exact, vqa."""
    start: str | None = None
    """Policy to start from: a shipped name, a file, or the folder of a transformers model or of a run. None takes the
    task's shipped start, or with a dataset of other words the shipped base, whose new words begin at random."""
    seed: Seed = 0
    """Seed of everything random."""
    out: str | None = None
    """Folder of the run; None makes runs/ALGORITHM-ENV-SEED."""
    overwrite: bool = False
    """Whether a run that the folder already holds is deleted."""

    @property
    def task_name(self) -> str:
        """Name of the task behind ``env_id`` in shipped weights."""
        return task_name(self.env_id)

    def folder(self, algorithm: str) -> str:
        """Path of the run's folder."""
        return self.out or f"runs/{algorithm.replace(':', '.')}-{self.env_id.replace('/', '-')}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(Checked):
    """When a run ends."""

    total_tokens: Count = 200_000
    """Tokens to train on: actions of live lanes, end tokens included, padding never; the last update may exceed it."""
    stop_at_kl: Positive | None = None
    """The run also ends once an update's KL to the start reaches this many nats a response."""
    max_seconds: Positive | None = None
    """The run also ends after so many seconds of training. Its learning rate then follows the clock: no two such runs
    are the same to the last bit."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(Checked):
    """How the responses of an update are sampled and scored."""

    compared: ClassVar[int] = 1  # responses to one context that the algorithm compares with each other

    num_envs: LaneCount = 256
    """Responses of one update, sampled side by side."""
    responses_per_context: Count = 4
    """Responses to each context (the group size); the context is encoded once for all of them."""
    temperature: Divisor = 1.0
    """Logits are divided by it when sampling, and in every pass that follows."""
    top_p: Nucleus = 1.0
    """Nucleus of sampling: only the likeliest tokens with this total probability, in every pass that follows too."""
    missing_eos_penalty: NonNegative = 1.0
    """Subtracted from the score of a response that used up its budget without an end token."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if isinstance(self, OptimiserConfig) and self.minibatches > self.num_envs:
            yield f"minibatches={self.minibatches} exceeds num_envs={self.num_envs}: give fewer --minibatches"
        if self.responses_per_context < self.compared:
            yield (
                f"responses_per_context={self.responses_per_context}: responses to one context are compared with each "
                f"other, give --responses-per-context {self.compared} or more"
            )
        elif self.compared > 1 and self.num_envs % self.responses_per_context == 1:
            yield (
                f"num_envs={self.num_envs} in groups of responses_per_context={self.responses_per_context} leaves one "
                "response with nothing to compare it with: make --num-envs a multiple of --responses-per-context"
            )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(Checked):
    """How gradient steps are taken."""

    epochs: Count = 1
    """Passes over the responses of one update."""
    minibatches: Count = 2
    """Gradient steps of one pass."""
    learning_rate: Positive = 3e-4
    """Adam's step size at the beginning of the run."""
    final_learning_rate: NonNegative = 0.0
    """Adam's step size at the end of the run; in between it changes linearly."""
    adam_eps: Positive = 1e-5
    """Adam's epsilon."""
    max_grad_norm: Positive = 1.0
    """Gradients with a greater norm are scaled down to this one."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Checked):
    """Where the networks run, and in what portions."""

    device: str = "cpu"
    """Device of the networks: cpu, cuda."""
    threads: Threads | None = None
    """Torch threads; None leaves torch's own choice. A resumed run takes the number that it began with."""
    micro_batches: Count = 1
    """Parts in which the gradient of a minibatch is computed and added up, to save memory; the step is the same."""
    train_encoder: bool = False
    """Whether image and audio encoders learn too; frozen, they run once for each context."""


@dataclass(frozen=True, kw_only=True)
class TransformersConfig(Checked):
    """How a model of transformers is loaded and trained, where --start names one."""

    lora_rank: Rank = 16
    """With a model of transformers: rank of the adapters that learn; 0 trains the language model itself."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """With a model of transformers: type of its weights; adapters and value head stay float32."""
    gradient_checkpointing: bool = False
    """With a model of transformers: recompute activations in the backward pass, to save memory."""
    image_encoder: str | None = None
    """With a model of transformers that reads text alone: network, by name (base) or path, whose image encoder feeds
    it."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Checked):
    """What is measured and drawn before and after training."""

    eval_episodes: EpisodeCountOrZero = 512
    """Episodes of each evaluation, before and after training; 0 skips both."""
    final_split: str = "test"
    """Split of the evaluations before and after training; tuning takes validation."""
    also: tuple[str, ...] = ()
    """Further ids of the task, Shifted or Hard, on which the trained policy is evaluated as well."""
    metrics: tuple[str, ...] = ()
    """Metrics of the references that evaluations report beside reward: cider, bleu, rouge-l, wer, exact, vqa."""
    pictures: bool = True
    """Whether curves.png and samples.png are drawn."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if not self.eval_episodes:
            yield from self.without_effect("eval_episodes=0", "also", "metrics")


@dataclass(frozen=True, kw_only=True)
class MonitorConfig(Checked):
    """What happens between updates: evaluations, checkpoints, the end by an alarm."""

    eval_every: Count | None = None
    """Updates between evaluations in the middle of training, which go into metrics.jsonl; None makes none."""
    eval_split: str = "validation"
    """Split that the evaluations of --eval-every use."""
    stop_on_alarm: bool = False
    """Whether the run ends when the hacking alarm goes off; otherwise it is reported and marked in the curves."""
    checkpoint_every: Count = 10
    """Updates between checkpoints."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.eval_every is None:
            yield from self.without_effect("eval_every=None", "eval_split")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    MonitorConfig, EvaluationConfig, TransformersConfig, ComputeConfig, RolloutConfig, BudgetConfig, RunConfig
):
    """What every algorithm here has. Those that learn add an ``OptimiserConfig``."""

    judge: str | None = None
    """A preference model that training does not see, by name or path: the hacking alarm compares reward with it."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.stop_on_alarm and self.judge is None:
            yield "stop_on_alarm=True needs a judge for the alarm: give --judge, or leave out --stop-on-alarm"
        if not self.eval_episodes:
            yield from self.without_effect("eval_episodes=0", "eval_every")


@dataclass(frozen=True, kw_only=True)
class CriticConfig(Checked):
    """Advantages from a value head."""

    gamma: Share = 1.0
    """Discount for each token."""
    gae_lambda: Share = 0.95
    """Lambda of generalised advantage estimation; 1 takes full returns."""
    value_coef: NonNegative = 0.1
    """Weight of the value loss."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""


@dataclass(frozen=True, kw_only=True)
class KLConfig(Checked):
    """The KL penalty."""

    kl_coef: NonNegative = 0.05
    """Cost of one nat of KL to the start (beta)."""


# The algorithms.


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters(KLConfig, CriticConfig, OptimiserConfig):
    """What PPO adds to a run."""

    epochs: Count = 2
    """Passes over the responses of one update."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef."""
    value_clip: Positive | None = 0.2
    """New values are clipped to within this of the old ones; None clips none."""
    kl_target: Positive | None = None
    """The KL of a response, in nats, to which kl_coef adapts; None leaves kl_coef as it is."""
    kl_horizon: Count = 10_000
    """Responses over which kl_coef adapts to --kl-target."""
    whiten_rewards: bool = False
    """Whether scores are scaled to variance 1, keeping their mean."""
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step. Sampling reads them one
    by one: in bfloat16, or with other kernels on a GPU, its numbers differ a little."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.kl_target is not None and not self.kl_coef:
            yield f"kl_target={self.kl_target}: a kl_coef of 0 stays 0, give --kl-coef above 0 to begin with"
        if self.kl_target is None:
            yield from self.without_effect("kl_target=None", "kl_horizon")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PPOHyperparameters, TrainConfig):
    """Proximal policy optimisation with a KL penalty to the supervised start."""


@dataclass(frozen=True, kw_only=True)
class NLPOConfig(PPOConfig):
    """PPO whose policy samples among the likely tokens of an earlier self (Ramamurthy et al. 2023)."""

    top_p: Nucleus = field(default=1.0, init=False)  # the mask has a probability of its own
    mask_top_p: Nucleus = 0.9
    """Total probability under the mask policy of the tokens that the mask leaves."""
    mask_every: Count = 5
    """Updates after which the mask policy becomes a copy of the policy."""


@dataclass(frozen=True, kw_only=True)
class OneStepConfig(KLConfig, OptimiserConfig, TrainConfig):
    """One pass over each batch: no ratio of probabilities corrects further passes."""

    epochs: Count = field(default=1, init=False)
    num_envs: LaneCount = 64
    """Responses of one update, sampled side by side."""
    minibatches: Count = 1
    """Gradient steps of one pass."""
    learning_rate: Positive = 5e-4
    """Adam's step size at the beginning of the run."""


@dataclass(frozen=True, kw_only=True)
class A2CConfig(CriticConfig, OneStepConfig):
    """Advantage actor-critic: one step on every batch, no clipping (Mnih et al. 2016, synchronous)."""

    gae_lambda: Share = 1.0
    """Lambda of generalised advantage estimation; 1 takes full returns."""


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(OneStepConfig):
    """REINFORCE with a moving average as baseline: a response is one action (Williams 1992; Ahmadian et al. 2024)."""

    baseline_decay: Share = 0.9
    """Share of the old baseline that an update retains."""


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(OneStepConfig):
    """REINFORCE whose baseline is the mean of the other responses to the context (Ahmadian et al. 2024)."""

    compared: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(KLConfig, OptimiserConfig, TrainConfig):
    """Group-relative policy optimisation (Shao et al. 2024): scores against those of the same context."""

    compared: ClassVar[int] = 2
    epochs: Count = 2
    """Passes over the responses of one update."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_high."""
    clip_high: NonNegative | None = None
    """Upper half of the clip range where it is another one (DAPO takes 0.28); None takes clip_coef."""
    normalisation: Literal["grpo", "dapo"] = "grpo"
    """The loss is the mean over responses of their means over tokens, or the mean over all tokens (Yu et al. 2025)."""
    scale: Literal["group", "none"] = "group"
    """Advantages are divided by the group's standard deviation, or left as they are (Liu et al. 2025)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL is paid: k3 in the loss, as published, or off the score, which also credits earlier tokens."""
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step, as in PPO."""


@dataclass(frozen=True, kw_only=True)
class ExpertIterationConfig(OptimiserConfig, TrainConfig):
    """Imitate the best of the policy's responses to each context (Anthony et al. 2017; RAFT, Dong et al. 2023)."""

    compared: ClassVar[int] = 2
    responses_per_context: Count = 8
    """Responses to each context, of which the best is learned from."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(OptimiserConfig, TrainConfig):
    """Learning from responses that the policy did not sample."""

    watch_every: Count | None = 1
    """Updates after which the policy's own responses are sampled for the curves, the judge and the KL; nothing is
    learned from them. None samples none."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.watch_every is None:
            yield from self.without_effect("watch_every=None", "judge", "stop_at_kl")


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(OffPolicyConfig):
    """Imitate the best of n responses of the start (best-of-n distillation)."""

    compared: ClassVar[int] = 2
    responses_per_context: Count = 8
    """Responses of the start to each context, of which the best is learned from."""


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig(TrainConfig):
    """No training: of n responses of the start, the one with the best score is the answer."""

    responses_per_context: Count = field(default=1, init=False)  # every lane says one response, the best of n
    missing_eos_penalty: NonNegative = field(default=0.0, init=False)  # responses are chosen by what the reward pays
    # Nothing is trained.
    micro_batches: Count = field(default=1, init=False)
    train_encoder: bool = field(default=False, init=False)
    gradient_checkpointing: bool = field(default=False, init=False)
    eval_every: Count | None = field(default=None, init=False)
    eval_split: str = field(default="validation", init=False)
    stop_on_alarm: bool = field(default=False, init=False)
    checkpoint_every: Count = field(default=10, init=False)
    n: Count = 16
    """Responses to choose among."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.reward == "gold":
            yield "reward='gold': best-of-n scores what an agent sees, give --reward a preference model"


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(OptimiserConfig):
    """Learning from pairs of a better and a worse response."""

    kl_coef: Positive = 0.05
    """Beta of the KL-regularised reward that the preferences stand for."""
    label_temperature: Divisor = 1.0
    """Scores are divided by it before they become probabilities of preference."""


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
class SFTConfig(OffPolicyConfig):
    """Supervised fine-tuning on demonstrations: the floor that reinforcement learning is measured against."""

    responses_per_context: Count = field(default=4, init=False)  # of the responses that are watched
    missing_eos_penalty: NonNegative = field(default=0.0, init=False)  # no response is scored for learning
    learning_rate: Positive = 1e-4
    """Adam's step size at the beginning of the run."""
