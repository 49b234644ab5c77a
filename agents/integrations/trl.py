"""TRL's GRPOTrainer in run folders of the same form as those of the algorithms here.

TRL takes no observations, so a word of the prompt stands for picture and question (``trl_network.py``). It trains the
same network from the same start, on the same contexts and reward. What this module does not set is TRL's own default:
``use_bias_correction_kl=True``, no adaptive beta, and advantages scaled by the group.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from agents import files, progress
from agents.maths.kl import k3
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import context_generator, draw_contexts, rollout
from agents.settings.bounds import ClipRange, Count, LaneCount, NonNegative, Threads
from agents.settings.ids import check_ids, id_and_split
from agents.settings.shared import BudgetConfig, EvaluationConfig, KLConfig, OptimiserConfig, RunConfig
from agents.training import cautions, checkpoints, report, run_folder
from agents.training.loggers import JSONLines, Logger
from agents.training.start import weights_start
from mmenv.arguments import require
from mmenv.data.sample import Response, Sample
from mmenv.evaluation import evaluate
from mmenv.models.checkpoints import vocabulary_metadata
from mmenv.models.transformer import Network, Prefix
from mmenv.rewards.tokens import returns

with require("trl"):
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

from agents.integrations import trl_network
from mmenv.integrations.trl import response

EVALUATION_SEED = 12_345
CHUNK = 256  # contexts that are encoded at once


@dataclass(frozen=True, kw_only=True)
class TRLConfig(KLConfig, EvaluationConfig, OptimiserConfig, BudgetConfig, RunConfig):
    """TRL's GRPOTrainer, for tasks with one response an episode."""

    num_envs: LaneCount = 64
    """Completions of one update."""
    responses_per_context: Count = 4
    """Completions of each context (num_generations)."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """The mean that the loss is: dapo is TRL's default, over all tokens; grpo is over responses, as published."""
    kl_coef: NonNegative = 0.0
    """Beta of the KL in the loss; 0 is TRL's default."""
    clip_coef: ClipRange = 0.2
    """Epsilon of both sides of the clip range."""
    missing_eos_penalty: NonNegative = 1.0
    """Subtracted from the score of a response that used up its budget without an end token."""
    threads: Threads | None = None
    """Torch threads; None leaves torch's own choice."""


