"""The loop around an algorithm: rollouts, updates, logs, evaluations, pictures, checkpoints, exact resume."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from agents import plots, runs
from agents.config import PPOConfig
from agents.policy import TokenPolicy
from agents.ppo import PPO
from agents.rollout import Batch, rollout
from mmenv.evaluation import Evaluation, evaluate
from mmenv.models.checkpoints import load_pretrained
from mmenv.models.transformer import Network

ALGORITHMS: dict[str, tuple[type[PPO], type[PPOConfig]]] = {"ppo": (PPO, PPOConfig)}
EVALUATION_SEED = 12_345


class Trainer:
    """Trains one policy in one folder.

    Args:
        algorithm: a name of ``ALGORITHMS``.
        config: its configuration.
        folder: where everything is written.
        network: None loads ``config.start``.
        resume: whether to go on from the folder's checkpoint.
        console: where the progress bar goes.
        **arguments: further arguments of the environment, and ``reward`` where it is a function; a run with such
            arguments is resumed with the same.
    """

    def __init__(
        self,
        algorithm: str,
        config: PPOConfig,
        folder: Path,
        network: Network | None = None,
        resume: bool = False,
        console: Console | None = None,
        **arguments: Any,
    ) -> None:
        self.name, self.config, self.folder = algorithm, config, folder
        self.console = console or Console()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.arguments = {"reward": config.reward, **arguments}
        env: Any = gym.make_vec(
            config.env_id, num_envs=config.num_envs, autoreset_mode="Disabled", copy=False, **self.arguments
        )
        self.env = env.unwrapped
        self.generator = torch.Generator(config.device).manual_seed(config.seed)
        self.rng = np.random.default_rng(config.seed)
        start = network or load_pretrained(config.start or f"start-{config.task_name}")
        self.policy = self._policy(start, self.generator)
        self.algorithm = ALGORITHMS[algorithm][0](config, self.policy, self._reference(start), self.rng)
        self.tokens, self.updates, self.seconds = 0, 0, 0.0
        self.before: dict[str, Any] = {}
        self.last_kl = 0.0
        self._stop = False
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._restore()
        else:
            self._begin()

    def _policy(self, network: Network, generator: torch.Generator) -> TokenPolicy:
        config = self.config
        budget = int(self.env.single_observation_space["response"].shape[0])
        return TokenPolicy(network, budget, config.temperature, config.train_encoder, generator).to(config.device)

    def _reference(self, start: Network) -> TokenPolicy:
        frozen = Network(start.config)
        frozen.load_state_dict(start.state_dict())
        return self._policy(frozen, self.generator).requires_grad_(False)

    def _begin(self) -> None:
        for name in ("metrics.jsonl", "samples.jsonl", "summary.json"):
            (self.folder / name).unlink(missing_ok=True)
        config = {"algorithm": self.name, **dataclasses.asdict(self.config), "threads": torch.get_num_threads()}
        runs.write_json(self.folder / "config.json", config)
        if self.config.eval_episodes:
            self.before = self._evaluation("test")
        self._save()

    def _restore(self) -> None:
        tensors, state = runs.load_checkpoint(self.folder)
        self.policy.network.load_state_dict(tensors["policy"])
        self.algorithm.reference.network.load_state_dict(tensors["reference"])
        if "optimiser" in tensors:
            runs.restore_optimiser(self.algorithm.optimiser, tensors["optimiser"])
        self.generator.set_state(tensors["generator"]["state"])
        self.rng.bit_generator.state = state["rng"]
        self.algorithm.kl.beta = state["beta"]
        self.tokens, self.updates, self.seconds = state["tokens"], state["updates"], state["seconds"]
        self.before, self.last_kl = state["before"], state["kl"]
        rows = [r for r in runs.read_lines(self.folder / "metrics.jsonl") if r["update"] <= self.updates]
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    def _save(self) -> None:
        tensors = {
            "policy": self.policy.network.state_dict(),
            "reference": self.algorithm.reference.network.state_dict(),
            "generator": {"state": self.generator.get_state()},
        }
        moments = runs.optimiser_tensors(self.algorithm.optimiser)
        if moments:
            tensors["optimiser"] = moments
        state = {
            "tokens": self.tokens,
            "updates": self.updates,
            "seconds": self.seconds,
            "rng": self.rng.bit_generator.state,
            "beta": self.algorithm.kl.beta,
            "before": self.before,
            "kl": self.last_kl,
        }
        runs.save_checkpoint(self.folder, tensors, state)

    def train(self) -> dict[str, Any] | None:
        """Train to the end.

        Returns:
            the summary, or None when an interrupt ended the run early with a checkpoint.
        """
        previous = signal.signal(signal.SIGINT, self._interrupt)
        writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.tokens or None)
        try:
            with self._progress() as progress:
                bar = progress.add_task("", total=self.config.total_tokens, completed=self.tokens, note="")
                while self.tokens < self.config.total_tokens and not self._stop:
                    row = self._update()
                    runs.append_line(self.folder / "metrics.jsonl", row)
                    for name, value in row.items():
                        writer.add_scalar(name, value, self.tokens)
                    progress.update(bar, completed=self.tokens, note=_note(row))
                    if self.updates % self.config.checkpoint_every == 0:
                        self._save()
        finally:
            signal.signal(signal.SIGINT, previous)
            writer.close()
        self._save()
        if self._stop:
            self.console.print(f"interrupted after {self.tokens} tokens; go on with --resume {self.folder}")
            return None
        return self._finish()

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._stop = True

    def _update(self) -> dict[str, float]:
        begun, config = time.perf_counter(), self.config
        indices = self.rng.integers(self.env.task.size("train"), size=config.num_envs)
        self.policy.eval()
        batch = rollout(self.policy, self.env, {"sample_index": indices})
        sampled = time.perf_counter()
        logs = self.algorithm.update(batch, min(1.0, self.tokens / config.total_tokens))
        took = time.perf_counter() - begun
        self.tokens += batch.num_tokens
        self.updates += 1
        self.seconds += took
        self.last_kl = logs["kl"]
        row = {"update": self.updates, "tokens": self.tokens, "seconds": self.seconds, **_describe(batch), **logs}
        row["tokens_per_second"] = batch.num_tokens / took
        row["rollout_share"] = (sampled - begun) / took
        if config.eval_every and self.updates % config.eval_every == 0:
            result = self._evaluation(config.eval_split)
            row |= {f"{config.eval_split}_{name}": result[name] for name in ("gold", "reward", "length")}
        return row

    def _evaluation(self, split: str) -> dict[str, Any]:
        """Evaluate the policy as it is, with a generator of its own so that training goes on unchanged."""
        config = self.config
        generator = torch.Generator(config.device).manual_seed(EVALUATION_SEED)
        judge = self._policy(self.policy.network, generator)
        result = evaluate(
            judge.act, config.env_id, split, EVALUATION_SEED, config.eval_episodes, min(128, config.eval_episodes),
            **self.arguments,
        )  # fmt: skip
        return as_dict(result)

    def _finish(self) -> dict[str, Any]:
        after = self._evaluation("test") if self.config.eval_episodes else {}
        config, before = self.config, self.before
        summary: dict[str, Any] = {
            "env_id": config.env_id,
            "algorithm": self.name,
            "seed": config.seed,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "kl": self.last_kl,
            "reward": {"before": before.get("reward"), "after": after.get("reward")},
            "gold": {"before": before.get("gold"), "after": after.get("gold")},
            "gold_interval": {"before": before.get("gold_interval"), "after": after.get("gold_interval")},
            "length": {"before": before.get("length"), "after": after.get("length")},
            "diversity": {"before": before.get("diversity"), "after": after.get("diversity")},
            "split": "test",
            "episodes": config.eval_episodes,
            "versions": runs.versions(),
            "commit": runs.commit(),
        }
        runs.write_json(self.folder / "summary.json", summary)
        metrics = runs.read_lines(self.folder / "metrics.jsonl")
        plots.curves(metrics, self.folder / "curves.png", f"{self.name} on {config.env_id}, seed {config.seed}")
        if after:
            self._samples(after)
        self._table(summary)
        return summary

    def _samples(self, after: dict[str, Any]) -> None:
        path = self.folder / "samples.jsonl"
        path.unlink(missing_ok=True)
        sample_of = self.env.task.sample
        pairs = []
        for old, new in zip(self.before["rows"], after["rows"]):
            if old["turn"] == 0 and new["turn"] == 0:
                responses = [old["response"], new["response"]]
                runs.append_line(path, {
                    "sample_id": new["sample_id"], "prompt": new["prompt"], "responses": responses, "choice": None,
                    "scores": [old["reward"], new["reward"]], "annotator": None,
                    "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                })  # fmt: skip
                pairs.append((sample_of("test", new["index"]), old, new))
        plots.samples(pairs[:12], self.folder / "samples.png")

    def _progress(self) -> Progress:
        columns = (
            TextColumn(f"[bold]{self.name}"), BarColumn(bar_width=28), TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
            TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
        )  # fmt: skip
        return Progress(*columns, console=self.console)

    def _table(self, summary: dict[str, Any]) -> None:
        table = Table(title=f"{self.name} on {self.config.env_id}: {summary['episodes']} episodes of the test split")
        for column in ("", "before", "after"):
            table.add_column(column, justify="right")
        for name in ("reward", "gold", "length", "diversity"):
            if summary[name]["before"] is not None:
                table.add_row(name, f"{summary[name]['before']:.3f}", f"{summary[name]['after']:.3f}")
        table.add_row("KL to the start (nats)", "0.000", f"{summary['kl']:.3f}")
        table.add_row("tokens/s", "", f"{summary['tokens_per_second']:,.0f}")
        self.console.print(table)
        self.console.print(f"run: {self.folder} (curves.png, samples.png, summary.json)")


def as_dict(result: Evaluation, kept: int = 64) -> dict[str, Any]:
    """An evaluation as JSON, with its first rows."""
    rows = sorted(result.rows, key=lambda r: (r.sample.index, r.sample.turn))
    return {
        "reward": result.reward,
        "gold": None if np.isnan(result.gold) else result.gold,
        "gold_interval": list(result.gold_interval),
        "length": result.length,
        "ended": result.ended,
        "diversity": result.diversity,
        "rows": [
            {"sample_id": r.sample.id, "index": r.sample.index, "turn": r.sample.turn, "prompt": r.sample.prompt,
             "response": r.response, "stop": r.stop, "reward": r.reward, "gold": r.gold}
            for r in rows[:kept]
        ],
    }  # fmt: skip


def _describe(batch: Batch) -> dict[str, float]:
    """Reward, gold and length of a batch."""
    known = batch.gold[~np.isnan(batch.gold)]
    words = [t.split() for t in batch.texts]
    pairs = [p for w in words for p in zip(w, w[1:])]
    return {
        "reward": batch.scores.mean().item(),
        **({"gold": float(known.mean())} if known.size else {}),
        "length": batch.num_tokens / len(batch.texts),
        "ended": float(np.mean([s == "eos" for s in batch.stops])),
        "diversity": len(set(pairs)) / max(1, len(pairs)),
    }


def _note(row: dict[str, float]) -> str:
    gold = f" gold {row['gold']:.2f}" if "gold" in row else ""
    return f"reward {row['reward']:+.2f}{gold} KL {row['kl']:.2f} {row['tokens_per_second']:,.0f} tok/s"


def resume(folder: Path) -> Trainer:
    """The trainer of a run's folder, where its checkpoint left off.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: begin a run there with --out {folder}")
    name = json.loads(path.read_text(encoding="utf-8"))["algorithm"]
    return Trainer(name, runs.config_from(path, ALGORITHMS[name][1]), folder, resume=True)


