"""The loop of RLHF: sample pairs, label them, learn a reward, optimise it by PPO; and again with the better policy.

A round is a folder with the results of four phases: ``samples.jsonl`` (comparisons without a choice, media beside
them), labels in the database, ``reward.safetensors`` (an ensemble on all labels so far, except the held-out share that
the judge learns from), and ``ppo/`` (a run with the hacking alarm). A phase whose result exists is not repeated, so
that a killed loop goes on where it was and nobody labels a pair twice.

Sources: Christiano et al. 2017; Bai et al. 2022 (online RLHF: fresh preferences on the newest policy).
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console

from agents import files, progress
from agents.algorithms.ppo import PPOConfig
from agents.algorithms.registry import check_trust
from agents.rlhf import report
from agents.rlhf.config import RLHFConfig, RoundPPOConfig
from agents.rollouts import pairs
from agents.settings.bounds import offered
from agents.settings.ids import check_ids, shipped_start
from agents.settings.saved import settings_from
from agents.training import checkpoints, run_folder
from agents.training.loading import load_policy
from agents.training.report import write_media
from agents.training.trainer import Trainer
from mmenv.data.sample import Sample
from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.feedback.comparison import Comparison, now
from mmenv.feedback.comparison_files import read_comparisons, write_comparisons
from mmenv.feedback.comparison_media import sample_of
from mmenv.feedback.selection import select
from mmenv.feedback.store import FeedbackStore
from mmenv.models.checkpoints import resolve
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import EnsembleReward, fit_ensemble, load_ensemble
from mmenv.rewards.preference.files import read_backbone

SYNTHETIC = "synthetic"
LANES = 256


class RLHFLoop:
    """All rounds in one folder.

    Args:
        config: of the loop.
        folder: where everything is written; one that holds the same loop is gone on with.
        console: where the progress goes.

    Raises:
        ValueError: the folder holds a loop with other settings.
    """

    def __init__(self, config: RLHFConfig, folder: Path | None = None, console: Console | None = None) -> None:
        check_ids(config.env_id)
        self.config, self.console = config, console or progress.console()
        self.folder = folder = folder or Path(config.folder)
        if config.ppo.threads is not None:
            torch.set_num_threads(config.ppo.threads)  # of every phase: sums depend on it to the last bit
        self.name = str(self._settings()["loop"])
        if not (folder / "config.json").is_file():
            resolve(self._policy(0))  # missing weights are refused before anything is written

    def _settings(self) -> dict[str, Any]:
        """The settings to write down; those of a loop that the folder holds must be the same.

        ``out``, ``rounds`` and ``port`` may change. Settings that the folder does not have count as their defaults.

        Returns:
            the settings, and ``loop``, the loop's name in its database, which may hold the labels of several.
        """
        path = self.folder / "config.json"
        new = files.as_json({"algorithm": "rlhf", **dataclasses.asdict(self.config)})
        if not path.is_file():
            return {**new, "loop": uuid.uuid4().hex}
        old = files.read_json(path)
        if files.read_field(path, old, "algorithm", str) != "rlhf":
            raise ValueError(f"{self.folder} holds a run of {old['algorithm']}: give another --out")
        files.read_field(path, old, "ppo", dict)
        files.read_field(path, old, "loop", str)
        before, after = _flat(files.as_json(dataclasses.asdict(RLHFConfig()))) | _flat(old), _flat(new)
        changed = [name for name in after if before.get(name) != after[name]]
        changed = [name for name in changed if name not in ("out", "rounds", "port")]
        if changed:
            changes = ", ".join(f"{name} {before.get(name)!r} -> {after[name]!r}" for name in changed)
            raise ValueError(f"{self.folder} holds a loop with other settings ({changes}): give another --out")
        return {**old, **new}

    def run(self) -> list[dict[str, Any]] | None:
        """Every round that is not over yet.

        Returns:
            a row for each round, or None when an interrupt ended one early.
        """
        with run_folder.writing(self.folder):
            return self._rounds()

    def _rounds(self) -> list[dict[str, Any]] | None:
        from agents.training import figures

        rows: list[dict[str, Any]] = []
        settings = self._settings()  # once more: another process may have begun the loop meanwhile
        self.name = str(settings["loop"])
        files.write_json(self.folder / "config.json", settings)
        with FeedbackStore(self.config.store or self.folder / "feedback.db") as store:
            for number in range(self.config.rounds):
                row = self._round(number, store)
                if row is None:
                    return None
                rows.append(row)
                files.write_lines(self.folder / "rounds.jsonl", rows)
                title = f"RLHF on {self.config.env_id}, seed {self.config.seed}"
                figures.rounds(rows, self.folder / "rounds.png", title)
        files.write_json(self.folder / "summary.json", report.summarise(self.config, rows))
        self.console.print(report.table(rows, self.config.env_id))
        progress.say(self.console, f"loop: {self.folder} (rounds.png, rounds.jsonl, summary.json)")
        return rows

    def _round(self, number: int, store: FeedbackStore) -> dict[str, Any] | None:
        folder = self._folder(number)
        folder.mkdir(exist_ok=True)
        self.console.rule(f"round {number + 1} of {self.config.rounds}", align="left")
        self._sample(number, folder)
        self._label(number, folder, store)
        labels = self._learn(number, folder, store)
        summary = self._optimise(number, folder)
        if summary is None:
            return None
        learned = files.read_json(folder / "reward.json")
        return {"round": number + 1, "labels": labels, **learned, **{k: summary[k] for k in _KEPT}}

    def _folder(self, number: int) -> Path:
        """Of round ``number``, which counts from 0; people count from 1."""
        return self.folder / f"round-{number + 1}"

    def _policy(self, number: int) -> str:
        """Weights that round ``number`` begins with."""
        if number:
            return str(checkpoints.policy_of(self._folder(number - 1) / "ppo"))
        return self.config.start or shipped_start(self.config.env_id)

    def _sample(self, number: int, folder: Path) -> None:
        """Sample pairs of responses of the current policy and the first one; ``samples.jsonl`` is written last."""
        if (folder / "samples.jsonl").is_file():
            return
        config, seed = self.config, _seed(self.config.seed, number)
        selective = config.select != "random" and number > 0
        n = config.labels * (config.pool if selective else 1)
        env: Any = gym.make_vec(
            config.env_id, num_envs=LANES, reward="gold", autoreset_mode="Disabled", copy=False
        ).unwrapped
        names = [self._policy(number), *([self._policy(0)] if number else [])]
        ppo = config.ppo
        # Preferences are between samples of the distribution that PPO trains.
        policies = [load_policy(name, env, seed, ppo.temperature, ppo.top_p, ppo.device) for name in names]
        rng = np.random.default_rng(seed)
        with progress.bar(self.console, "sampling", n) as show:
            sampled = pairs.sample_pairs(policies, env, "train", n, rng, show)
        origin = {"loop": self.name, "round": number + 1, "seed": seed}
        comparisons = [_comparison(i, pair, names, origin) for i, pair in enumerate(sampled)]
        if selective:
            last = load_ensemble(self._folder(number - 1) / "reward.safetensors")
            doubts = report.disagreement(last, sampled)
            chosen = select(comparisons, config.labels, config.select, lambda _: doubts, rng)
            comparisons = [comparisons[i] for i in chosen]
        with_media = [
            dataclasses.replace(c, **write_media(sampled[c.provenance["pair"]][0].sample, folder, _stem(c)))
            for c in comparisons
        ]
        write_comparisons(folder / "samples.jsonl", with_media)

    def _label(self, number: int, folder: Path, store: FeedbackStore) -> None:
        """Have every pair of the round labelled."""
        waiting = read_comparisons(folder / "samples.jsonl").comparisons
        items = store.add(waiting, folder)
        if self.config.annotator == "browser":
            self._ask_people(number, store)
        else:
            self._ask_synthetic(number, waiting, items, store)

    def _ask_synthetic(self, number: int, waiting: list[Comparison], items: list[int], store: FeedbackStore) -> None:
        config = self.config
        annotator = SyntheticAnnotator(config.annotator_temperature, config.flip, config.length_bias)
        if self._judged(store, number) == len(items):
            return
        with progress.bar(self.console, "labels", len(items)) as show:
            for i, (item, comparison) in enumerate(zip(items, waiting, strict=True)):
                # A choice and its key depend on the pair alone: after a kill, pairs are labelled as before and none is
                # recorded twice.
                rng = np.random.default_rng([31, config.seed, number, i])
                gold = np.array([comparison.provenance["gold"]])
                first, second = comparison.as_responses()
                choice = int(annotator.prefer([(first, second)], gold, rng)[0])
                store.record(item, SYNTHETIC, f"{self.name}/{number}/{i}", choice=choice)
                show(i + 1)

    def _ask_people(self, number: int, store: FeedbackStore) -> None:
        """Serve the labelling page until every pair of the round is judged, by ``overlap`` people each."""
        from mmenv.feedback.pages.command import serving
        from mmenv.feedback.pages.config import LabelConfig

        overlap = self.config.overlap
        with serving(store, LabelConfig(overlap=overlap), self.config.port) as url:
            progress.say(self.console, f"label at {url}; this goes on by itself when all is labelled")
            with progress.bar(self.console, "labels", self.config.labels) as show:
                while (done := self._judged(store, number)) < self.config.labels:
                    show(done)
                    # What people skipped nobody need answer: it is enough that so many have gone through everything.
                    if done and sum(store.counts(a, overlap).left == 0 for a in store.annotators()) >= overlap:
                        break
                    time.sleep(0.5)

    def _judgements(self, store: FeedbackStore) -> list[Comparison]:
        """All labels of this loop."""
        return [c for c in store.judgements() if c.provenance.get("loop") == self.name]

    def _judged(self, store: FeedbackStore, number: int) -> int:
        """How many pairs of a round have been judged by ``overlap`` people."""
        of_round = (c.provenance for c in self._judgements(store) if c.provenance["round"] == number + 1)
        return sum(n >= self.config.overlap for n in Counter(p["pair"] for p in of_round).values())

    def _learn(self, number: int, folder: Path, store: FeedbackStore) -> int:
        """Fit an ensemble on all labels so far, and a judge on the held-out ones; returns the number of labels."""
        path, judged = folder / "reward.json", self._judgements(store)
        if path.is_file():
            return int(files.read_field(path, files.read_json(path), "labels", int))
        held_out = [c for c in judged if self._held_out(c)]
        samples = [self._sample_of(c) for c in held_out]
        model = self._fit("reward", [c for c in judged if not self._held_out(c)], number)
        _save(model, folder / "reward.safetensors", report.accuracy_metadata(model, held_out, samples))
        if held_out:
            _save(self._fit("judge", held_out, number), folder / "judge.safetensors")
        agreement = report.agreement(model, held_out, samples)
        files.write_json(path, {"labels": len(judged), "held_out": len(held_out), "agreement": agreement})
        return len(judged)

    def _held_out(self, comparison: Comparison) -> bool:
        """Whether the labels of a pair are held out for the judge: always the same for a pair."""
        at = (comparison.provenance["round"] - 1, comparison.provenance["pair"])
        return bool(np.random.default_rng([32, self.config.seed, *at]).random() < self.config.held_out)

    def _fit(self, name: str, judged: list[Comparison], number: int) -> EnsembleReward:
        """An ensemble on judged comparisons, begun as the first policy; the name is for the progress bar."""
        config, samples = self.config, [self._sample_of(c) for c in judged]
        learn = RewardConfig(config.epochs, seed=_seed(config.seed, number))
        with progress.bar(self.console, name, 100 * config.members) as show:  # percent of each member
            return fit_ensemble(
                read_backbone(self._policy(0)),
                judged,
                samples,
                learn,
                config.members,
                config.combine,
                config.weight,
                report=lambda member, passes, loss: show(
                    round(100 * (member + passes / config.epochs)), f"loss {loss:.3f}"
                ),
            )

    def _sample_of(self, comparison: Comparison) -> Sample:
        return sample_of(comparison, self._folder(comparison.provenance["round"] - 1))

    def _optimise(self, number: int, folder: Path) -> dict[str, Any] | None:
        """PPO from the round's policy, which is also its reference."""
        out = folder / "ppo"
        if (out / "summary.json").is_file():
            return files.read_json(out / "summary.json")
        ppo, judge = self.config.ppo, folder / "judge.safetensors"
        if ppo.stop_on_alarm and not judge.is_file():
            raise ValueError(
                f"held_out={self.config.held_out:g} left no labels for a judge: leave out --ppo.stop-on-alarm, or give "
                "more --labels or a greater --held-out, in another --out"
            )
        config = PPOConfig(
            **{name: getattr(ppo, name) for name in offered(RoundPPOConfig)},
            env_id=self.config.env_id,
            reward=str(folder / "reward.safetensors"),
            out=str(out),
            start=self._policy(number),
            seed=_seed(self.config.seed, number),
            judge=str(judge) if judge.is_file() else None,
        )
        begun = checkpoints.newest_checkpoint(out) is not None
        return Trainer("ppo", config, out, resume=begun, console=self.console).train()


