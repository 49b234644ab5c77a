"""The one home of every default: frozen dataclasses from which the command line is made."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from tyro.conf import Fixed

from mmenv.registration import defaults_of, spec_of


def task_name(env_id: str) -> str:
    """Name of the task behind an id in shipped weights; ``""`` where none are shipped."""
    for part, name in (("VQA", "vqa"), ("Captioning", "captioning"), ("SpokenDialogue", "dialogue")):
        if f"/{part}" in env_id:
            return name
    return ""


def check_ids(first: str, *others: str) -> None:
    """See that a policy can be trained on the first id and told of the others.

    Raises:
        ValueError: one is no environment of mmenv, or of another task than the first, or the first shows another split
            than train; the message names it.
    """
    spec = spec_of(first)
    if (split := defaults_of(spec.kwargs["env_id"]).get("split", "train")) != "train":
        plain = first.replace("Shifted-", "-")
        remedy = f"train on {plain} and give --also {first}" if plain != first else "train on one that shows train"
        raise ValueError(f"{first} shows its {split} split, which is for evaluation: {remedy}")
    task = task_name(spec.id)
    for env_id in others:
        if task and task_name(spec_of(env_id).id) not in (task, ""):
            raise ValueError(f"{env_id} is another task than {first}: mmenv.evaluate plays any policy on any id")


@dataclass(frozen=True)
class TrainConfig:
    """What every algorithm is told: where to train, from what, for how long, and what is watched meanwhile."""

    env_id: str = "mmenv/VQA-v0"
    """Id of the environment to train on."""
    dataset: str = ""
    """Data of your own: a folder or file as python -m mmenv check-data takes it; empty takes the embedded world."""
    reward: str = "preference"
    """Reward to train against: preference, preference-weak, gold, a path of saved weights, a server, or a metric of
    references: cider, bleu, rouge-l, wer, exact, vqa."""
    start: str = ""
    """Start: shipped name, file, folder of a transformers model or of a run; empty is the task's shipped start, or with
    a dataset of other words the shipped base, whose new words begin at random."""
    seed: int = 0
    """Seed of everything random."""
    total_tokens: int = 200_000
    """Tokens to train on: actions of live lanes, end tokens included, padding never."""
    out: str = ""
    """Folder of the run; empty makes runs/ALGORITHM-ENV-SEED."""
    overwrite: bool = False
    """Whether a run that the folder holds may be lost."""
    num_envs: int = 256
    """Episodes of one update, played side by side."""
    responses_per_context: int = 4
    """Responses to each context: they share its reading, which costs more than they do."""
    epochs: int = 1
    """Passes over the responses of one update."""
    minibatches: int = 2
    """Gradient steps of one pass."""
    micro_batches: int = 1
    """Parts in which the gradient of a step is taken and added up, for memory; the step is the same."""
    learning_rate: float = 3e-4
    """Adam's step size at the beginning."""
    final_learning_rate: float = 0.0
    """Its value at the end: it falls linearly."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    temperature: float = 1.0
    """Logits are divided by it when sampling, and in every pass that follows."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a response that used up its budget."""
    top_p: float = 1.0
    """Only the likeliest tokens with this probability together are said, in sampling and in every pass that follows."""
    train_encoder: bool = False
    """Whether image and audio encoders learn too; frozen, they run once a context."""
    lora_rank: int = 16
    """Where a model of transformers starts: rank of the adapters that learn; 0 trains the language model itself."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Where a model of transformers starts: type of its weights; adapters and value head stay float32."""
    gradient_checkpointing: bool = False
    """Where a model of transformers starts: states are computed again in the backward pass, for memory."""
    image_encoder: str = ""
    """Where a model starts that reads text alone: network, by name (base) or path, whose image encoder looks for it."""
    eval_episodes: int = 512
    """Episodes of each evaluation, before and after; 0 skips both."""
    final_split: str = "test"
    """Split of the evaluations before and after; tuning asks for validation."""
    also: tuple[str, ...] = ()
    """Further ids of the task, Shifted or Hard, on which the trained policy is evaluated as well."""
    metrics: tuple[str, ...] = ()
    """Metrics of the references that evaluations report beside reward: cider, bleu, rouge-l, wer, exact, vqa."""
    eval_every: int = 0
    """Evaluate every so many updates as well, into metrics.jsonl; 0 never."""
    eval_split: str = "validation"
    """Split that eval_every evaluates on."""
    judge: str = ""
    """A preference model that training does not see, by name or path: the hacking alarm compares reward with it."""
    stop_on_alarm: bool = False
    """Whether the run ends when the alarm rings; otherwise it is told of and marked in the curves."""
    stop_at_kl: float = 0.0
    """Above 0, the run ends once an update's KL to the start reaches this many nats."""
    max_seconds: float = 0.0
    """Above 0, the run ends after so many seconds of training."""
    pictures: bool = True
    """Whether curves.png and samples.png are drawn."""
    checkpoint_every: int = 10
    """Updates between checkpoints."""
    device: str = "cpu"
    """Where the networks live: cpu, cuda."""
    threads: int = 0
    """Torch threads; 0 leaves torch's own choice. A resumed run takes the number of the first."""

    def __post_init__(self) -> None:
        for name in (
            "total_tokens",
            "num_envs",
            "responses_per_context",
            "epochs",
            "minibatches",
            "micro_batches",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("temperature", "learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank={self.lora_rank} must be at least 0")
        if self.minibatches > self.num_envs:
            raise ValueError(f"minibatches={self.minibatches} exceeds num_envs={self.num_envs}")

    @property
    def task_name(self) -> str:
        """Name of the task behind ``env_id`` in shipped weights."""
        return task_name(self.env_id)

    def folder(self, algorithm: str) -> str:
        """Where the run goes."""
        return self.out or f"runs/{algorithm.replace(':', '.')}-{self.env_id.replace('/', '-')}-{self.seed}"


@dataclass(frozen=True)
class PPOConfig(TrainConfig):
    """Proximal policy optimisation with a KL penalty to the supervised start."""

    epochs: int = 2
    """Passes over the responses of one update."""
    gamma: float = 1.0
    """Discount for each token."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    clip_coef: float = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef."""
    value_clip: float = 0.2
    """New values are clipped to within this of the old ones."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus."""
    kl_coef: float = 0.05
    """Beta: cost of one nat of KL to the start, token by token."""
    kl_target: float = 0.0
    """Above 0, beta adapts to bring the KL of a response to this many nats."""
    kl_horizon: int = 10_000
    """Responses over which beta adapts."""
    whiten_rewards: bool = False
    """Whether scores are brought to variance 1, keeping their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_coef <= 0:
            raise ValueError(f"clip_coef={self.clip_coef} must be above 0")


@dataclass(frozen=True)
class NLPOConfig(PPOConfig):
    """PPO whose policy samples among the likely tokens of an earlier self (Ramamurthy et al. 2023)."""

    top_p: float = 0.9
    """Probability that the tokens left by the mask have together under the mask policy."""
    mask_every: int = 5
    """Updates after which the mask policy becomes a copy of the policy."""


@dataclass(frozen=True)
class A2CConfig(TrainConfig):
    """Advantage actor-critic: one step on every batch, no clipping (Mnih et al. 2016, synchronous)."""

    num_envs: int = 64
    """Episodes of one update, played side by side."""
    minibatches: int = 1
    """Gradient steps of one pass."""
    learning_rate: float = 5e-4
    """Adam's step size at the beginning."""
    gamma: float = 1.0
    """Discount for each token."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation; 1 takes whole returns."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus."""
    kl_coef: float = 0.05
    """Beta: cost of one nat of KL to the start, token by token."""


@dataclass(frozen=True)
class ReinforceConfig(TrainConfig):
    """REINFORCE with a moving average as baseline: a response is one action (Williams 1992; Ahmadian et al. 2024)."""

    num_envs: int = 64
    """Episodes of one update, played side by side."""
    minibatches: int = 1
    """Gradient steps of one pass."""
    learning_rate: float = 5e-4
    """Adam's step size at the beginning."""
    kl_coef: float = 0.05
    """Beta: cost of one nat of KL to the start."""
    baseline_decay: float = 0.9
    """Share of the old baseline that an update keeps."""


@dataclass(frozen=True)
class RLOOConfig(TrainConfig):
    """REINFORCE whose baseline is the mean of the other responses to the context (Ahmadian et al. 2024)."""

    num_envs: int = 64
    """Episodes of one update, played side by side."""
    minibatches: int = 1
    """Gradient steps of one pass."""
    learning_rate: float = 5e-4
    """Adam's step size at the beginning."""
    kl_coef: float = 0.05
    """Beta: cost of one nat of KL to the start."""


@dataclass(frozen=True)
class GRPOConfig(TrainConfig):
    """Group-relative policy optimisation (Shao et al. 2024): scores against those of the same context."""

    epochs: int = 2
    """Passes over the responses of one update."""
    clip_coef: float = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_high."""
    clip_high: float = 0.0
    """Upper half of the clip range where it is another one (DAPO takes 0.28); 0 takes clip_coef."""
    normalisation: Literal["grpo", "dapo"] = "grpo"
    """The loss is the mean over responses of their means over tokens, or the mean over all tokens (Yu et al. 2025)."""
    scale: Literal["group", "none"] = "group"
    """Advantages are divided by the group's standard deviation, or left as they are (Liu et al. 2025)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL is paid: k3 in the loss, as published, or off the score, which also credits earlier tokens."""
    kl_coef: float = 0.05
    """Beta: cost of one nat of KL to the start."""


@dataclass(frozen=True)
class ExpertIterationConfig(TrainConfig):
    """Imitate the best of one's own responses to each context (Anthony et al. 2017; RAFT, Dong et al. 2023)."""

    responses_per_context: int = 8
    """Responses to each context, of which the best is learned from."""


@dataclass(frozen=True)
class DistillationConfig(TrainConfig):
    """Imitate the best of n responses of the start (best-of-n distillation)."""

    responses_per_context: int = 8
    """Responses of the start to each context, of which the best is learned from."""


@dataclass(frozen=True)
class BestOfNConfig(TrainConfig):
    """No training: of n responses of the start the one with the best score is said."""

    n: int = 16
    """Responses to choose among."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ValueError(f"n={self.n} must be at least 1")


@dataclass(frozen=True)
class DPOConfig(TrainConfig):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the policy samples as it learns."""

    kl_coef: float = 0.05
    """Beta of the KL-regularised reward that the preferences stand for."""
    labels: Literal["soft", "drawn", "best"] = "soft"
    """The probability that the first of a pair is preferred, a choice drawn from it, or the better score's win."""
    label_temperature: float = 1.0
    """Scores are divided by it before they become probabilities of preference."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kl_coef", "label_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class OfflineDPOConfig(DPOConfig):
    """Direct preference optimisation on stored preferences."""

    kl_coef: float = 0.2
    """Beta of the KL-regularised reward; larger than online, where fresh pairs hold what old ones do not cover."""
    preferences: str = ""
    """Comparisons on disk (JSON lines), or prompt, chosen and rejected; empty samples pairs of the start, which the
    reward judges."""
    pairs: int = 4000
    """Pairs that are sampled where none are stored."""


@dataclass(frozen=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning on demonstrations: the floor that reinforcement learning is measured against."""

    learning_rate: float = 1e-4
    """Adam's step size at the beginning."""


@dataclass(frozen=True)
class GridConfig:
    """What every command that runs a grid of runs is told."""

    seeds: int = 5
    """Runs of each algorithm on each id: seeds first_seed, first_seed + 1, and so on."""
    first_seed: int = 0
    """The first of them."""
    total_tokens: int = 20_000
    """Tokens of each run."""
    max_seconds: float = 0.0
    """Above 0, each run also ends after so many seconds of training: with a large total_tokens, equal wall time."""
    stop_at_kl: float = 0.0
    """Above 0, each run also ends once its KL to the start reaches so many nats: equal distance."""
    eval_episodes: int = 512
    """Episodes of each evaluation."""
    settings: tuple[str, ...] = ()
    """Settings of single algorithms, as ALGORITHM/NAME=VALUE: ppo/kl-coef=0.1."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time on this machine, one torch thread each."""
    cluster: bool = False
    """Whether runs go to Ray, one a core: to the cluster that is up, or else to one on this machine."""
    retries: int = 1
    """How often a run that fails is tried again before it is reported as failed."""
    run_seconds: float = 0.0
    """Above 0, a run that takes longer than so many seconds in all is stopped and has failed."""
    mark_versions: bool = False
    """Whether results of other versions are kept and marked; otherwise they are refused."""
    out: str = ""
    """Folder of the grid; empty makes runs/COMMAND."""

    def __post_init__(self) -> None:
        for name in ("seeds", "total_tokens", "eval_episodes", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("retries", "max_seconds", "stop_at_kl", "run_seconds", "first_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")


@dataclass(frozen=True)
class CompareConfig(GridConfig):
    """Algorithms against each other: the same start, budget and evaluation, over several seeds."""

    algorithms: tuple[str, ...] = ("ppo", "rloo", "grpo")
    """Names, package.module:Class, or LABEL=NAME for the same algorithm with other settings."""
    envs: tuple[str, ...] = ("mmenv/VQA-v0",)
    """Ids to train on."""
    reward: str = "preference"
    """Reward to train against: preference, preference-weak, gold, a path of saved weights, or a server."""
    shifted: bool = False
    """Whether every trained policy is evaluated on the id's Shifted variant as well."""
    tune: int = 0
    """Trials of random search for every algorithm on every id, on the validation split and with seeds of their own."""
    baseline: str = ""
    """Paired tests of all against this one; empty tests all pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.algorithms or not self.envs:
            raise ValueError(f"algorithms={self.algorithms}, envs={self.envs}: give at least one of each")
        if self.tune < 0:
            raise ValueError(f"tune={self.tune} must be at least 0")


# What is varied of a preference model, and beta: the least and the greatest value of each.
FACTORS = {
    "labels": (1, math.inf), "flip": (0, 0.5), "members": (1, math.inf), "hidden": (1, math.inf), "beta": (0, math.inf),
}  # fmt: skip


@dataclass(frozen=True)
class OveroptimiseConfig(GridConfig):
    """Gold while a learned reward is optimised, by several algorithms and against preference models of many kinds."""

    env_id: str = "mmenv/VQA-v0"
    """Id to train on; its gold must be known."""
    start: str = ""
    """Weights of the start: a shipped name or a path; empty takes the shipped start of the task."""
    seeds: int = 3
    """Runs of each kind, each against a preference model of its own."""
    total_tokens: int = 40_000
    """Tokens of each run."""
    algorithms: tuple[str, ...] = ("ppo", "rloo", "grpo", "reinforce")
    """Names, or package.module:Class; the first is the one that trains against the varied models. Best of n is always
    there."""
    labels: int = 1000
    """Comparisons of the start's responses that a preference model learns from."""
    flip: float = 0.1
    """Share of them turned round."""
    members: int = 1
    """Preference models in the ensemble; more than one pay their mean less their variance."""
    hidden: int = 128
    """Units of the head's layers: the size of the preference model."""
    beta: float = 0.01
    """Cost of one nat of KL to the start."""
    vary_labels: tuple[int, ...] = (100, 300, 3000)
    """Other numbers of labels, all else being equal."""
    vary_flip: tuple[float, ...] = (0.0, 0.25)
    """Other shares turned round."""
    vary_members: tuple[int, ...] = (5,)
    """Other ensembles."""
    vary_hidden: tuple[int, ...] = (16,)
    """Other sizes."""
    vary_beta: tuple[float, ...] = (0.0, 0.05)
    """Other costs of KL."""
    learning_rate: float = 1e-3
    """Step size from beginning to end: over-optimisation is quick where steps do not shrink."""
    held_out: int = 1000
    """Pairs of the validation split on which a preference model's agreement with gold is measured."""
    best_of: int = 64
    """Responses of the start to each context among which best of n chooses, for all n up to it."""
    contexts: int = 256
    """Contexts of the training split that best of n is measured on, others for every seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.algorithms or len(set(self.algorithms)) < len(self.algorithms):
            raise ValueError(f"algorithms={self.algorithms}: give at least one, and each once")
        if "best-of-n" in self.algorithms:
            raise ValueError(f"algorithms={self.algorithms}: leave out best-of-n, it is always there, for all n")
        for name in ("held_out", "contexts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.best_of < 3:
            raise ValueError(f"best_of={self.best_of} must be at least 3: a fit needs two distances beyond the start")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")
        for factor in FACTORS:
            values = (getattr(self, factor), *getattr(self, f"vary_{factor}"))
            low, high = FACTORS[factor]
            if not all(low <= value <= high for value in values):
                raise ValueError(f"{factor}={', '.join(map(str, values))}: give values from {low:g} to {high:g}")
            if len(set(values)) < len(values):
                raise ValueError(f"vary_{factor}={values[1:]}: give each once, and not {factor}={values[0]} again")


@dataclass(frozen=True)
class ReproduceConfig:
    """A row of results again, with seeds that it has not had."""

    row: str
    """The algorithm's label: a row of the leaderboard."""
    env_ids: tuple[str, ...] = ()
    """Ids to run it on; none takes all that the row has."""
    runs: int = 2
    """New runs on each id."""
    results: str = "docs/leaderboard.jsonl"
    """Results that hold the row."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time on this machine, one torch thread each."""
    cluster: bool = False
    """Whether runs go to Ray, one a core."""
    out: str = ""
    """Folder of the runs; empty makes runs/reproduce."""

    def __post_init__(self) -> None:
        for name in ("runs", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """A run's policy on ids of its task."""

    run: str
    """Folder of the run."""
    env_ids: tuple[str, ...] = ()
    """Ids to evaluate on; none takes the run's own."""
    split: str = "test"
    """Split of each."""
    episodes: int = 512
    """Episodes of each."""


@dataclass(frozen=True)
class RoundPPOConfig(PPOConfig):
    """PPO as rounds of the loop have it: what the loop sets is no option of the command line."""

    env_id: Fixed[str] = PPOConfig.env_id
    """The loop's."""
    reward: Fixed[str] = PPOConfig.reward
    """What the round learned."""
    start: Fixed[str] = PPOConfig.start
    """The policy of the last round."""
    seed: Fixed[int] = PPOConfig.seed
    """Another one for each round."""
    total_tokens: int = 50_000
    """Tokens of each round."""
    out: Fixed[str] = PPOConfig.out
    """The round's folder."""
    overwrite: Fixed[bool] = PPOConfig.overwrite
    """A round that is over stays as it is."""
    judge: Fixed[str] = PPOConfig.judge
    """A preference model of the labels that were held out."""


@dataclass(frozen=True)
class RLHFConfig:
    """Rounds of sampling, asking, learning what is preferred, and PPO, each with the policy of the last."""

    env_id: str = "mmenv/VQA-v0"
    """Id of the environment to train on."""
    rounds: int = 4
    """Times around the loop."""
    labels: int = 2000
    """Comparisons asked for in each round."""
    annotator: Literal["synthetic", "browser"] = "synthetic"
    """Who answers: a synthetic annotator who knows gold, or people at the labelling page."""
    temperature: float = 0.1
    """Synthetic annotator: gold this far apart is told apart 73 times in 100."""
    flip: float = 0.1
    """Synthetic annotator: share of the answers turned round."""
    length_bias: float = 0.0
    """Synthetic annotator: how much gold one more token is worth to it."""
    select: Literal["random", "uncertain", "mixed"] = "random"
    """What to ask: pairs at random, those that the last round's ensemble disagrees on, or half and half."""
    pool: int = 4
    """Pairs sampled for each that is asked, where they are selected."""
    members: int = 5
    """Preference models in the ensemble."""
    combine: Literal["mean", "minimum", "variance"] = "variance"
    """How the ensemble pays: its mean, its least, or the mean less ``weight`` times the variance."""
    weight: float = 1.0
    """Of the variance over members that is taken off their mean."""
    epochs: int = 10
    """Passes of the preference models over all labels so far."""
    held_out: float = 0.15
    """Share of the labels that the reward does not see: agreement is measured on them, and the alarm's judge learns
    from them."""
    start: str = ""
    """Weights of the first round's policy; empty takes the shipped start of the task."""
    seed: int = 0
    """Seed of everything random."""
    out: str = ""
    """Folder of the loop; empty makes runs/rlhf-ENV-SEED."""
    store: str = ""
    """Database of the labels, a path or an SQLAlchemy URL; empty makes feedback.db in the folder."""
    port: int = 8765
    """Port of the labelling page."""
    overlap: int = 1
    """People who judge the same pair, where people do."""
    ppo: RoundPPOConfig = field(default_factory=RoundPPOConfig)
    """PPO in each round."""

    def __post_init__(self) -> None:
        for name in ("rounds", "labels", "pool", "members", "epochs", "overlap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.temperature < 0 or not 0 <= self.flip <= 1 or not 0 <= self.held_out < 1:
            given = f"temperature={self.temperature}, flip={self.flip}, held_out={self.held_out}"
            raise ValueError(f"{given}: give a temperature of at least 0, and shares below 1")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight={self.weight} pays for doubt: give 0 or more")

    @property
    def folder(self) -> str:
        """Where the loop goes."""
        return self.out or f"runs/rlhf-{self.env_id.replace('/', '-')}-{self.seed}"
