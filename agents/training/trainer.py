"""The training loop: rollouts, updates, logs, evaluations, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from agents import files, progress
from agents.algorithms.base import Algorithm
from agents.algorithms.registry import find
from agents.distributed import processes, sharding
from agents.policies.protocol import AnyNetwork
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import Batch
from agents.settings.ids import check_ids, id_and_split
from agents.settings.shared import TrainConfig
from agents.training import cautions, checkpoints, report, run_folder
from agents.training.alarm import Alarm
from agents.training.interrupts import Interrupts
from agents.training.judging import judge_metrics, judge_scores, load_judge
from agents.training.loggers import AlarmLogger, JSONLines, Logger, TensorBoard
from agents.training.randomness import Randomness
from agents.training.start import check_splits, find_start
from mmenv.evaluation import Evaluation, evaluate
from mmenv.models.checkpoints import vocabulary_metadata
from mmenv.models.devices import device_named
from mmenv.rewards.base import RewardError

EVALUATION_SEED = 12_345


class Trainer:
    """Trains one policy in one folder.

    Args:
        algorithm: a name of ``agents.algorithms.registry.ALGORITHMS``, or ``package.module:Class``.
        config: an instance of the algorithm's ``Config``.
        folder: where everything is written.
        network: None loads ``config.start``.
        resume: whether to go on from the folder's checkpoint; without a checkpoint the run starts from the beginning.
        console: where the progress bar goes.
        loggers: further loggers of metrics, beside JSON lines, TensorBoard and the progress bar.
        **arguments: further arguments of the environment, and ``reward`` where it is a function; a run with such
            arguments is resumed with the same.
    """

    def __init__(
        self,
        algorithm: str,
        config: TrainConfig,
        folder: Path,
        network: AnyNetwork | None = None,
        resume: bool = False,
        console: Console | None = None,
        loggers: Sequence[Logger] = (),
        **arguments: Any,
    ) -> None:
        self.name, self.config, self.folder = algorithm, config, folder
        device_named(config.device)  # an unknown device is refused before anything is loaded
        processes.join(config.device)
        self.console = Console(quiet=True) if processes.rank() > 0 else console or progress.console()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_ids(config.env_id, *config.also)
        self.checkpoint = self._find_checkpoint(resume)
        saved = checkpoints.read_checkpoint(self.checkpoint) if self.checkpoint else None
        config = processes.local_config(config)
        start = find_start(config, self.checkpoint)
        self.arguments = {**config.reward_arguments(), **start.env_arguments(config.dataset), **arguments}
        env: Any = gym.make_vec(
            config.env_id, num_envs=config.num_envs, autoreset_mode="Disabled", copy=False, **self.arguments
        )
        self.env = env.unwrapped
        self.judge = None if config.judge is None else load_judge(config.judge, self.env.task)
        check_splits(config, self.env.task)
        self.loggers, self.alarms = list(loggers), AlarmLogger([], self.console)
        self.randomness = Randomness(config.device, config.seed)
        network = network or start.network(config.env_id, self.env.episode_spec)
        cls = find(algorithm)
        self.policy, reference = self._policies(cls, config, network)
        self.evaluation_message = f"evaluating {config.eval_episodes} episodes of the {config.final_split} split"
        self.tokens, self.updates, self.seconds = 0, 0, 0.0
        self.before: dict[str, Any] = {}
        self.best: dict[str, Any] | None = None
        self.last_kl = 0.0
        self.cautions = cautions.of_models(config.reward, config.judge)
        self.interrupts = Interrupts(functools.partial(progress.say, self.console))
        with checkpoints.fits(self.checkpoint, folder):
            if saved:
                self.policy.network.load_trained_state(saved[0]["policy"])  # before it is sharded
            sharding.shard(self.policy, config.micro_batches)
            self.algorithm = cls(config, self.policy, reference, self.randomness.rng, self.randomness.contexts)
            sharding.gather_weights(self.policy)
            if saved:
                self._restore(*saved)
        self.algorithm.say = functools.partial(progress.say, self.console)
        if not sharding.is_enabled():
            # A value head or new words may begin at random.
            processes.broadcast(self.policy.trainable_parameters())

    def _policies(self, cls: type[Algorithm], config: TrainConfig, network: AnyNetwork) -> tuple[TokenPolicy, ...]:
        """The policy that learns, and the frozen reference."""
        frozen = network.frozen()  # before anything is set to learn
        budget, generator = self.env.episode_spec.budget, self.randomness.generator
        policy = cls.make_policy(config, network, budget, generator).to(config.device)
        reference = TokenPolicy(frozen, budget, config.temperature, config.train_encoder, generator, policy.top_p)
        return policy, reference.to(config.device).requires_grad_(False)

    @property
    def alarm(self) -> Alarm | None:
        """The hacking alarm that went off, if one did."""
        return self.alarms.alarm

    def _find_checkpoint(self, resume: bool) -> Path | None:
        """The checkpoint to resume from; a new run must find room in its folder.

        Raises:
            RunError: the folder of a new run holds another one.
            ValueError: the processes see different checkpoints.
        """
        checkpoint = checkpoints.newest_checkpoint(self.folder) if resume else None
        if not resume:
            run_folder.check_room(self.folder, self.config.overwrite)
        if len(set(processes.gather(checkpoint and checkpoint.name))) > 1:
            raise ValueError(f"the processes see different checkpoints: have {self.folder} on a disk that they share")
        return checkpoint

    def _begin(self) -> None:
        """Delete an earlier run in the folder and write the settings of this one."""
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        run_folder.begin(self.folder, self.config.overwrite, config)

    def _drop_rows_after_checkpoint(self) -> None:
        """Drop the rows that were logged after the checkpoint.

        Raises:
            RunError: another process has meanwhile gone on with the run.
        """
        if checkpoints.newest_checkpoint(self.folder) != self.checkpoint:
            raise files.RunError(f"{self.folder} has gone on since it was read: --resume it again")
        rows = [row for row in self._metrics() if row["update"] <= self.updates]
        files.write_lines(self.folder / "metrics.jsonl", rows)

    def _restore(self, tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Restore everything but the weights of the policy, which are loaded before."""
        self.algorithm.reference.network.load_trained_state(tensors["reference"])
        optimiser = self.algorithm.optimiser
        if optimiser is not None and "optimiser" in tensors:
            moments = sharding.shard_moments(tensors["optimiser"], optimiser.param_groups[0]["params"])
            checkpoints.restore_optimiser(optimiser, moments)
        for name, network in self.algorithm.networks().items():
            network.load_trained_state(tensors[name])
        nothing, path = type(None), (self.checkpoint or self.folder) / "state.json"
        field = functools.partial(files.read_field, path, state)
        self.algorithm.restore(field("algorithm", dict))
        self.tokens, self.updates = field("tokens", int), field("updates", int)
        self.seconds, kl = field("seconds", int, float), field("kl", int, float, nothing)
        self.last_kl = float("nan") if kl is None else kl
        self.before, self.best = field("before", dict), field("best", dict, nothing)
        saved_by = self.randomness.restore(tensors["generator"], field("rng", dict), self.updates)
        if saved_by != processes.size():
            message = f"resumed on {processes.size()} of {saved_by} processes: with new random numbers from here"
            progress.say(self.console, message)

    def _save(self) -> None:
        generators, rngs = self.randomness.gather()
        weights = sharding.full_tensors(self.policy.network.trained_state())
        optimiser = self.algorithm.optimiser
        moments = sharding.full_tensors(checkpoints.optimiser_tensors(optimiser)) if optimiser else {}
        sharding.gather_weights(self.policy)
        if processes.rank() > 0:
            return
        reference = self.algorithm.reference.network
        tensors = {
            "policy": weights,
            "reference": reference.trained_state(),
            **{name: network.trained_state() for name, network in self.algorithm.networks().items()},
            "generator": generators,
        }
        if moments:
            tensors["optimiser"] = moments
        # The generators of the lanes are not saved: the trainer picks every sample, so that they never draw.
        state = {
            "tokens": self.tokens,
            "updates": self.updates,
            "seconds": self.seconds,
            "rng": rngs,
            "algorithm": self.algorithm.counters(),
            "before": files.standard(self.before),
            "best": self.best,
            "kl": files.standard(self.last_kl),
        }
        networks = {"policy": self.policy.network, "reference": reference, **self.algorithm.networks()}
        shapes, words = {k: v.config for k, v in networks.items()}, vocabulary_metadata(self.env.tokenizer)
        keep = [self.best["update"]] if self.best else []
        checkpoints.save_checkpoint(
            self.folder, self.updates, tensors, state, shapes, words, keep, constant=("reference",)
        )

    def train(self) -> dict[str, Any] | None:
        """Train to the end.

        Returns:
            the summary, or None when an interrupt ended the run early with a checkpoint.

        Raises:
            RewardError: the reward failed; the checkpoint holds all updates before it.
            RankLost: another process of the run has ended; the last regular checkpoint stays.
            FloatingPointError: the loss is not finite; the last regular checkpoint stays.
        """
        config = self.config
        self.algorithm.prepare(self.env)  # errors come before the folder is touched
        with self.interrupts.handled(), contextlib.ExitStack() as stack:
            processes.on_rank_zero(lambda: stack.enter_context(run_folder.writing(self.folder)))
            with progress.bar(self.console, self.name, config.total_tokens, self.tokens, "tokens") as show:
                for caution in self.cautions:
                    self.algorithm.say(caution)
                if config.eval_episodes and not self.before:
                    show(self.tokens, f"{self.evaluation_message} before training")
                    self.before = processes.on_rank_zero(lambda: self._evaluation(config.final_split))
                processes.on_rank_zero(self._begin if self.checkpoint is None else self._drop_rows_after_checkpoint)
                self._save()
                self._learn(show)
                self._save()
                ended = None if any(processes.gather(self.interrupts.requested)) else self._final_evaluation(show)
            if ended is None:
                progress.say(self.console, f"interrupted after {self.tokens} tokens; go on with --resume {self.folder}")
                return None
            return processes.on_rank_zero(lambda: self._write_summary(*ended))

    def _learn(self, show: progress.Show) -> None:
        """Update until the run is over; the first process logs for all."""
        loggers = self._start_loggers(show) if processes.rank() == 0 else []
        with contextlib.ExitStack() as stack:
            for logger in loggers:
                stack.callback(logger.close)
            while not self._is_finished():
                row = self._update()
                values = files.standard(row)
                for logger in loggers:
                    logger.log(values, self.tokens)
                if loggers:
                    show(self.tokens, report.note(values, self.alarm is not None))
                if self._record_best(row) or self.updates % self.config.checkpoint_every == 0:
                    self._save()

    def _start_loggers(self, show: progress.Show) -> list[Logger]:
        """The loggers of the run; the alarm may have gone off before the checkpoint."""
        self.alarms = AlarmLogger(self._metrics(), self.console)
        board = TensorBoard(self.folder / "tensorboard", self.tokens)
        return [JSONLines(self.folder / "metrics.jsonl"), self.alarms, board, *self.loggers]

    def _metrics(self) -> list[dict[str, Any]]:
        """The rows of the run so far; damaged ones are reported and left out."""
        return run_folder.read_metrics(self.folder / "metrics.jsonl", functools.partial(progress.say, self.console))

    def _record_best(self, row: Mapping[str, Any]) -> bool:
        """Keep an update's evaluation if it is the best so far, by gold, or by reward without gold; says if it was."""
        split = self.config.eval_split
        name = next((n for n in (f"{split}_gold", f"{split}_reward") if row.get(n) is not None), None)
        if name is None or not np.isfinite(row[name]) or (self.best and row[name] <= self.best.get(name, np.inf)):
            return False
        self.best = {"update": self.updates, "tokens": self.tokens, name: row[name]}
        return True

    def _is_finished(self) -> bool:
        """Whether some process has used up the budget, was interrupted, or has met a condition that ends the run."""
        config = self.config
        far = config.stop_at_kl is not None and self.last_kl >= config.stop_at_kl
        alarmed = self.alarm is not None and config.stop_on_alarm
        ended = self._progress() >= 1 or self.interrupts.requested
        return any(processes.gather(ended or far or alarmed or self.algorithm.finished))

    def _progress(self) -> float:
        """Share of the budget that is used up, of tokens or of seconds, whichever is greater."""
        config = self.config
        timed = 0.0 if config.max_seconds is None else self.seconds / config.max_seconds
        return max(self.tokens / config.total_tokens, timed)

    def _sample(self) -> tuple[Batch, Batch | None, dict[str, float]]:
        """Collect the training batch, an on-policy batch for logging, and the judge's metrics of that.

        On a RewardError the random generators are restored and a checkpoint is saved, so that a resumed run samples
        the same again; then it is raised.
        """
        states, failure = self.randomness.states(), None
        self.policy.eval()
        try:
            batch = self.algorithm.collect(self.env)
            logged: Batch | None = batch
            if not self.algorithm.on_policy:
                # Off-policy algorithms are logged on other contexts than they learn from; these tokens are not counted.
                watched = self.algorithm.watches_responses(self.updates + 1)
                logged = self.algorithm.play(self.policy, self.env, self.randomness.rng) if watched else None
            judged = logged and self.judge and judge_scores(self.judge, self.env.reward_function, logged)
        except RewardError as error:
            failure = error
        if any(processes.gather(failure is not None)):
            self.randomness.set(states)
            self._save()
            raise failure or RewardError("the reward failed in another process, whose message says how")
        return batch, logged, judge_metrics(logged, *judged) if logged and judged else {}

    def _update(self) -> dict[str, float]:
        """One update of the policy; its row of metrics."""
        started, config = time.perf_counter(), self.config
        batch, logged, metrics = self._sample()
        sampled = time.perf_counter()
        if logged and logged is not batch:
            metrics |= self.algorithm.distance(logged)
        metrics |= self.algorithm.update(batch, min(1.0, self._progress()))
        if logged and "kl" not in metrics:  # an algorithm of one's own may not log it
            metrics |= self.algorithm.distance(logged)
        seconds = max(processes.gather(time.perf_counter() - started))
        tokens = sum(processes.gather(batch.num_tokens + batch.extra_tokens))
        self.tokens += tokens
        self.updates += 1
        self.seconds += seconds
        self.last_kl = metrics.get("kl", self.last_kl)
        row = {"update": self.updates, "tokens": self.tokens, "seconds": self.seconds}
        if logged:
            row |= report.describe(report.gather_stats(logged))
        row |= metrics
        row["tokens_per_second"] = tokens / seconds
        row["rollout_share"] = (sampled - started) / seconds
        if config.eval_every is not None and self.updates % config.eval_every == 0:
            result = processes.on_rank_zero(lambda: self._evaluation(config.eval_split))
            row |= {f"{config.eval_split}_{name}": result[name] for name in ("gold", "reward", "length")}
            row[f"{config.eval_split}_greedy_gold"] = result["greedy"]["gold"]
        return row

    def _evaluation(self, split: str, env_id: str | None = None) -> dict[str, Any]:
        """Evaluate the current policy, sampled and greedy, with a separate generator: training continues unchanged."""
        what = (env_id or self.config.env_id, split, self.config.eval_episodes)
        return report.both_as_dict(self.evaluate(*what), self.evaluate(*what, greedy=True))

    def evaluate(
        self, env_id: str, split: str = "test", episodes: int = 512, greedy: bool = False, **world: Any
    ) -> Evaluation:
        """Evaluate the policy on an id of its task, greedily or sampled; ``world`` may hold ``level`` and ``shift``."""
        generator = torch.Generator(self.config.device).manual_seed(EVALUATION_SEED)
        act = self.algorithm.evaluation_policy(generator, self.env, greedy)
        arguments = {"metrics": self.config.metrics, **self.arguments, **world}
        return evaluate(act, env_id, split, EVALUATION_SEED, episodes, min(128, episodes), **arguments)

    def _final_kl(self) -> float:
        """KL to the start of the final policy; the row of the last update has that of the policy before that update."""
        self.policy.eval()
        with self.randomness.replaced(processes.rank_seed(EVALUATION_SEED)):
            return self.algorithm.distance(self.algorithm.play(self.policy, self.env))["kl"]

    def _final_evaluation(self, show: progress.Show) -> tuple[float, dict[str, Any], dict[str, Any]]:
        """The final policy's KL to the start, its evaluation, and those on other ids by id."""
        show(self.tokens, f"{self.evaluation_message} after training", ended=True)
        return self._final_kl(), *processes.on_rank_zero(self._evaluations)

    def _evaluations(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Evaluations of the current policy on the id of the run, and on others by id."""
        if not self.config.eval_episodes:
            return {}, {}
        split = self.config.final_split
        others = {entry: id_and_split(entry, split) for entry in self.config.also}
        return self._evaluation(split), {k: self._evaluation(other, env_id) for k, (env_id, other) in others.items()}

    def _write_summary(self, kl: float, after: dict[str, Any], also: dict[str, Any]) -> dict[str, Any]:
        """Write the figures, samples and summary of the finished run; returns the summary."""
        counts = {"tokens": self.tokens, "seconds": self.seconds, "kl": kl}
        metrics, extra = self._metrics(), dict[str, Any]()
        if self.judge is not None:
            extra["alarm"] = dataclasses.asdict(self.alarm) if self.alarm else None
            if self.alarm is None and (caution := cautions.of_alarm(metrics)):
                self.algorithm.say(caution)
                self.cautions.append(caution)
        if self.cautions:
            extra["cautions"] = self.cautions
        if self.best is not None:
            extra["best"] = self.best
        outcome = report.Outcome(counts, self.before, after, also, extra)
        return report.finish(
            self.name,
            self.config,
            self.folder,
            metrics,
            outcome,
            self.env.task.sample,
            self.console,
            self.alarm,
            self.algorithm.reward_is,
        )