_KEPT = ("tokens", "seconds", "kl", "gold", "gold_interval", "reward", "length")


def _seed(seed: int, number: int) -> int:
    """Another seed for every round."""
    return 1000 * seed + number


def _comparison(
    i: int, pair: tuple[pairs.JudgedResponse, pairs.JudgedResponse], names: list[str], origin: dict[str, Any]
) -> Comparison:
    """Pair ``i`` as a comparison that waits for a choice."""
    sample = pair[0].sample
    texts, stops = (tuple(getattr(s.response, name) for s in pair) for name in ("text", "stop"))
    about = {"pair": i, "policies": [names[s.policy] for s in pair], "gold": [s.gold for s in pair]}
    return Comparison(sample.id, sample.prompt, texts, stops=stops, created=now(), provenance={**origin, **about})


def _save(model: EnsembleReward, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write weights whole or not at all."""
    temporary = path.with_suffix(".tmp")
    model.save(temporary, metadata)
    temporary.replace(path)


def _stem(comparison: Comparison) -> str:
    return "media/" + comparison.sample_id.replace("/", "-")


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of PPO beside the others, as ``ppo.NAME``."""
    return {**settings, **{f"ppo.{name}": value for name, value in settings["ppo"].items()}, "ppo": None}


def resume(folder: Path, trusted: Sequence[str] = ()) -> RLHFLoop:
    """The loop of a folder, where it left off.

    Args:
        folder: of the loop.
        trusted: modules that the id may have imported.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: its settings are damaged, or name a module that is not trusted.
    """
    path = folder / "config.json"
    if files.algorithm_of(folder) != "rlhf":
        raise FileNotFoundError(f"{folder} holds another run than a loop: resume that one")
    saved = files.read_json(path)
    ppo = settings_from(path, files.read_field(path, saved, "ppo", dict), RoundPPOConfig)
    config = settings_from(path, {k: v for k, v in saved.items() if k not in ("algorithm", "loop", "ppo")}, RLHFConfig)
    check_trust([config.env_id, *ppo.also], trusted, path)
    return RLHFLoop(dataclasses.replace(config, ppo=ppo), folder)
