"""The one home of every default: frozen dataclasses from which the command line is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from agents.settings.bounds import SHARE, Checked, Range, changed, without
from mmenv.registration import defaults_of, spec_of


def task_name(env_id: str) -> str:
    """Name of the task behind an id in shipped weights; ``""`` where none are shipped."""
    for part, name in (("VQA", "vqa"), ("Captioning", "captioning"), ("SpokenDialogue", "dialogue")):
        if f"/{part}" in env_id:
            return name
    return ""


def shipped_start(env_id: str) -> str:
    """Name of the shipped weights that a policy on an id starts from.

    Raises:
        ValueError: none are shipped for its task.
    """
    if name := task_name(env_id):
        return f"start-{name}"
    raise ValueError(
        f"no start is shipped for {env_id}: train one (python -m agents sft --env-id {env_id}), give --start"
    )


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
class TrainConfig(Checked):
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
    """Above 0, the run ends after so many seconds of training. Its learning rate then falls by the clock: no two such
    runs are the same to the last bit."""
    pictures: bool = True
    """Whether curves.png and samples.png are drawn."""
    checkpoint_every: int = 10
    """Updates between checkpoints."""
    device: str = "cpu"
    """Where the networks live: cpu, cuda."""
    threads: int = 0
    """Torch threads; 0 leaves torch's own choice. A resumed run takes the number of the first."""

    # Responses to one context that the algorithm compares with each other.
    compared: ClassVar[int] = 1

    def conflicts(self) -> Iterator[str]:
        if self.minibatches > self.num_envs:
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
        if self.stop_on_alarm and not self.judge:
            yield "stop_on_alarm=True, and no judge to ring the alarm: give --judge, or leave out --stop-on-alarm"
        if not self.eval_every:
            yield from changed(self, "eval_every=0", "eval_split")
        if not self.eval_episodes:
            yield from changed(self, "eval_episodes=0", "eval_every", "also", "metrics")

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
    """New values are clipped to within this of the old ones; 0 clips none."""
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
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step. Sampling reads them one
    by one: in bfloat16, or with other kernels on a GPU, its numbers differ a little."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.kl_target and not self.kl_coef:
            yield f"kl_target={self.kl_target}: a beta of 0 stays 0, give --kl-coef above 0 to begin with"
        if not self.kl_target:
            yield from changed(self, "kl_target=0", "kl_horizon")


@dataclass(frozen=True)
@without("the mask has a probability of its own, --mask-top-p", "top_p")
class NLPOConfig(PPOConfig):
    """PPO whose policy samples among the likely tokens of an earlier self (Ramamurthy et al. 2023)."""

    mask_top_p: float = 0.9
    """Probability that the tokens left by the mask have together under the mask policy."""
    mask_every: int = 5
    """Updates after which the mask policy becomes a copy of the policy."""


ONE_PASS = "a batch is passed over once: no ratio of probabilities corrects further passes"


@dataclass(frozen=True)
@without(ONE_PASS, "epochs")
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
@without(ONE_PASS, "epochs")
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
@without(ONE_PASS, "epochs")
class RLOOConfig(TrainConfig):
    """REINFORCE whose baseline is the mean of the other responses to the context (Ahmadian et al. 2024)."""

    compared: ClassVar[int] = 2
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

    compared: ClassVar[int] = 2
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
    recompute_logp: bool = False
    """Whether tokens are scored again, by the pass that the loss takes, before the first step, as in PPO."""


@dataclass(frozen=True)
class ExpertIterationConfig(TrainConfig):
    """Imitate the best of one's own responses to each context (Anthony et al. 2017; RAFT, Dong et al. 2023)."""

    compared: ClassVar[int] = 2
    responses_per_context: int = 8
    """Responses to each context, of which the best is learned from."""


