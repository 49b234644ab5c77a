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


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Where a run trains, from what start, and where it writes."""

    starts_any_task: ClassVar[bool] = False  # whether a task without a shipped start takes that of the worlds

    env_id: str = "mmenv/VQA-v0"
    """Id of the environment to train on."""
    dataset: str | None = None
    """Data of your own: a folder or file as python -m mmenv check-data takes it; None takes the embedded world."""
    reward: str | None = None
    """Reward to train against: preference, preference-weak, gold, a path of saved weights, a server, or a metric of
    references: cider, bleu, rouge-l, wer, exact, vqa. None takes the id's own: preference, or what a task of your own
    was registered with."""
    start: str | None = None
    """Policy to start from: a shipped name, a file, or the folder of a transformers model or of a run. None takes the
    shipped start; words of your data that it lacks begin at random."""
    seed: Seed = 0
    """Seed of everything random."""
    out: str | None = None
    """Folder of the run; None makes runs/ALGORITHM-ENV-SEED."""
    overwrite: bool = False
    """Whether a run that the folder already holds is deleted."""

    def reward_arguments(self) -> dict[str, str]:
        """The argument ``reward`` of an environment, where it is not the id's own."""
        return {} if self.reward is None else {"reward": self.reward}

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
    """Gradient steps of one pass; the responses of two steps differ in number by at most one."""
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
    """Further ids of the task, Shifted or Hard, on which the trained policy is evaluated as well; ID@comp for another
    split than --final-split."""
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


TokenLevel = Literal["token", "turn"]
ResponseLevel = Literal["response", "turn"]


@dataclass(frozen=True, kw_only=True)
class TurnCriticConfig(CriticConfig):
    """Advantages from a value head, for tokens or for turns."""

    gamma: Share = 1.0
    """Discount for each token; with --advantage-level turn, for each turn."""
    advantage_level: TokenLevel = "token"
    """In dialogues: token estimates an advantage for each token, within its reply; turn estimates one for each reply,
    over the turns of the episode, so that a reply answers for later rewards too."""


@dataclass(frozen=True, kw_only=True)
class TurnConfig(Checked):
    """Advantages of responses or of turns."""

    advantage_level: ResponseLevel = "response"
    """In dialogues: response compares the score of a reply with those of the same context; turn compares the rewards
    from a reply on with those from the same turn on in other episodes that began with the same context."""


@dataclass(frozen=True, kw_only=True)
class KLConfig(Checked):
    """The KL penalty."""

    kl_coef: NonNegative = 0.05
    """Cost of one nat of KL to the start (beta)."""


@dataclass(frozen=True, kw_only=True)
class OneStepConfig(KLConfig, OptimiserConfig, TrainConfig):
    """One pass over each batch: no ratio of probabilities corrects further passes."""

    epochs: Count = field(default=1, init=False)
    num_envs: LaneCount = 64
    """Responses of one update, sampled side by side."""
    minibatches: Count = 1
    """Gradient steps of one pass; the responses of two steps differ in number by at most one."""
    learning_rate: Positive = 5e-4
    """Adam's step size at the beginning of the run."""


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