class TRLRun:
    """Trains one policy in one folder; the folder is that of ``agents.training.trainer``, without a resume.

    Args:
        name: of the algorithm.
        config: its configuration.
        folder: where everything is written.
        console: where progress is printed.

    Raises:
        ValueError: the task has several turns, which GRPOTrainer does not play.
    """

    def __init__(self, name: str, config: TRLConfig, folder: Path, console: Console | None = None) -> None:
        self.name, self.config, self.folder, self.console = name, config, folder, console or progress.console()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_ids(config.env_id, *config.also)
        run_folder.check_room(folder, config.overwrite)
        start = weights_start(config.start)
        self.arguments = {**config.reward_arguments(), **start.env_arguments(config.dataset)}
        self.env = self._make_env(config.num_envs)
        task = self.env.task
        if task.pays_at_end or task.follow_up(task.sample("train", 0), Response("")) is not None:
            raise ValueError(f"{config.env_id} has several turns, which TRL's GRPOTrainer does not play: take ppo")
        self.budget = self.env.episode_spec.budget
        self.network = cast(Network, start.network(config.env_id, self.env.episode_spec))
        self.rows: list[dict[str, Any]] = []
        self.tokens, self.seconds, self.started = 0, 0.0, 0.0
        self.loggers: list[Logger] = [JSONLines(folder / "metrics.jsonl")]
        self.samples: list[Sample] = []

    def _make_env(self, lanes: int) -> Any:
        env = gym.make_vec(self.config.env_id, num_envs=lanes, autoreset_mode="Disabled", copy=False, **self.arguments)
        return env.unwrapped

    def train(self) -> dict[str, Any]:
        """Train to the end; returns the summary, as ``agents.training.trainer`` writes it.

        Raises:
            RewardError: the reward failed.
        """
        with run_folder.writing(self.folder):
            for caution in cautions.of_models(self.config.reward):
                progress.say(self.console, caution)
            before = self._evaluation(self.config.env_id)
            self._begin()
            start = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self._learn(self._updates())
            kl = self._kl_to(start)
            after = self._evaluation(self.config.env_id)
            also = {entry: self._evaluation(entry) for entry in self.config.also}
            return self._write_summary(kl, before, after, also)

    def _begin(self) -> None:
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        run_folder.begin(self.folder, self.config.overwrite, config)

    def _updates(self) -> int:
        """Updates that fit into the budget, by the length of the start's responses."""
        batch = self._rollout(self._policy(self.config.seed))
        return max(1, round(self.config.total_tokens / batch.num_tokens))

    def _policy(self, seed: int) -> TokenPolicy:
        return TokenPolicy(self.network, self.budget, generator=torch.Generator().manual_seed(seed))

    def _rollout(self, policy: TokenPolicy) -> Any:
        contexts = draw_contexts(self.env, context_generator(EVALUATION_SEED), self.config.responses_per_context)
        return rollout(policy, self.env, {"sample_index": contexts})

    def _learn(self, updates: int) -> None:
        """Let TRL train, and take the learned weights back."""
        config = self.config
        each = -(-config.num_envs // config.responses_per_context)
        stream = context_generator(config.seed)
        indices = stream.integers(self.env.task.size("train"), size=updates * each).tolist()
        self.samples = [self.env.task.sample("train", index) for index in indices]
        trl_network.ENCODED["contexts"] = self._encoded(indices)
        self.started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trl_network.save_start(self.network, folder)
            reward: Any = self._reward
            trainer: Any = GRPOTrainer(
                model=trl_network.Policy.from_pretrained(folder, trust_remote_code=False, use_safetensors=True),
                reward_funcs=reward,
                train_dataset=self._dataset(len(indices)),
                processing_class=trl_network.word_tokenizer(self.env.tokenizer, len(indices)),
                callbacks=[Stop(self)],
                args=self._settings(folder, updates),
            )
            trainer.train()
            self.network.load_state_dict(trainer.model.body.network.state_dict())
        trl_network.ENCODED.clear()

    def _dataset(self, contexts: int) -> Any:
        import datasets

        columns = {"prompt": [trl_network.context_word(k) for k in range(contexts)], "index": list(range(contexts))}
        return datasets.Dataset.from_dict(columns)

    def _settings(self, folder: str, updates: int) -> GRPOConfig:
        """TRL's settings: what the contest holds equal, what the config names, and no more."""
        config = self.config
        return GRPOConfig(
            output_dir=folder,
            seed=config.seed,
            shuffle_dataset=False,  # contexts come in the order of the stream that all algorithms share
            max_steps=updates * config.epochs * config.minibatches,
            per_device_train_batch_size=config.num_envs // config.minibatches,
            steps_per_generation=config.minibatches,
            num_iterations=config.epochs,
            num_generations=config.responses_per_context,
            loss_type=config.loss_type,
            beta=config.kl_coef,
            epsilon=config.clip_coef,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            adam_epsilon=config.adam_eps,
            max_grad_norm=config.max_grad_norm,
            max_completion_length=self.budget,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            generation_kwargs={"use_cache": False},
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )

    @torch.no_grad()
    def _encoded(self, indices: Sequence[int]) -> Prefix:
        """The contexts of samples of the training split, encoded."""
        parts: list[Any] = []
        for first in range(0, len(indices), CHUNK):
            chunk = indices[first : first + CHUNK]
            env = self._make_env(len(chunk))
            observations, _ = env.reset(options={"sample_index": np.array(chunk)})
            parts.append(self._policy(0).encode(observations))
        joined: Prefix = parts[0].join(parts[1:], self.env.tokenizer.pad_id)
        return joined

    def _reward(self, completions: Sequence[str], index: Sequence[int], **_: Any) -> list[float]:
        """Scores of an update's completions, with TRL's columns; logs the update."""
        samples = [self.samples[i] for i in index]
        responses = [response(self.env, completion) for completion in completions]
        scores = np.asarray(returns(self.env.reward_function, samples, responses), dtype=np.float32)
        gold = [self.env.task.gold(sample, answer) for sample, answer in zip(samples, responses, strict=True)]
        tokens = sum(len(answer.tokens) for answer in responses)
        self._log(scores, np.array([np.nan if g is None else float(g) for g in gold]), responses, tokens)
        return [float(s) - self.config.missing_eos_penalty * (r.stop != "eos")
                for s, r in zip(scores, responses, strict=True)]  # fmt: skip

    def _log(self, scores: np.ndarray, gold: np.ndarray, responses: Sequence[Response], tokens: int) -> None:
        self.tokens += tokens
        seconds = time.perf_counter() - self.started
        row = {"update": len(self.rows) + 1, "tokens": self.tokens, "seconds": seconds}
        texts, stops = [r.text for r in responses], [r.stop for r in responses]
        row |= report.describe(report.BatchStats(torch.from_numpy(scores), gold, texts, stops, tokens))
        row["tokens_per_second"] = tokens / max(1e-9, seconds - self.seconds)
        self.seconds = seconds
        self.rows.append(row)
        for logger in self.loggers:
            logger.log(files.standard(row), self.tokens)
        progress.say(self.console, f"{self.tokens:,}/{self.config.total_tokens:,} tokens  {report.note(row)}")

    def is_over(self) -> bool:
        """Whether the budget of tokens or of seconds is used up."""
        timed = self.config.max_seconds is not None and self.seconds >= self.config.max_seconds
        return timed or self.tokens >= self.config.total_tokens

    @torch.no_grad()
    def _kl_to(self, start: dict[str, Tensor]) -> float:
        """KL of the policy to the start in nats a response, on one batch."""
        batch = self._rollout(self._policy(EVALUATION_SEED))
        learned = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        logp = self._policy(0).evaluate(batch.responses(), entropy=False).logp
        self.network.load_state_dict(start)
        ref_logp = self._policy(0).evaluate(batch.responses(), entropy=False).logp
        self.network.load_state_dict(learned)
        return float((k3(logp, ref_logp) * batch.mask).sum(1).mean())

    def _evaluation(self, entry: str) -> dict[str, Any]:
        """Evaluate on ID or ID@SPLIT, sampled and greedy, as ``agents.training.trainer`` does."""
        n = self.config.eval_episodes
        if not n:
            return {}
        env_id, split = id_and_split(entry, self.config.final_split)
        extra = {"metrics": self.config.metrics, **self.arguments}
        results = []
        for greedy in (False, True):
            policy = self._policy(EVALUATION_SEED)
            policy.greedy = greedy
            results.append(evaluate(policy.act, env_id, split, EVALUATION_SEED, n, min(128, n), **extra))
        return report.both_as_dict(*results)

    def _write_summary(
        self, kl: float, before: dict[str, Any], after: dict[str, Any], also: dict[str, Any]
    ) -> dict[str, Any]:
        counts = {"tokens": self.tokens, "seconds": self.seconds, "kl": kl}
        words = vocabulary_metadata(self.env.tokenizer)
        tensors, shapes = {"policy": self.network.trained_state()}, {"policy": self.network.config}
        checkpoints.save_checkpoint(self.folder, len(self.rows), tensors, files.standard(counts), shapes, words)
        outcome = report.Outcome(counts, before, after, also)
        return report.finish(
            self.name, self.config, self.folder, self.rows, outcome, self.env.task.sample, self.console
        )


class Stop(TrainerCallback):
    """Ends TRL's training when the budget is used up."""

    def __init__(self, run: TRLRun) -> None:
        self.run = run

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = control.should_training_stop or self.run.is_over()
        return control