@dataclass(frozen=True)
class OffPolicyConfig(TrainConfig):
    """What learns from responses that are not the policy's own."""

    watch_every: int = 1
    """Updates after which the policy's own responses are sampled for the curves, the judge and the KL; nothing is
    learned from them. 0 never."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if not self.watch_every:
            yield from changed(self, "watch_every=0", "judge", "stop_at_kl")


@dataclass(frozen=True)
class DistillationConfig(OffPolicyConfig):
    """Imitate the best of n responses of the start (best-of-n distillation)."""

    compared: ClassVar[int] = 2
    responses_per_context: int = 8
    """Responses of the start to each context, of which the best is learned from."""


@dataclass(frozen=True)
@without(
    "nothing is trained", "epochs", "minibatches", "micro_batches", "learning_rate", "final_learning_rate", "adam_eps",
    "max_grad_norm", "train_encoder", "gradient_checkpointing", "checkpoint_every", "eval_every", "eval_split",
    "stop_on_alarm",
)  # fmt: skip
@without("responses are chosen by what the reward pays", "missing_eos_penalty")
@without("each context has n", "responses_per_context")
class BestOfNConfig(TrainConfig):
    """No training: of n responses of the start the one with the best score is said."""

    minibatches: int = 1
    """Not offered: nothing is trained."""
    responses_per_context: int = 1
    """Not offered: every lane says one response, the best of n."""
    n: int = 16
    """Responses to choose among."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.reward == "gold":
            yield "reward='gold': best-of-n scores what an agent sees, give --reward a preference model"


@dataclass(frozen=True)
class DPOConfig(TrainConfig):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs that the policy samples as it learns."""

    compared: ClassVar[int] = 2
    bounds: ClassVar[dict[str, Range]] = {"kl_coef": Range(0, above=True)}
    kl_coef: float = 0.05
    """Beta of the KL-regularised reward that the preferences stand for."""
    labels: Literal["soft", "drawn", "best"] = "soft"
    """The probability that the first of a pair is preferred, a choice drawn from it, or the better score's win."""
    label_temperature: float = 1.0
    """Scores are divided by it before they become probabilities of preference."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.labels == "best":
            yield from changed(self, "labels='best'", "label_temperature")


@dataclass(frozen=True)
@without("every stored pair was judged once, with one answer", "labels")
@without("every context is read once, its encoder stays frozen", "train_encoder")
class OfflineDPOConfig(OffPolicyConfig, DPOConfig):
    """Direct preference optimisation on stored preferences."""

    labels: Literal["soft", "drawn", "best"] = "drawn"
    """Not offered: what is stored was chosen, of a sampled pair the choice is drawn once."""
    kl_coef: float = 0.2
    """Beta of the KL-regularised reward; larger than online, where fresh pairs hold what old ones do not cover."""
    preferences: str = ""
    """Comparisons on disk (JSON lines), or prompt, chosen and rejected; empty samples pairs of the start, which the
    reward judges."""
    pairs: int = 4000
    """Pairs that are sampled where none are stored; several processes share them."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.preferences:
            why = "preferences are stored"
            yield from changed(self, why, "pairs", "label_temperature", "missing_eos_penalty")


@dataclass(frozen=True)
@without("demonstrations are imitated, none of them is scored", "missing_eos_penalty")
@without("each demonstration has a context of its own", "responses_per_context")
class SFTConfig(OffPolicyConfig):
    """Supervised fine-tuning on demonstrations: the floor that reinforcement learning is measured against."""

    learning_rate: float = 1e-4
    """Adam's step size at the beginning."""


@dataclass(frozen=True)
class GridConfig(Checked):
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

    bounds: ClassVar[dict[str, Range]] = {"eval_episodes": Range(1, 10**6)}


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

    def conflicts(self) -> Iterator[str]:
        if not self.algorithms or not self.envs:
            yield f"algorithms={self.algorithms}, envs={self.envs}: give at least one of each"
        labels = [label.rpartition("=")[0] or label for label in self.algorithms]
        if self.baseline and self.baseline not in labels:
            yield f"baseline={self.baseline!r} is none of {', '.join(labels)}: give --baseline one of these"


