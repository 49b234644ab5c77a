"""stable-baselines3's algorithms in run folders of the same form as those of the algorithms here."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from rich.console import Console

from agents import files, progress
from agents.integrations.sb3_penalties import EndedResponses, Responses, StepPenalty
from agents.maths import kl as kls
from agents.policies.token_policy import TokenPolicy as Policy
from agents.settings.bounds import ClipRange, Count, LaneCount, NonNegative, Threads
from agents.settings.ids import check_ids, id_and_split, shipped_start
from agents.settings.shared import BudgetConfig, CriticConfig, EvaluationConfig, KLConfig, OptimiserConfig, RunConfig
from agents.training import cautions, checkpoints, report, run_folder
from agents.training.loggers import JSONLines, Logger
from agents.training.start import weights_start
from mmenv.evaluation import evaluate
from mmenv.integrations.sb3 import TokenVecEnv
from mmenv.integrations.sb3_fast import (
    FastMaskableTokenPolicy,
    FastTokenPolicy,
    MaskableSequenceBuffer,
    SequenceBuffer,
)
from mmenv.integrations.sb3_recurrent import RecurrentTokenPolicy
from mmenv.models.checkpoints import save_network, vocabulary_metadata
from mmenv.models.transformer import Network

# Imported after the module that names the command where these packages are missing.
from sb3_contrib import MaskablePPO, RecurrentPPO  # isort: skip
from stable_baselines3 import A2C, PPO  # isort: skip
from stable_baselines3.common.callbacks import BaseCallback, CallbackList  # isort: skip
from stable_baselines3.common.logger import Logger as SB3Logger  # isort: skip

EVALUATION_SEED = 12_345


@dataclass(frozen=True, kw_only=True)
class SB3Config(KLConfig, CriticConfig, EvaluationConfig, OptimiserConfig, BudgetConfig, RunConfig):
    """An algorithm of stable-baselines3 or sb3-contrib, with the penalties that the algorithms here have."""

    num_envs: LaneCount = 128
    """Lanes that respond side by side; each begins the next response as soon as one has ended."""
    n_steps: Count | None = None
    """Tokens of each lane in an update; None takes the longest response, so that every lane ends at least one."""
    epochs: Count = 2
    """Passes over the tokens of one update; A2C makes one."""
    minibatches: Count = 2
    """Gradient steps of one pass, about; A2C makes one."""
    clip_coef: ClipRange = 0.2
    """The ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef; A2C has no ratio."""
    value_coef: NonNegative = 0.05
    """Weight of the value loss, which has no half in it here: half of the default of PPO in this repository."""
    missing_eos_penalty: NonNegative = 1.0
    """Subtracted from the score of a response that used up its budget without an end token."""
    threads: Threads | None = None
    """Torch threads; None leaves torch's own choice."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.n_steps is None:
            return
        tokens = self.num_envs * self.n_steps
        if tokens < 2 * self.minibatches:
            yield f"minibatches={self.minibatches} of {tokens} tokens hold fewer than two: give fewer --minibatches"


class SB3Algorithm(NamedTuple):
    """A class of algorithms, the policy that it trains, and its buffer of complete responses, if it takes one."""

    cls: Any
    policy: Any
    buffer: Any = None


ALGORITHMS = {
    "sb3-ppo": SB3Algorithm(PPO, FastTokenPolicy, SequenceBuffer),
    "sb3-a2c": SB3Algorithm(A2C, FastTokenPolicy, SequenceBuffer),
    "sb3-maskable-ppo": SB3Algorithm(MaskablePPO, FastMaskableTokenPolicy, MaskableSequenceBuffer),
    "sb3-recurrent-ppo": SB3Algorithm(RecurrentPPO, RecurrentTokenPolicy),
}


class MetricsCallback(BaseCallback):
    """Logs a row of metrics for each update, which begins with a rollout and ends where the next one begins."""

    def __init__(self, run: SB3Run) -> None:
        super().__init__()
        self.run = run
        self.started = self.sampled = 0.0
        self.kl: dict[str, float] = {}

    def _on_rollout_start(self) -> None:
        self._on_training_end()
        self.started = time.perf_counter()
        self.run.env.ended = EndedResponses()

    def _on_step(self) -> bool:
        return not self.run.over()

    def _on_rollout_end(self) -> None:
        # Now, because SB3 empties its buffer before it announces the next rollout.
        self.sampled = time.perf_counter()
        self.kl = self.run.kl()

    def _on_training_end(self) -> None:
        if self.sampled > self.started > 0:
            self.run.log_update(time.perf_counter() - self.started, self.sampled - self.started, self.kl)


def _falling(first: float, last: float, update: float, remaining: float) -> float:
    """A learning rate that falls linearly, by the share of the run that remained before an update.

    Args:
        first, last: learning rates at the beginning and at the end.
        update: share of the run that one update takes.
        remaining: share that remains after the update's rollout, as SB3 computes it; below 0 beyond the budget.
    """
    return last + min(1.0, remaining + update) * (first - last)


