"""The loop around an algorithm: rollouts, updates, logs, evaluations, pictures, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from agents import progress
from agents.algorithms.names import check_trust
from agents.algorithms.registry import ALGORITHMS, find
from agents.distributed import processes, sharding
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.rollout import Batch
from agents.settings.ids import check_ids
from agents.settings.saved import read_settings
from agents.settings.shared import TrainConfig
from agents.training import cautions, report, run_folder
from agents.training.alarm import Alarm
from agents.training.loggers import RunLog, judge_named, judged_by, metrics_of, watched
from agents.training.start import find_start
from mmenv.arguments import one_of
from mmenv.data.sample import ALL, SPLITS
from mmenv.evaluation import Evaluation, evaluate
from mmenv.models.checkpoints import vocabulary_metadata
from mmenv.models.devices import device_named
from mmenv.models.transformer import Network
from mmenv.rewards.base import RewardError

EVALUATION_SEED = 12_345


class Trainer:
    """Trains one policy in one folder.

    Args:
        algorithm: a name of ``agents.algorithms.registry.ALGORITHMS``, or ``package.module:Class``.
        config: an instance of the algorithm's ``Config``.
        folder: where everything is written.
        network: None loads ``config.start``.
        resume: whether to go on from the folder's checkpoint; a run killed before its first one begins anew.
        console: where the progress bar goes.
        **arguments: further arguments of the environment, and ``reward`` where it is a function; a run with such
            arguments is resumed with the same.
    """

    def __init__(
        self,
        algorithm: str,
        config: TrainConfig,
        folder: Path,
        network: Network | None = None,
        resume: bool = False,
        console: Console | None = None,
        **arguments: Any,
    ) -> None:
        self.name, self.config, self.folder = algorithm, config, folder
        device_named(config.device)  # refused before anything is loaded
        processes.join(config.device)
        self.console = Console(quiet=True) if processes.rank() > 0 else console or progress.console()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_ids(config.env_id, *config.also)
        checkpoint = self.checkpoint = run_folder.newest_checkpoint(folder) if resume else None
        if not resume:
            run_folder.check_room(folder, config.overwrite)
        if len(set(processes.gather(checkpoint and checkpoint.name))) > 1:
            raise ValueError(f"the processes see different checkpoints: have {folder} on a disk that they share")
        saved = run_folder.read_checkpoint(checkpoint) if checkpoint else None
        config = processes.own(config)
        start = find_start(config, checkpoint)
        self.arguments = {"reward": config.reward, **start.env_arguments(config.dataset), **arguments}
        env: Any = gym.make_vec(
            config.env_id, num_envs=config.num_envs, autoreset_mode="Disabled", copy=False, **self.arguments
        )
        self.env = env.unwrapped
        self.judge = None if config.judge is None else judge_named(config.judge, self.env.task)
        self._check_splits()
        self.log: RunLog | None = None
        self.generator = torch.Generator(config.device).manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        network = network or start.network(config.task_name, self.env.setup)
        cls, budget = find(algorithm), int(self.env.single_observation_space["response"].shape[0])
        frozen = network.frozen()
        self.policy = cls.make_policy(config, network, budget, self.generator).to(config.device)
        reference = TokenPolicy(
            frozen, budget, config.temperature, config.train_encoder, self.generator, self.policy.top_p
        )
        self.tokens, self.updates, self.seconds = 0, 0, 0.0
        self.before: dict[str, Any] = {}
        self.best: dict[str, Any] | None = None
        self.last_kl = 0.0
        self.cautions = cautions.of_models(config.reward, config.judge)
        self._stop = False
        with self._fitting():
            if saved:
                self.policy.network.load_trained_state(saved[0]["policy"])  # whole: parts are made of it next
            sharding.shard(self.policy, config.micro_batches)
            self.algorithm = cls(config, self.policy, reference.to(config.device).requires_grad_(False), self.rng)
            sharding.whole(self.policy.network)
            if saved:
                self._restore(*saved)
        self.algorithm.say = functools.partial(progress.say, self.console)
        if not sharding.asked():
            processes.same(self.algorithm.parameters)  # parts of a policy may begin at random

    @property
    def alarm(self) -> Alarm | None:
        """What has rung."""
        return self.log.alarm if self.log else None

    def _check_splits(self) -> None:
        """Refuse a split that does not exist or is empty before anything is written."""
        config, task = self.config, self.env.task
        used = {"final_split": config.eval_episodes > 0, "eval_split": config.eval_every is not None}
        for name, needed in used.items():
            split = one_of(name, getattr(config, name), SPLITS if task.dataset is None else (*SPLITS, ALL))
            if needed and not task.size(split):
                raise ValueError(f"{name}={split!r}: the dataset has no samples for it, give another")

    def _begin(self) -> None:
        """Make the folder that of this run; what another left there goes."""
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        run_folder.begin(self.folder, self.config.overwrite, config)

    def _go_on(self) -> None:
        """Forget what was logged after the checkpoint.

        Raises:
            RunError: another process has meanwhile gone on with the run.
        """
        if run_folder.newest_checkpoint(self.folder) != self.checkpoint:
            raise run_folder.RunError(f"{self.folder} has gone on since it was read: --resume it again")
        rows = [row for row in metrics_of(self.folder, self.console) if row["update"] <= self.updates]
        run_folder.write_lines(self.folder / "metrics.jsonl", rows)

    @contextlib.contextmanager
    def _fitting(self) -> Iterator[None]:
        """See that a checkpoint that is not of this run's settings is told of by name."""
        try:
            yield
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            if self.checkpoint is None or isinstance(error, processes.RankLost):
                raise
            told = str(error).splitlines()[0]
            raise run_folder.RunError(
                f"{self.checkpoint} does not fit {self.folder}/config.json ({type(error).__name__}: {told}): copy both "
                "from one backup, or begin anew with --overwrite"
            ) from error

    def _restore(self, tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
        """All but the policy's weights, which it has already."""
        self.algorithm.reference.network.load_trained_state(tensors["reference"])
        if "optimiser" in tensors:
            moments = sharding.parts(tensors["optimiser"], self.algorithm.parameters)
            run_folder.restore_optimiser(self.algorithm.optimiser, moments)
        for name, network in self.algorithm.networks().items():
            network.load_trained_state(tensors[name])
        nothing, path = type(None), (self.checkpoint or self.folder) / "state.json"
        field = functools.partial(run_folder.read_field, path, state)
        self.algorithm.restore(field("algorithm", dict))
        self.tokens, self.updates = field("tokens", int), field("updates", int)
        self.seconds, kl = field("seconds", int, float), field("kl", int, float, nothing)
        self.last_kl = float("nan") if kl is None else kl
        self.before, self.best = field("before", dict), field("best", dict, nothing)
        self._restore_randomness(tensors["generator"], field("rng", dict))

    def _restore_randomness(self, generators: Mapping[str, Tensor], rngs: Mapping[str, Any]) -> None:
        """Every process's own; where they are more or fewer than they were, fresh ones."""
        others, n, rank = rngs.get("others", []), processes.size(), processes.rank()
        if len(others) + 1 == n:
            mine = others[rank - 1] if rank else {k: v for k, v in rngs.items() if k != "others"}
            self._set_randomness((generators[f"state.{rank}" if rank else "state"], mine))
            return
        seed = processes.stream(self.config.seed, self.updates, n)
        self.generator.manual_seed(seed)
        self.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        progress.say(self.console, f"resumed on {n} of {len(others) + 1} processes: with new random numbers from here")

    def _save(self) -> None:
        (generator, rng), *others = processes.gather(self._randomness())
        weights = sharding.full(self.policy.network.trained_state())
        moments = sharding.full(run_folder.optimiser_tensors(self.algorithm.optimiser))
        sharding.whole(self.policy.network)
        if processes.rank() > 0:
            return
        reference = self.algorithm.reference.network
        tensors = {
            "policy": weights,
            "reference": reference.trained_state(),
            **{name: network.trained_state() for name, network in self.algorithm.networks().items()},
            "generator": {"state": generator, **{f"state.{i}": g for i, (g, _) in enumerate(others, 1)}},
        }
        if moments:
            tensors["optimiser"] = moments
        # The lanes' own generators are not here: the trainer picks every sample, so that they never draw.
        state = {
            "tokens": self.tokens,
            "updates": self.updates,
            "seconds": self.seconds,
            "rng": {**rng, "others": [r for _, r in others]} if others else rng,
            "algorithm": self.algorithm.counters(),
            "before": run_folder.standard(self.before),
            "best": self.best,
            "kl": run_folder.standard(self.last_kl),
        }
        networks = {"policy": self.policy.network, "reference": reference, **self.algorithm.networks()}
        shapes, words = {k: v.config for k, v in networks.items()}, vocabulary_metadata(self.env.tokenizer)
        keep = [self.best["update"]] if self.best else []
        run_folder.save_checkpoint(self.folder, self.updates, tensors, state, shapes, words, keep)

    def _randomness(self) -> tuple[Tensor, Mapping[str, Any]]:
        """States of all generators that training draws from."""
        return self.generator.get_state(), self.rng.bit_generator.state

    def _set_randomness(self, states: tuple[Tensor, Mapping[str, Any]]) -> None:
        self.generator.set_state(states[0])
        self.rng.bit_generator.state = states[1]

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
        self.algorithm.prepare(self.env)  # what it refuses is refused before the folder is touched
        with self._signals(), contextlib.ExitStack() as held:
            processes.first(lambda: held.enter_context(run_folder.writing(self.folder)))
            with progress.tokens(self.console, self.name, config.total_tokens, self.tokens) as show:
                for caution in self.cautions:
                    self.algorithm.say(caution)
                if config.eval_episodes and not self.before:
                    show(self.tokens, f"{self._evaluating()} before training")
                    self.before = processes.first(lambda: self._evaluation(config.final_split))
                processes.first(self._begin if self.checkpoint is None else self._go_on)
                self._save()
                self._learn(show)
                self._save()
                ended = None if any(processes.gather(self._stop)) else self._measure(show)
            if ended is None:
                progress.say(self.console, f"interrupted after {self.tokens} tokens; go on with --resume {self.folder}")
                return None
            return processes.first(lambda: self._finish(*ended))

    def _evaluating(self) -> str:
        return f"evaluating {self.config.eval_episodes} episodes of the {self.config.final_split} split"

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Hear interrupts meanwhile; handlers are the main thread's, so whoever trains in another ends it himself."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {signal.SIGINT: signal.signal(signal.SIGINT, self._interrupt)}
        if processes.size() > 1:
            previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _learn(self, show: progress.Show) -> None:
        """Update until the run is over; the first process keeps the log for all."""
        if processes.rank() == 0:
            self.log = RunLog(self.folder, self.tokens, self.console, show)
        with contextlib.closing(self.log) if self.log else contextlib.nullcontext():
            while not self._over():
                row = self._update()
                if self.log:
                    self.log.add(row)
                if self._improves(row) or self.updates % self.config.checkpoint_every == 0:
                    self._save()

    def _improves(self, row: Mapping[str, Any]) -> bool:
        """Whether an update's evaluation is the best so far, by gold, or by reward where gold is not known."""
        split = self.config.eval_split
        name = next((n for n in (f"{split}_gold", f"{split}_reward") if row.get(n) is not None), None)
        if name is None or not np.isfinite(row[name]) or (self.best and row[name] <= self.best.get(name, np.inf)):
            return False
        self.best = {"update": self.updates, "tokens": self.tokens, name: row[name]}
        return True

    def _over(self) -> bool:
        """Whether the tokens are used up, an interrupt came, or what was to end the run has happened, anywhere."""
        config = self.config
        far = config.stop_at_kl is not None and self.last_kl >= config.stop_at_kl
        alarmed = self.alarm is not None and config.stop_on_alarm
        return any(processes.gather(self._share() >= 1 or self._stop or far or alarmed or self.algorithm.finished))

    def _share(self) -> float:
        """How much of the run is over, in tokens or in seconds, whichever is further."""
        config = self.config
        timed = 0.0 if config.max_seconds is None else self.seconds / config.max_seconds
        return max(self.tokens / config.total_tokens, timed)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        """The first interrupt ends the run after the update in progress, the second at once."""
        self._stop = True
        if processes.size() > 1:
            return  # a launcher passes one on to processes that the terminal told already: no second one is meant
        progress.say(self.console, "finishing this update; once more ends the run at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        """A launcher ends the processes that are left when one has died."""
        raise processes.RankLost("the launcher sent SIGTERM")

    def _sample(self) -> tuple[Batch, Batch | None, dict[str, float]]:
        """What is learned from, what the policy says, what is watched; where a reward fails, all before is saved."""
        randomness, failure = self._randomness(), None
        self.policy.eval()
        try:
            batch = said = self.algorithm.collect(self.env)
            if not self.algorithm.on_policy:
                # Of one that learns from others' responses the policy's own are watched; they count for nothing.
                watch = self.algorithm.watches(self.updates + 1)
                said = self.algorithm.play(self.policy, self.env) if watch else None
            judged = said and self.judge and judged_by(self.judge, self.env.reward_function, said)
        except RewardError as error:
            failure = error
        if any(processes.gather(failure is not None)):
            # As if this rollout had never begun: with the reward mended, a resumed run samples the same again.
            self._set_randomness(randomness)
            self._save()
            raise failure or RewardError("the reward failed in another process, whose message says how")
        return batch, said, watched(said, *judged) if said and judged else {}

    def _update(self) -> dict[str, float]:
        begun, config = time.perf_counter(), self.config
        batch, said, watched = self._sample()
        sampled = time.perf_counter()
        if said and said is not batch:
            watched |= self.algorithm.distance(said)
        logs = watched | self.algorithm.update(batch, min(1.0, self._share()))
        if said and "kl" not in logs:  # of an algorithm of one's own, whose update says nothing of it
            logs |= self.algorithm.distance(said)
        took = max(processes.gather(time.perf_counter() - begun))
        tokens = sum(processes.gather(batch.num_tokens))
        self.tokens += tokens
        self.updates += 1
        self.seconds += took
        self.last_kl = logs.get("kl", self.last_kl)
        counts = {"update": self.updates, "tokens": self.tokens, "seconds": self.seconds}
        row = {**counts, **(report.describe(report.told(said)) if said else {}), **logs}
        row["tokens_per_second"] = tokens / took
        row["rollout_share"] = (sampled - begun) / took
        if config.eval_every is not None and self.updates % config.eval_every == 0:
            result = processes.first(lambda: self._evaluation(config.eval_split))
            row |= {f"{config.eval_split}_{name}": result[name] for name in ("gold", "reward", "length")}
        return row

    def _evaluation(self, split: str) -> dict[str, Any]:
        """Evaluate the policy as it is, with a generator of its own so that training goes on unchanged."""
        config = self.config
        return report.as_dict(self.evaluate(config.env_id, split, config.eval_episodes))

    def evaluate(self, env_id: str, split: str = "test", episodes: int = 512) -> Evaluation:
        """The policy as it is on an id, its own or another of the same task."""
        generator = torch.Generator(self.config.device).manual_seed(EVALUATION_SEED)
        act = self.algorithm.actor(generator, self.env)
        told = {"metrics": self.config.metrics, **self.arguments}
        return evaluate(act, env_id, split, EVALUATION_SEED, episodes, min(128, episodes), **told)

    def _distance(self) -> float:
        """KL to the start of the policy as it is, on one batch more, with draws of its own: nothing else changes.

        The row of the last update has it of the policy before that update.
        """
        randomness = self._randomness()
        seed = processes.stream(EVALUATION_SEED)
        own = torch.Generator(self.generator.device).manual_seed(seed)
        self._set_randomness((own.get_state(), np.random.default_rng(seed).bit_generator.state))
        self.policy.eval()
        try:
            return self.algorithm.distance(self.algorithm.play(self.policy, self.env))["kl"]
        finally:
            self._set_randomness(randomness)

    def _measure(self, show: progress.Show) -> tuple[float, dict[str, Any], dict[str, Any]]:
        """Of the policy that was learned: its KL to the start, its evaluation, and those on other ids by name."""
        show(self.tokens, f"{self._evaluating()} after training", ended=True)
        return self._distance(), *processes.first(self._evaluations)

    def _evaluations(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The policy as it is on the run's own id, and on others by name."""
        config = self.config
        if not config.eval_episodes:
            return {}, {}
        split, n = config.final_split, config.eval_episodes
        return self._evaluation(split), {i: report.as_dict(self.evaluate(i, split, n)) for i in config.also}

    def _finish(self, kl: float, after: dict[str, Any], also: dict[str, Any]) -> dict[str, Any]:
        """Write what is left of a finished run."""
        config = self.config
        counts = {"tokens": self.tokens, "seconds": self.seconds, "kl": kl}
        metrics, alarm = metrics_of(self.folder, self.console), self.alarm and self.alarm.tokens
        sample_of, reward_is = self.env.task.sample, self.algorithm.reward_is
        report.illustrate(self.name, config, self.folder, metrics, self.before, after, sample_of, alarm, reward_is)
        summary = report.summarise(self.name, config, counts, self.before, after, also)
        if self.judge is not None:
            summary["alarm"] = dataclasses.asdict(self.alarm) if self.alarm else None
            if self.alarm is None and (caution := cautions.of_alarm(metrics)):
                self.algorithm.say(caution)
                self.cautions.append(caution)
        if self.cautions:
            summary["cautions"] = self.cautions
        if self.best is not None:
            summary["best"] = self.best
        # Last: a folder with a summary is a whole one.
        run_folder.write_json(self.folder / "summary.json", summary)
        self.console.print(report.table(summary, config.total_tokens))
        progress.say(self.console, f"run: {self.folder} ({report.files(config)})")
        return summary


def resume(folder: Path, trusted: Sequence[str] = ()) -> Trainer:
    """The trainer of a run's folder, where its checkpoint left off; nothing is written before it trains.

    Args:
        folder: of the run.
        trusted: modules, or names with them, that the folder may have imported, for its algorithm and its ids.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it names other modules, holds what has no exact resume, or has a damaged file.
    """
    name, path = run_folder.algorithm_of(folder), folder / "config.json"
    if name not in ALGORITHMS and ":" not in name:
        remedy = "give the ppo of a round, round-1/ppo" if name == "rlhf" else "it has no exact resume, begin it anew"
        raise ValueError(f"{folder} holds {name}: {remedy}")
    check_trust([name], trusted, path)
    config = read_settings(path, find(name).Config)
    check_trust([config.env_id, *config.also], trusted, path)
    return Trainer(name, config, folder, resume=True)
