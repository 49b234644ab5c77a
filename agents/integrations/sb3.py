"""stable-baselines3's algorithms in run folders of the same form as those of the algorithms here."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from agents import files, progress
from agents.maths import kl as kls
from agents.policies.token_policy import TokenPolicy as OwnPolicy
from agents.settings.bounds import ClipRange, Count, LaneCount, NonNegative, Threads
from agents.settings.ids import check_ids, shipped_start, task_name
from agents.settings.shared import (
    BudgetConfig,
    CriticConfig,
    EvaluationConfig,
    KLConfig,
    OptimiserConfig,
    RunConfig,
)
from agents.training import cautions, checkpoints, report, run_folder
from agents.training.start import weights_start
from mmenv.evaluation import evaluate
from mmenv.integrations.sb3 import LanguageHead, TokenFeatures, TokenVecEnv
from mmenv.integrations.sb3_fast import (
    FastMaskableTokenPolicy,
    FastTokenPolicy,
    Lanes,
    MaskableSequenceBuffer,
    SequenceBuffer,
)
from mmenv.integrations.sb3_recurrent import RecurrentTokenPolicy
from mmenv.models.checkpoints import save_network, vocabulary_metadata

# Imported after the module that names the command where these packages are missing.
from sb3_contrib import MaskablePPO, RecurrentPPO  # isort: skip
from stable_baselines3 import A2C, PPO  # isort: skip
from stable_baselines3.common.callbacks import BaseCallback, CallbackList  # isort: skip
from stable_baselines3.common.logger import Logger  # isort: skip
from stable_baselines3.common.vec_env import VecEnvWrapper  # isort: skip

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


class Parts(NamedTuple):
    """An algorithm, the policy it trains, and its buffer of whole responses where it takes one."""

    algorithm: Any
    policy: Any
    buffer: Any = None


ALGORITHMS = {
    "sb3-ppo": Parts(PPO, FastTokenPolicy, SequenceBuffer),
    "sb3-a2c": Parts(A2C, FastTokenPolicy, SequenceBuffer),
    "sb3-maskable-ppo": Parts(MaskablePPO, FastMaskableTokenPolicy, MaskableSequenceBuffer),
    "sb3-recurrent-ppo": Parts(RecurrentPPO, RecurrentTokenPolicy),
}


@dataclass
class Ended:
    """Responses that ended in a rollout, as ``report.describe`` reads them."""

    paid: list[float] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    num_tokens: int = 0

    @property
    def scores(self) -> Tensor:
        return torch.tensor(self.paid)

    @property
    def gold(self) -> np.ndarray:
        return np.array(self.known)


class Responses(VecEnvWrapper):
    """Notes the responses that end and what they were paid; then takes a penalty off those that used up their budget.

    Attributes:
        ended: since somebody last put a new one here.
    """

    def __init__(self, venv: TokenVecEnv, missing_eos_penalty: float) -> None:
        super().__init__(venv)
        self.penalty, self.ended = missing_eos_penalty, Ended()
        self.lengths = np.zeros(venv.num_envs, np.int64)

    def reset(self) -> Any:
        self.lengths[:] = 0
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.lengths += 1
        for lane, info in enumerate(infos):
            if "response" not in info:
                continue
            self.ended.paid.append(float(rewards[lane]))
            self.ended.known.append(info.get("gold", np.nan))
            self.ended.texts.append(info["response"])
            self.ended.stops.append(info["stop"])
            self.ended.num_tokens += int(self.lengths[lane])
            self.lengths[lane] = 0
            rewards[lane] -= self.penalty * (info["stop"] != "eos")
        return observations, rewards, dones, infos


class StepPenalty(BaseCallback):
    """The KL penalty where no buffer of whole responses pays it: token by token, the reference in a cache of its own.

    Attributes:
        ref_log_probs: of the rollout so far, float32 (N,) each.
    """

    def __init__(self, observation_space: Any, reference: str, kl_coef: float) -> None:
        super().__init__()
        features = TokenFeatures(observation_space, reference).requires_grad_(False)
        self.lanes, self.head, self.kl_coef = Lanes(features), LanguageHead(features.network), kl_coef
        self.ref_log_probs: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self.ref_log_probs = []

    def _on_step(self) -> bool:
        # SB3 shows its locals between the step of the environment and the buffer: what is taken off here is stored.
        actions = torch.as_tensor(self.locals["actions"]).reshape(-1, 1)
        with torch.no_grad():
            logp = self.head(self.lanes.follow(self.locals["obs_tensor"])).log_softmax(-1)
        self.ref_log_probs.append(logp.gather(1, actions)[:, 0].numpy())
        paid = kls.k1(self.locals["log_probs"].flatten(), torch.from_numpy(self.ref_log_probs[-1]))
        self.locals["rewards"] -= self.kl_coef * paid.numpy()
        return True


class Rows(BaseCallback):
    """Writes a row of metrics an update: it begins with a rollout and ends where the next one begins."""

    def __init__(self, run: SB3Run) -> None:
        super().__init__()
        self.run, self.begun, self.sampled = run, 0.0, 0.0
        self.kl: dict[str, float] = {}

    def _on_rollout_start(self) -> None:
        self._on_training_end()
        self.begun, self.run.env.ended = time.perf_counter(), Ended()

    def _on_step(self) -> bool:
        return not self.run.over()

    def _on_rollout_end(self) -> None:
        # Here and not later: SB3 empties its buffer before it tells that the next rollout begins.
        self.sampled, self.kl = time.perf_counter(), self.run.kl()

    def _on_training_end(self) -> None:
        if self.sampled > self.begun > 0:
            self.run.note(time.perf_counter() - self.begun, self.sampled - self.begun, self.kl)


def _falling(first: float, last: float, update: float, remaining: float) -> float:
    """A learning rate on its straight way from ``first`` to ``last``, by how much of the run remained before an update.

    Args:
        first, last: at the beginning and at the end.
        update: share of the run that one update takes.
        remaining: as SB3 tells it once the update's tokens are played, below 0 where they go beyond the run.
    """
    return last + min(1.0, remaining + update) * (first - last)


class SB3Run:
    """Trains one policy in one folder; the folder is that of ``agents.training.trainer``, without a resume.

    Args:
        name: one of ``ALGORITHMS``.
        config: its configuration.
        folder: where everything is written.
        console: where progress is told.
        **arguments: further arguments of the environment, and ``reward`` where it is a function.
    """

    def __init__(
        self, name: str, config: SB3Config, folder: Path, console: Console | None = None, **arguments: Any
    ) -> None:
        self.name, self.config, self.folder, self.console = name, config, folder, console or progress.console()
        if ALGORITHMS[name].algorithm is A2C:
            reason = "A2C takes one step a batch, without a ratio"
            if wrong := next(config.without_effect(reason, "epochs", "minibatches", "clip_coef"), None):
                raise ValueError(wrong)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_ids(config.env_id, *config.also)
        run_folder.check_room(folder, config.overwrite)
        self.arguments = {
            "reward": config.reward,
            **weights_start(config.start).env_arguments(config.dataset),
            **arguments,
        }
        lanes = TokenVecEnv(config.env_id, config.num_envs, **self.arguments)
        self.env, self.task = Responses(lanes, config.missing_eos_penalty), lanes.env.task
        self.budget = int(lanes.env.single_observation_space["response"].shape[0])
        self.start = self._start(lanes.env.setup)
        self.model = self._model(ALGORITHMS[name])
        self.model.set_logger(Logger(None, []))  # its own would leave a folder behind for every run
        self.penalty: StepPenalty | None = None
        if ALGORITHMS[name].buffer is None:
            self.penalty = StepPenalty(self.model.observation_space, self.start, config.kl_coef)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0

    def _start(self, setup: Any) -> str:
        """Name or path of the weights to start from; with a dataset, of weights fitted to it, which the run keeps."""
        config = self.config
        if config.dataset is None:
            return shipped_start(config.env_id) if config.start is None else config.start
        self.fitted = tempfile.TemporaryDirectory()  # the run's folder is not touched before it begins
        path = Path(self.fitted.name) / "start.safetensors"
        network = weights_start(config.start).network(task_name(config.env_id), setup)
        save_network(network, path, vocabulary_metadata(setup.tokenizer))
        return str(path)

    def _model(self, parts: Parts) -> Any:
        config, steps = self.config, self.config.n_steps or self.budget
        share = config.num_envs * steps / config.total_tokens
        arguments: dict[str, Any] = {
            "n_steps": steps, "gamma": config.gamma, "gae_lambda": config.gae_lambda, "ent_coef": config.entropy_coef,
            "vf_coef": config.value_coef, "max_grad_norm": config.max_grad_norm, 
            "learning_rate": partial(_falling, config.learning_rate, config.final_learning_rate, share),
        }  # fmt: skip
        if parts.algorithm is A2C:
            arguments |= {"use_rms_prop": False, "normalize_advantage": True}
        else:
            size = -(-config.num_envs * steps // config.minibatches)
            arguments |= {"batch_size": size, "n_epochs": config.epochs, "clip_range": config.clip_coef}
        if parts.buffer is not None:
            kwargs = {"reference": self.start, "kl_coef": config.kl_coef, "pad_id": self.task.tokenizer.pad_id}
            arguments |= {"rollout_buffer_class": parts.buffer, "rollout_buffer_kwargs": kwargs}
        policy_kwargs = {"start": self.start, "optimizer_kwargs": {"eps": config.adam_eps}}
        return parts.algorithm(
            parts.policy, self.env, policy_kwargs=policy_kwargs, seed=config.seed, device="cpu", **arguments
        )

    def train(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            the summary, as ``agents.training.trainer`` writes it.

        Raises:
            RewardError: the reward failed.
        """
        with run_folder.writing(self.folder):
            return self._trained()

    def _trained(self) -> dict[str, Any]:
        told = f"evaluating {self.config.eval_episodes} episodes of the {self.config.final_split} split"
        for caution in cautions.of_models(self.config.reward):
            progress.say(self.console, caution)
        progress.say(self.console, f"{told} before training")
        before = self._evaluation(self.config.env_id)
        self._begin()
        self.model.set_random_seed(self.config.seed)  # whatever has drawn numbers since SB3 did so itself
        callbacks = [Rows(self), *([self.penalty] if self.penalty else [])]
        self.model.learn(self.config.total_tokens, callback=callbacks, log_interval=None)
        progress.say(self.console, f"{told} after training")
        return self._finish(before, self._evaluation(self.config.env_id))

    def over(self) -> bool:
        """Whether what ends a run before its tokens are used up has happened."""
        config, far = self.config, self.rows[-1]["kl"] if self.rows else 0.0
        too_far = config.stop_at_kl is not None and far >= config.stop_at_kl
        too_long = config.max_seconds is not None and self.seconds >= config.max_seconds
        return too_far or too_long

    def _begin(self) -> None:
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        run_folder.begin(self.folder, self.config.overwrite, config)
        if self.config.dataset is not None:
            shutil.copy(self.start, self.folder / "start.safetensors")

    def note(self, took: float, sampling: float, kl: dict[str, float]) -> None:
        """Write the row of the update that is over."""
        buffer, ended = self.model.rollout_buffer, self.env.ended
        self.seconds += took
        tokens = self.model.num_timesteps
        row = {"update": len(self.rows) + 1, "tokens": tokens, "seconds": self.seconds}
        if ended.texts:  # with n_steps below the longest response, perhaps none
            row |= report.describe(ended)  # type: ignore[arg-type]
        row |= kl | self._learned()
        row["tokens_per_second"] = buffer.buffer_size * buffer.n_envs / took
        row["rollout_share"] = sampling / took
        self.rows.append(row)
        files.append_line(self.folder / "metrics.jsonl", row)
        if ended.texts:
            progress.say(self.console, f"{tokens:,}/{self.config.total_tokens:,} tokens  {report.note(row)}")

    def kl(self) -> dict[str, float]:
        """KL to the start of the rollout's tokens, in nats a response."""
        buffer, penalty = self.model.rollout_buffer, self.penalty
        ref_logp = buffer.ref_log_probs if penalty is None else np.stack(penalty.ref_log_probs)
        pair, n = (torch.as_tensor(buffer.log_probs), torch.as_tensor(ref_logp)), max(1, len(self.env.ended.texts))
        return {name: float(f(*pair).sum()) / n for name, f in (("kl", kls.k3), ("kl_k1", kls.k1))}

    def _distance(self) -> float:
        """KL to the start of the policy as it is, on one rollout more; the last row has it before the last update."""
        model, tokens = self.model, self.model.num_timesteps
        model.set_random_seed(EVALUATION_SEED)
        self.env.ended, callback = Ended(), CallbackList([self.penalty] if self.penalty else [])
        callback.init_callback(model)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        model.num_timesteps = tokens  # of these nothing is learned
        return self.kl()["kl"]

    def _learned(self) -> dict[str, float]:
        """What SB3 tells of its updates."""
        told = {k.removeprefix("train/"): v for k, v in self.model.logger.name_to_value.items()}
        kept = ("value_loss", "approx_kl", "clip_fraction", "explained_variance", "learning_rate")
        return {"entropy": -float(told["entropy_loss"])} | {k: float(told[k]) for k in kept if k in told}

    def _evaluation(self, env_id: str) -> dict[str, Any]:
        """An id as ``agents.training.trainer`` evaluates it, with draws of its own."""
        n, split = self.config.eval_episodes, self.config.final_split
        if not n:
            return {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(EVALUATION_SEED)
            act = self._with_memory if self.penalty else self._own_policy().act
            extra = {"metrics": self.config.metrics, **self.arguments}
            result = evaluate(act, env_id, split, EVALUATION_SEED, n, min(128, n), **extra)
        return report.as_dict(result)

    def _own_policy(self) -> OwnPolicy:
        """The same network as the agents here sample from it, with their cache."""
        network = self.model.policy.features_extractor.network
        return OwnPolicy(network, self.budget, generator=torch.Generator().manual_seed(EVALUATION_SEED))

    def _with_memory(self, observations: dict[str, np.ndarray], state: Any, starts: np.ndarray) -> Any:
        return self.model.predict(observations, state)

    def _finish(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        network = self.model.policy.features_extractor.network
        counts = {"tokens": self.model.num_timesteps, "seconds": self.seconds, "kl": self._distance()}
        words = vocabulary_metadata(self.task.tokenizer)
        tensors, shapes = {"policy": network.trained_state()}, {"policy": network.config}
        checkpoints.save_checkpoint(self.folder, len(self.rows), tensors, files.standard(counts), shapes, words)
        self.model.save(self.folder / "model.zip")
        also = {env_id: self._evaluation(env_id) for env_id in self.config.also}
        outcome = report.Outcome(counts, before, after, also)
        return report.finish(self.name, self.config, self.folder, self.rows, outcome, self.task.sample, self.console)