class SB3Run:
    """Trains one policy in one folder; the folder is that of ``agents.training.trainer``, without a resume.

    Args:
        name: one of ``ALGORITHMS``.
        config: its configuration.
        folder: where everything is written.
        console: where progress is printed.
        loggers: further loggers of metrics, beside JSON lines.
        **arguments: further arguments of the environment, and ``reward`` where it is a function.
    """

    def __init__(
        self,
        name: str,
        config: SB3Config,
        folder: Path,
        console: Console | None = None,
        loggers: Sequence[Logger] = (),
        **arguments: Any,
    ) -> None:
        self.name, self.config, self.folder, self.console = name, config, folder, console or progress.console()
        self.loggers: list[Logger] = [JSONLines(folder / "metrics.jsonl"), *loggers]
        if ALGORITHMS[name].cls is A2C:
            reason = "A2C takes one step a batch, without a ratio"
            for message in config.without_effect(reason, "epochs", "minibatches", "clip_coef"):
                raise ValueError(message)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_ids(config.env_id, *config.also)
        run_folder.check_room(folder, config.overwrite)
        self.arguments = {
            **config.reward_arguments(),
            **weights_start(config.start).env_arguments(config.dataset),
            **arguments,
        }
        lanes = TokenVecEnv(config.env_id, config.num_envs, **self.arguments)
        self.env, self.task = Responses(lanes, config.missing_eos_penalty), lanes.env.task
        self.budget = lanes.env.episode_spec.budget
        self.start = self._start(lanes.env.episode_spec)
        self.model = self._model(ALGORITHMS[name])
        self.model.set_logger(SB3Logger(None, []))  # the default one would leave a folder behind for every run
        self.penalty: StepPenalty | None = None
        if ALGORITHMS[name].buffer is None:
            self.penalty = StepPenalty(self.model.observation_space, self.start, config.kl_coef)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def _start(self, episode_spec: Any) -> str:
        """Name or path of the weights to start from; with a dataset, of weights fitted to it, which the run keeps."""
        config = self.config
        if config.dataset is None:
            return shipped_start(config.env_id) if config.start is None else config.start
        self.fitted = tempfile.TemporaryDirectory()  # the run's folder is not touched before it begins
        path = Path(self.fitted.name) / "start.safetensors"
        network = weights_start(config.start).network(config.env_id, episode_spec)
        save_network(cast(Network, network), path, vocabulary_metadata(episode_spec.tokenizer))
        return str(path)

    def _model(self, algorithm: SB3Algorithm) -> Any:
        config, steps = self.config, self.config.n_steps or self.budget
        share = config.num_envs * steps / config.total_tokens
        arguments: dict[str, Any] = {
            "n_steps": steps,
            "gamma": config.gamma,
            "gae_lambda": config.gae_lambda,
            "ent_coef": config.entropy_coef,
            "vf_coef": config.value_coef,
            "max_grad_norm": config.max_grad_norm,
            "learning_rate": partial(_falling, config.learning_rate, config.final_learning_rate, share),
        }
        if algorithm.cls is A2C:
            arguments |= {"use_rms_prop": False, "normalize_advantage": True}
        else:
            size = -(-config.num_envs * steps // config.minibatches)
            arguments |= {"batch_size": size, "n_epochs": config.epochs, "clip_range": config.clip_coef}
        if algorithm.buffer is not None:
            kwargs = {"reference": self.start, "kl_coef": config.kl_coef, "pad_id": self.task.tokenizer.pad_id}
            arguments |= {"rollout_buffer_class": algorithm.buffer, "rollout_buffer_kwargs": kwargs}
        policy_kwargs = {"start": self.start, "optimizer_kwargs": {"eps": config.adam_eps}}
        return algorithm.cls(
            algorithm.policy, self.env, policy_kwargs=policy_kwargs, seed=config.seed, device="cpu", **arguments
        )

    def train(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            the summary, as ``agents.training.trainer`` writes it.

        Raises:
            RewardError: the reward failed.
        """
        with run_folder.writing(self.folder), contextlib.ExitStack() as stack:
            for logger in self.loggers:
                stack.callback(logger.close)
            return self._train()

    def _train(self) -> dict[str, Any]:
        evaluating = f"evaluating {self.config.eval_episodes} episodes of the {self.config.final_split} split"
        for caution in cautions.of_models(self.config.reward):
            progress.say(self.console, caution)
        progress.say(self.console, f"{evaluating} before training")
        before = self._evaluation(self.config.env_id)
        self._begin()
        self.model.set_random_seed(self.config.seed)  # the evaluation has drawn random numbers
        callbacks = [MetricsCallback(self), *([self.penalty] if self.penalty else [])]
        self.model.learn(self.config.total_tokens, callback=callbacks, log_interval=None)
        progress.say(self.console, f"{evaluating} after training")
        return self._write_summary(before, self._evaluation(self.config.env_id))

    def over(self) -> bool:
        """Whether the run ends before its tokens are used up: by KL or by time."""
        config, far = self.config, self.rows[-1]["kl"] if self.rows else 0.0
        too_far = config.stop_at_kl is not None and far >= config.stop_at_kl
        too_long = config.max_seconds is not None and self.seconds >= config.max_seconds
        return too_far or too_long

    def _begin(self) -> None:
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        run_folder.begin(self.folder, self.config.overwrite, config)
        if self.config.dataset is not None:
            shutil.copy(self.start, self.folder / "start.safetensors")

    def log_update(self, seconds: float, sampling: float, kl: dict[str, float]) -> None:
        """Log the row of the update that is over.

        Args:
            seconds: that it took.
            sampling: seconds of them for the rollout.
            kl: of the rollout.
        """
        buffer, ended = self.model.rollout_buffer, self.env.ended
        self.seconds += seconds
        tokens = self.model.num_timesteps
        row = {"update": len(self.rows) + 1, "tokens": tokens, "seconds": self.seconds}
        if ended.texts:  # with n_steps below the longest response, perhaps none
            row |= report.describe(ended.stats())
        row |= kl | self._learned()
        row["tokens_per_second"] = buffer.buffer_size * buffer.n_envs / seconds
        row["rollout_share"] = sampling / seconds
        self.rows.append(row)
        for logger in self.loggers:
            logger.log(files.standard(row), tokens)
        if ended.texts:
            progress.say(self.console, f"{tokens:,}/{self.config.total_tokens:,} tokens  {report.note(row)}")

    def kl(self) -> dict[str, float]:
        """KL to the start of the rollout's tokens, in nats a response."""
        buffer, penalty = self.model.rollout_buffer, self.penalty
        ref_logp = buffer.ref_log_probs if penalty is None else np.stack(penalty.ref_log_probs)
        pair, n = (torch.as_tensor(buffer.log_probs), torch.as_tensor(ref_logp)), max(1, len(self.env.ended.texts))
        return {name: float(f(*pair).sum()) / n for name, f in (("kl", kls.k3), ("kl_k1", kls.k1))}

    def _final_kl(self) -> float:
        """KL to the start of the policy as it is, on one rollout more; the last row has it before the last update."""
        model, tokens = self.model, self.model.num_timesteps
        model.set_random_seed(EVALUATION_SEED)
        self.env.ended, callback = EndedResponses(), CallbackList([self.penalty] if self.penalty else [])
        callback.init_callback(model)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        model.num_timesteps = tokens  # of these nothing is learned
        return self.kl()["kl"]

    def _learned(self) -> dict[str, float]:
        """The metrics that SB3 logs of its update."""
        values = {k.removeprefix("train/"): v for k, v in self.model.logger.name_to_value.items()}
        names = ("value_loss", "approx_kl", "clip_fraction", "explained_variance", "learning_rate")
        return {"entropy": -float(values["entropy_loss"])} | {
            name: float(values[name]) for name in names if name in values
        }

    def _evaluation(self, entry: str) -> dict[str, Any]:
        """Evaluate on ID or ID@SPLIT as ``agents.training.trainer`` does, with random numbers of its own."""
        n = self.config.eval_episodes
        env_id, split = id_and_split(entry, self.config.final_split)
        if not n:
            return {}
        extra = {"metrics": self.config.metrics, **self.arguments}
        results = []
        for greedy in (False, True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(EVALUATION_SEED)
                act = self._actor(greedy)
                results.append(evaluate(act, env_id, split, EVALUATION_SEED, n, min(128, n), **extra))
        return report.both_as_dict(*results)

    def _actor(self, greedy: bool) -> Callable[..., Any]:
        """``act`` for evaluations: SB3's own where the policy has a memory, else the faster one of the agents here."""
        if self.penalty:
            return lambda observations, state, starts: self.model.predict(observations, state, deterministic=greedy)
        network = self.model.policy.features_extractor.network
        policy = Policy(network, self.budget, generator=torch.Generator().manual_seed(EVALUATION_SEED))
        policy.greedy = greedy
        return policy.act

    def _write_summary(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        network = self.model.policy.features_extractor.network
        counts = {"tokens": self.model.num_timesteps, "seconds": self.seconds, "kl": self._final_kl()}
        words = vocabulary_metadata(self.task.tokenizer)
        tensors, shapes = {"policy": network.trained_state()}, {"policy": network.config}
        checkpoints.save_checkpoint(self.folder, len(self.rows), tensors, files.standard(counts), shapes, words)
        self.model.save(self.folder / "model.zip")
        also = {entry: self._evaluation(entry) for entry in self.config.also}
        outcome = report.Outcome(counts, before, after, also)
        return report.finish(self.name, self.config, self.folder, self.rows, outcome, self.task.sample, self.console)