# What is varied of a preference model, and beta.
FACTORS = ("labels", "flip", "members", "hidden", "beta")


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
    temperature: float = 1.0
    """Logits are divided by it: by the algorithms, for best of n, and for the responses that are compared."""
    top_p: float = 1.0
    """Only the likeliest tokens with this probability together are said, everywhere alike."""
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

    bounds: ClassVar[dict[str, Range]] = {**GridConfig.bounds, "flip": Range(0, 0.5)}

    def conflicts(self) -> Iterator[str]:
        if not self.algorithms or len(set(self.algorithms)) < len(self.algorithms):
            yield f"algorithms={self.algorithms}: give at least one, and each once"
        if "best-of-n" in self.algorithms:
            yield f"algorithms={self.algorithms}: leave out best-of-n, it is always there, for all n"
        for factor in FACTORS:
            values = (getattr(self, factor), *getattr(self, f"vary_{factor}"))
            if len(set(values)) < len(values):
                yield f"vary_{factor}={values[1:]}: give each once, and not {factor}={values[0]} again"


@dataclass(frozen=True)
class ReproduceConfig(Checked):
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
    trust: tuple[str, ...] = ()
    """Modules of your own that the row may have imported: of package.module:Class and of
    package.module:namespace/Name-v0."""
    out: str = ""
    """Folder of the runs; empty makes runs/reproduce."""


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """A run's policy on ids of its task."""

    run: str
    """Folder of the run."""
    env_ids: tuple[str, ...] = ()
    """Ids to evaluate on; none takes the run's own."""
    split: str = "test"
    """Split of each."""
    episodes: int = 512
    """Episodes of each."""
    trust: tuple[str, ...] = ()
    """Modules of your own that the run's config.json may have imported: of package.module:Class and of
    package.module:namespace/Name-v0."""


# Settings of PPO that rounds of the loop take; what the loop sets itself, or what its policies do not have, they lack.
OF_ROUNDS = (
    "total_tokens", "num_envs", "responses_per_context", "epochs", "minibatches", "micro_batches", "learning_rate",
    "final_learning_rate", "adam_eps", "max_grad_norm", "temperature", "missing_eos_penalty", "top_p", "train_encoder",
    "eval_episodes", "also", "metrics", "eval_every", "eval_split", "stop_on_alarm", "stop_at_kl", "max_seconds",
    "pictures", "checkpoint_every", "device", "threads", "gamma", "gae_lambda", "clip_coef", "value_clip", "value_coef",
    "entropy_coef", "kl_coef", "kl_target", "kl_horizon", "whiten_rewards", "recompute_logp",
)  # fmt: skip


@dataclass(frozen=True)
@without("the loop sets it, or its policies lack it", *(f.name for f in fields(PPOConfig) if f.name not in OF_ROUNDS))
class RoundPPOConfig(PPOConfig):
    """PPO as rounds of the loop have it: what the loop sets is no option of the command line."""

    prefix: ClassVar[str] = "ppo."
    bounds: ClassVar[dict[str, Range]] = {
        "eval_episodes": Range(1, 10**6)
    }  # each round tells its gold before and after
    total_tokens: int = 50_000
    """Tokens of each round."""

    def conflicts(self) -> Iterator[str]:
        # The loop's judge is of the labels that are held out.
        return (told for told in super().conflicts() if not told.startswith("stop_on_alarm"))


@dataclass(frozen=True)
class RLHFConfig(Checked):
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

    bounds: ClassVar[dict[str, Range]] = {
        "temperature": Range(0), "held_out": Range(0, 1, below=True), "flip": SHARE,
        "seed": Range(0, 4_000_000), "rounds": Range(1, 1000),  # every round has a seed of its own
    }  # fmt: skip

    def conflicts(self) -> Iterator[str]:
        if self.annotator == "browser":
            yield from changed(self, "people answer", "temperature", "flip", "length_bias")
        else:
            yield from changed(self, "annotator='synthetic'", "port", "overlap")
        if self.select == "random":
            yield from changed(self, "select='random'", "pool")
        if self.combine != "variance":
            yield from changed(self, f"combine={self.combine!r}", "weight")
        if self.ppo.stop_on_alarm and not self.held_out:
            yield "held_out=0 leaves no judge: give --held-out above 0, or leave out --ppo.stop-on-alarm"

    @property
    def folder(self) -> str:
        """Where the loop goes."""
        return self.out or f"runs/rlhf-{self.env_id.replace('/', '-')}-{self.seed}"
