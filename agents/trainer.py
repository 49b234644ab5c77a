"""The loop around an algorithm: rollouts, updates, logs, evaluations, pictures, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from agents import cautions, parallel, report, runs, sharding
from agents.alarm import Alarm, alarm, first_alarm, mean_and_error
from agents.algorithms import ALGORITHMS, find
from agents.config import TrainConfig, check_ids
from agents.networks import env_arguments, find_start, network_of
from agents.pairs import replies
from agents.policy import TokenPolicy
from agents.rollout import Batch
from mmenv.envs.setup import resolve_reward
from mmenv.evaluation import Evaluation, evaluate
from mmenv.models.checkpoints import vocabulary_metadata
from mmenv.models.devices import device_named
from mmenv.models.transformer import Network
from mmenv.rewards.base import RewardError, score
from mmenv.rewards.ensemble import EnsembleReward

EVALUATION_SEED = 12_345


class Trainer:
    """Trains one policy in one folder.

    Args:
        algorithm: a name of ``agents.algorithms.ALGORITHMS``, or ``package.module:Class``.
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
        parallel.join(config.device)
        self.console = Console(quiet=True) if parallel.rank() > 0 else console or Console(emoji=False)
        if config.threads:
            torch.set_num_threads(config.threads)
        check_ids(config.env_id, *config.also)  # an unknown id is told of before anything is loaded
        checkpoint = runs.newest_checkpoint(folder) if resume else None
        found = checkpoint and runs.read_json(checkpoint / "state.json")["updates"]
        if len(set(parallel.gather(found))) > 1:
            raise ValueError(f"the processes see different checkpoints: have {folder} on a disk that they share")
        config = parallel.own(config)
        origin = find_start(config, checkpoint)
        self.arguments = {"reward": config.reward, **env_arguments(config.dataset, origin), **arguments}
        env: Any = gym.make_vec(
            config.env_id, num_envs=config.num_envs, autoreset_mode="Disabled", copy=False, **self.arguments
        )
        self.env = env.unwrapped
        self.judge = resolve_reward(config.judge, self.env.task) if config.judge else None
        self.alarm: Alarm | None = None
        self.generator = torch.Generator(config.device).manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        start = network or network_of(origin, config.task_name, self.env.setup)
        cls, budget = find(algorithm), int(self.env.single_observation_space["response"].shape[0])
        frozen = start.frozen()
        self.policy = cls.make_policy(config, start, budget, self.generator).to(config.device)
        reference = TokenPolicy(
            frozen, budget, config.temperature, config.train_encoder, self.generator, self.policy.top_p
        )
        saved = runs.load_checkpoint(folder) if checkpoint else None
        if saved:
            self.policy.network.load_state_dict(saved[0]["policy"])  # whole: parts are made of it next
        sharding.shard(self.policy, config.micro_batches)
        self.algorithm = cls(config, self.policy, reference.to(config.device).requires_grad_(False), self.rng)
        self.algorithm.say = partial(self.console.print, highlight=False, markup=False, soft_wrap=True)
        sharding.whole(self.policy.network)
        self.tokens, self.updates, self.seconds = 0, 0, 0.0
        self.before: dict[str, Any] = {}
        self.last_kl = 0.0
        self.cautions = cautions.of_models(config)
        self._stop = False
        if saved:
            self._restore(*saved)
        else:
            parallel.first(self._begin)
            self._save()
        if not sharding.asked():
            parallel.same(self.algorithm.parameters)  # parts of a policy may begin at random

    def _begin(self) -> None:
        runs.make_room(self.folder, self.config.overwrite)
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        runs.write_json(self.folder / "config.json", config)

    def _restore(self, tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]) -> None:
        """All but the policy's weights, which it has already."""
        self.algorithm.reference.network.load_state_dict(tensors["reference"])
        if "optimiser" in tensors:
            moments = sharding.parts(tensors["optimiser"], self.algorithm.parameters)
            runs.restore_optimiser(self.algorithm.optimiser, moments)
        for name, network in self.algorithm.networks().items():
            network.load_state_dict(tensors[name])
        self.algorithm.restore(state["algorithm"])
        self.tokens, self.updates, self.seconds = state["tokens"], state["updates"], state["seconds"]
        self.before, self.last_kl = state["before"], state["kl"]
        self._restore_randomness(tensors["generator"], state["rng"])
        parallel.first(self._cut_log)

    def _restore_randomness(self, generators: Mapping[str, Tensor], rngs: Mapping[str, Any]) -> None:
        """Every process's own; where they are more or fewer than they were, fresh ones."""
        others, n, rank = rngs.get("others", []), parallel.size(), parallel.rank()
        if len(others) + 1 == n:
            mine = others[rank - 1] if rank else {k: v for k, v in rngs.items() if k != "others"}
            self._set_randomness((generators[f"state.{rank}" if rank else "state"], mine))
            return
        seed = parallel.stream(self.config.seed, self.updates, n)
        self.generator.manual_seed(seed)
        self.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        self.console.print(f"resumed on {n} of {len(others) + 1} processes: with new random numbers from here")

    def _cut_log(self) -> None:
        """Forget what was logged after the checkpoint."""
        rows = [r for r in runs.read_lines(self.folder / "metrics.jsonl") if r["update"] <= self.updates]
        runs.write_lines(self.folder / "metrics.jsonl", rows)

    def _save(self) -> None:
        (generator, rng), *others = parallel.gather(self._randomness())
        weights = sharding.full(self.policy.network.state_dict())
        moments = sharding.full(runs.optimiser_tensors(self.algorithm.optimiser))
        sharding.whole(self.policy.network)
        if parallel.rank() > 0:
            return
        reference = self.algorithm.reference.network
        tensors = {
            "policy": weights,
            "reference": reference.state_dict(),
            **{name: network.state_dict() for name, network in self.algorithm.networks().items()},
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
            "before": self.before,
            "kl": self.last_kl,
        }
        networks = {"policy": self.policy.network, "reference": reference, **self.algorithm.networks()}
        shapes, words = {k: v.config for k, v in networks.items()}, vocabulary_metadata(self.env.tokenizer)
        runs.save_checkpoint(self.folder, tensors, state, shapes, words)

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
        previous = {signal.SIGINT: signal.signal(signal.SIGINT, self._interrupt)}
        if parallel.size() > 1:
            previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        try:
            for caution in self.cautions:
                self.algorithm.say(caution)
            if self.config.eval_episodes and not self.before:
                self.before = parallel.first(lambda: self._evaluation(self.config.final_split))
            self._learn()
            self._save()
            if any(parallel.gather(self._stop)):
                self.console.print(f"interrupted after {self.tokens} tokens; go on with --resume {self.folder}")
                return None
            kl = self._distance()
            return parallel.first(lambda: self._finish(kl))
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _learn(self) -> None:
        """Update until the run is over."""
        with self._log() as log:
            while not self._over():
                log(self._update())
                if self.updates % self.config.checkpoint_every == 0:
                    self._save()

    @contextlib.contextmanager
    def _log(self) -> Iterator[Callable[[dict[str, float]], None]]:
        """What keeps rows of metrics, and listens for the alarm; the first process does so for all."""
        if parallel.rank() > 0:
            yield lambda row: None
            return
        # Events that a kill left behind the checkpoint are dropped; those at its last step stay.
        writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.tokens + 1 if self.tokens else None)
        rows = runs.read_lines(self.folder / "metrics.jsonl")
        self.alarm = first_alarm(rows)  # it may have rung before the checkpoint
        with contextlib.closing(writer), self._progress() as progress:
            bar = progress.add_task("", total=self.config.total_tokens, completed=self.tokens, note="")

            def log(row: dict[str, float]) -> None:
                runs.append_line(self.folder / "metrics.jsonl", row)
                rows.append(row)
                self._listen(rows)
                for name, value in row.items():
                    writer.add_scalar(name, value, self.tokens)
                progress.update(bar, completed=self.tokens, note=report.note(row, self.alarm is not None))

            yield log
            if not self._stop:
                progress.update(bar, total=self.tokens)  # nothing more will come, whatever ended the run

    def _over(self) -> bool:
        """Whether the tokens are used up, an interrupt came, or what was to end the run has happened, anywhere."""
        config = self.config
        far = 0 < config.stop_at_kl <= self.last_kl
        alarmed = self.alarm is not None and config.stop_on_alarm
        return any(parallel.gather(self._share() >= 1 or self._stop or far or alarmed or self.algorithm.finished))

    def _share(self) -> float:
        """How much of the run is over, in tokens or in seconds, whichever is further."""
        config = self.config
        timed = self.seconds / config.max_seconds if config.max_seconds > 0 else 0.0
        return max(self.tokens / config.total_tokens, timed)

    def _judged(self, batch: Batch) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Scores of the judge, and how far an ensemble disagrees; None where there is no judge to pay for."""
        if self.judge is None:
            return None
        said, reward = replies(batch), self.env.reward_function
        doubts = reward.disagreement(batch.samples, said) if isinstance(reward, EnsembleReward) else None
        return score(self.judge, batch.samples, said), doubts

    def _watched(self, batch: Batch, judged: tuple[np.ndarray, np.ndarray | None] | None) -> dict[str, float]:
        """What the judge says of the responses of all processes."""
        if judged is None:
            return {}
        scores, doubts = judged
        # Contexts are numbered by each process for itself.
        contexts = batch.contexts.cpu().numpy()
        before = sum(parallel.gather(int(contexts.max()) + 1)[: parallel.rank()])
        mean, error = mean_and_error(parallel.joined(scores), parallel.joined(contexts + before))
        row = {"judge": mean, "judge_error": error}
        return row if doubts is None else {**row, "disagreement": float(parallel.joined(doubts).mean())}

    def _listen(self, rows: list[dict[str, Any]]) -> None:
        """Ring once."""
        if self.alarm is None:
            self.alarm = alarm(rows)
            if self.alarm is not None:
                self.console.print(f"[bold red]alarm[/] at {self.alarm.tokens:,} tokens: {self.alarm}", highlight=False)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        """The first interrupt ends the run after the update in progress, the second at once."""
        self._stop = True
        if parallel.size() > 1:
            return  # a launcher passes one on to processes that the terminal told already: no second one is meant
        self.console.print("finishing this update; once more ends the run at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        """A launcher ends the processes that are left when one has died."""
        raise parallel.RankLost("the launcher sent SIGTERM")

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
            judged = self._judged(said) if said else None
        except RewardError as error:
            failure = error
        if any(parallel.gather(failure is not None)):
            # As if this rollout had never begun: with the reward mended, a resumed run samples the same again.
            self._set_randomness(randomness)
            self._save()
            raise failure or RewardError("the reward failed in another process, whose message says how")
        return batch, said, self._watched(said, judged) if said else {}

    def _update(self) -> dict[str, float]:
        begun, config = time.perf_counter(), self.config
        batch, said, watched = self._sample()
        sampled = time.perf_counter()
        if said and said is not batch:
            watched |= self.algorithm.distance(said)
        logs = watched | self.algorithm.update(batch, min(1.0, self._share()))
        if said and "kl" not in logs:  # of an algorithm of one's own, whose update says nothing of it
            logs |= self.algorithm.distance(said)
        took = max(parallel.gather(time.perf_counter() - begun))
        tokens = sum(parallel.gather(batch.num_tokens))
        self.tokens += tokens
        self.updates += 1
        self.seconds += took
        self.last_kl = logs.get("kl", self.last_kl)
        counts = {"update": self.updates, "tokens": self.tokens, "seconds": self.seconds}
        row = {**counts, **(report.describe(report.told(said)) if said else {}), **logs}
        row["tokens_per_second"] = tokens / took
        row["rollout_share"] = (sampled - begun) / took
        if config.eval_every and self.updates % config.eval_every == 0:
            result = parallel.first(lambda: self._evaluation(config.eval_split))
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
        seed = parallel.stream(EVALUATION_SEED)
        own = torch.Generator(self.generator.device).manual_seed(seed)
        self._set_randomness((own.get_state(), np.random.default_rng(seed).bit_generator.state))
        self.policy.eval()
        try:
            return self.algorithm.distance(self.algorithm.play(self.policy, self.env))["kl"]
        finally:
            self._set_randomness(randomness)

    def _finish(self, kl: float) -> dict[str, Any]:
        """Evaluate, and write what is left of a finished run."""
        config = self.config
        after = self._evaluation(config.final_split) if config.eval_episodes else {}
        counts = {"tokens": self.tokens, "seconds": self.seconds, "kl": kl}
        metrics = runs.read_lines(self.folder / "metrics.jsonl")
        title = f"{self.name} on {config.env_id}, seed {config.seed}"
        if config.pictures:
            from agents import plots  # here, because matplotlib takes as long to load as torch

            rung = self.alarm.tokens if self.alarm else None
            evaluations = (self.before, after) if after else None
            plots.curves(metrics, self.folder / "curves.png", title, rung, self.algorithm.reward_is, evaluations)
        if after:
            pairs = report.pair_up(self.before, after, config.final_split, self.env.task.sample)
            report.write_samples(pairs, self.folder)
            if config.pictures:
                plots.samples(pairs[:12], self.folder / "samples.png")
        also = {
            env_id: report.as_dict(self.evaluate(env_id, config.final_split, config.eval_episodes))
            for env_id in config.also
            if config.eval_episodes
        }
        summary = report.summarise(self.name, config, counts, self.before, after, also)
        if self.judge is not None:
            summary["alarm"] = dataclasses.asdict(self.alarm) if self.alarm else None
            if self.alarm is None and (caution := cautions.of_alarm(metrics)):
                self.algorithm.say(caution)
                self.cautions.append(caution)
        if self.cautions:
            summary["cautions"] = self.cautions
        # Last: a folder with a summary is a whole one.
        runs.write_json(self.folder / "summary.json", summary)
        self.console.print(report.table(summary, config.total_tokens))
        self.console.print(f"run: {self.folder} ({report.files(config)})")
        return summary

    def _progress(self) -> Progress:
        done = TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens")
        columns = (TextColumn(self.name, "bold", markup=False), BarColumn(bar_width=28), done, TimeRemainingColumn())
        return Noted(*columns, console=self.console)


class Noted(Progress):
    """A bar with its task's note on a line below: side by side, a terminal of 80 columns has no room for the bar."""

    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            yield Text.from_markup(task.fields["note"], emoji=False)


def resume(folder: Path) -> Trainer:
    """The trainer of a run's folder, where its checkpoint left off.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it holds a loop, or a run of stable-baselines3, which has no exact resume.
    """
    name = runs.algorithm_of(folder)
    if name not in ALGORITHMS and ":" not in name:
        remedy = "give the ppo of a round, round-1/ppo" if name == "rlhf" else "it has no exact resume, begin it anew"
        raise ValueError(f"{folder} holds {name}: {remedy}")
    return Trainer(name, runs.config_from(folder / "config.json", find(name).Config), folder, resume=True)
