"""What a run reports: metrics of a batch, the summary, samples ready to be labelled, the final table."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from agents import files, progress
from agents.distributed import processes
from agents.rollouts.batch import Batch
from agents.training import run_folder
from agents.training.alarm import Alarm
from mmenv.data.sample import Sample
from mmenv.evaluation import Evaluation

SAMPLE_RATE = 16_000
GREEDY = ("gold", "gold_interval", "reward", "length", "diversity")  # of a greedy evaluation, in a summary


class BatchStats(NamedTuple):
    """Scores (S,), gold (S,), texts and stop reasons of S responses, and the number of their tokens."""

    scores: Tensor
    gold: np.ndarray
    texts: list[str]
    stops: list[str]
    num_tokens: int


def gather_stats(batch: Batch) -> BatchStats:
    """Statistics of the batches of all processes."""
    local = BatchStats(batch.scores.cpu(), batch.gold, batch.texts, batch.stops, batch.num_tokens)
    scores, gold, texts, stops, tokens = zip(*processes.gather(local))
    return BatchStats(torch.cat(scores), np.concatenate(gold), [*chain(*texts)], [*chain(*stops)], sum(tokens))


def describe(batch: Batch | BatchStats) -> dict[str, float]:
    """Reward, gold, length, stop reasons, distinct word pairs and repetition of a batch, by name of the metric."""
    gold = batch.gold[~np.isnan(batch.gold)]
    pairs = [list(pairwise(text.split())) for text in batch.texts]
    all_pairs = [pair for words in pairs for pair in words]
    return {
        "reward": batch.scores.mean().item(),
        **({"gold": float(gold.mean())} if gold.size else {}),
        "length": batch.num_tokens / len(batch.texts),
        "ended": float(np.mean([s == "eos" for s in batch.stops])),
        "diversity": len(set(all_pairs)) / max(1, len(all_pairs)),
        "repetition": float(np.mean([1 - len(set(words)) / max(1, len(words)) if words else 0.0 for words in pairs])),
    }


def note(row: dict[str, float], alarmed: bool = False) -> str:
    """A row of metrics as a line for the progress bar; it has no reward where no responses were sampled."""
    speed = f"{_number(row['tokens_per_second'], ',.0f')} tok/s"
    if "reward" not in row:
        return speed
    gold = f" gold {_number(row['gold'], '.2f')}" if "gold" in row else ""
    judge = f" judge {_number(row['judge'], '+.2f')}{' ALARM' if alarmed else ''}" if "judge" in row else ""
    return f"reward {_number(row['reward'], '+.2f')}{judge}{gold} KL {_number(row.get('kl'), '.2f')} {speed}"


def _number(value: float | None, form: str = ".3f") -> str:
    """A number as text; a dash where it is None, nan or infinite."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def as_dict(result: Evaluation, num_rows: int = 64) -> dict[str, Any]:
    """An evaluation as standard JSON, with its first rows; None stands for unknown values."""
    rows = sorted(result.rows, key=lambda r: (r.sample.index, r.sample.turn))
    has_gold = not np.isnan(result.gold)
    return files.standard({
        "reward": result.reward,
        "gold": result.gold if has_gold else None,
        "gold_interval": list(result.gold_interval) if has_gold else None,
        "length": result.length,
        "ended": result.ended,
        "diversity": result.diversity,
        "episodes": result.episodes,
        **({"metrics": result.metrics} if result.metrics else {}),
        "rows": [
            {"sample_id": r.sample.id, "index": r.sample.index, "turn": r.sample.turn, "prompt": r.sample.prompt,
             "response": r.response, "stop": r.stop, "reward": r.reward, "gold": None if np.isnan(r.gold) else r.gold}
            for r in rows[:num_rows]
        ],
    })  # fmt: skip


def both_as_dict(sampled: Evaluation, greedy: Evaluation) -> dict[str, Any]:
    """``as_dict`` of the sampled evaluation; under ``"greedy"`` what the likeliest tokens of the same policy earn."""
    summary = as_dict(greedy)
    return {**as_dict(sampled), "greedy": {name: summary[name] for name in GREEDY}}


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
        counts: tokens, seconds and kl.
        before, after: evaluations as ``both_as_dict`` gives them; empty where there were none.
        also: evaluations of other ids, by id.
        extra: further entries of the summary.
    """

    counts: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    also: Mapping[str, dict[str, Any]]
    extra: Mapping[str, Any] = {}


def finish(
    name: str,
    config: Any,
    folder: Path,
    metrics: list[dict[str, Any]],
    outcome: Outcome,
    sample_of: Callable[[str, int], Sample],
    console: Console,
    alarm: Alarm | None = None,
    reward_is: str = "what was trained on",
) -> dict[str, Any]:
    """Write the samples, pictures and, last, the summary of a run, which says that it is complete; print its table.

    Args:
        name: of the algorithm.
        config: of the run.
        folder: of the run.
        metrics: a row an update.
        outcome: what the run came to.
        sample_of: a split and an index -> the sample.
        console: where the table is printed.
        alarm: the hacking alarm, if it went off.
        reward_is: what the reward is to the algorithm.

    Returns:
        the summary.
    """
    before, after = outcome.before, outcome.after
    pairs = pair_up(before, after, config.final_split, sample_of) if after else []
    if after:
        write_samples(pairs, folder)
    if config.pictures:
        from agents.training import figures

        title = f"{name} on {config.env_id}, seed {config.seed}"
        alarmed = None if alarm is None else alarm.tokens
        figures.curves(metrics, folder / "curves.png", title, alarmed, reward_is, (before, after) if after else None)
        if after:
            figures.samples(pairs[:12], folder / "samples.png")
    summary = {**summarise(name, config, outcome), **outcome.extra}
    files.write_json(folder / "summary.json", summary)
    console.print(table(summary, config.total_tokens))
    progress.say(console, f"run: {folder} ({main_files(config)})")
    return summary


def summarise(name: str, config: Any, outcome: Outcome) -> dict[str, Any]:
    """The content of ``summary.json``."""
    counts, before, after = outcome.counts, outcome.before, outcome.after
    compared = ("reward", "gold", "gold_interval", "length", "diversity")
    return {
        "env_id": config.env_id,
        "algorithm": name,
        "seed": config.seed,
        "tokens": counts["tokens"],
        "seconds": counts["seconds"],
        "tokens_per_second": counts["tokens"] / counts["seconds"] if counts["seconds"] else None,
        "kl": counts["kl"],
        **{key: _before_and_after(before, after, key) for key in compared},
        "greedy": {key: _before_and_after(before.get("greedy"), after.get("greedy"), key) for key in GREEDY},
        **({"metrics": {"before": before.get("metrics"), "after": after["metrics"]}} if "metrics" in after else {}),
        "also": {env_id: {k: v for k, v in result.items() if k != "rows"} for env_id, result in outcome.also.items()},
        "split": config.final_split,
        "episodes": after.get("episodes", 0),
        "versions": run_folder.versions(),
        "commit": run_folder.commit(),
    }


def _before_and_after(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    return {"before": (before or {}).get(key), "after": (after or {}).get(key)}


def pair_up(
    before: dict[str, Any], after: dict[str, Any], split: str, sample_of: Callable[[str, int], Sample]
) -> list[tuple[Sample, dict[str, Any], dict[str, Any]]]:
    """Samples with the responses before and after; of a dialogue the first reply, the only one to the same turn."""
    later = {row["sample_id"]: row for row in after["rows"] if row["turn"] == 0}
    return [
        (sample_of(split, old["index"]), old, later[old["sample_id"]])
        for old in before["rows"]
        if old["turn"] == 0 and old["sample_id"] in later
    ]


def write_samples(pairs: list[tuple[Sample, dict[str, Any], dict[str, Any]]], folder: Path) -> None:
    """``samples.jsonl``: comparisons without a choice, with their media beside it under ``samples/``."""
    shutil.rmtree(folder / "samples", ignore_errors=True)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rows = [
        {
            "sample_id": sample.id, "prompt": sample.prompt, **write_media(sample, folder, f"samples/{k:03d}"),
            "responses": [old["response"], new["response"]], "choice": None,
            "scores": [old["reward"], new["reward"]], "provenance": {"policies": ["before", "after"]},
            "annotator": None, "created": created,
        }
        for k, (sample, old, new) in enumerate(pairs)
    ]  # fmt: skip
    files.write_lines(folder / "samples.jsonl", rows)


def write_media(sample: Sample, folder: Path, stem: str) -> dict[str, Any]:
    """Save picture and utterance under a stem; their paths relative to ``folder``, by name."""
    paths = {}
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    if sample.image is not None:
        paths["image"] = f"{stem}.png"
        Image.fromarray(sample.image).save(folder / paths["image"])
    if sample.audio is not None:
        paths["audio"] = f"{stem}.flac"
        file = BytesIO()  # errors of soundfile do not name the file
        soundfile.write(file, sample.audio, SAMPLE_RATE, format="FLAC")
        (folder / paths["audio"]).write_bytes(file.getvalue())
    return paths


def main_files(config: Any) -> str:
    """The files of a run's folder to open first."""
    return ("curves.png, samples.png, " if config.pictures else "") + "summary.json"


def table(summary: dict[str, Any], budget: int) -> Table:
    """Metrics before and after training; ``budget`` is the number of tokens that the run was to take."""
    evaluated = f"{summary['episodes']} episodes of the {summary['split']} split"
    result = Table(title=Text(f"{summary['algorithm']} on {summary['env_id']}: {evaluated}"))
    for column in ("", "before", "after"):
        result.add_column(column, justify="right")
    for name in ("reward", "gold", "length", "diversity"):
        if any(summary[name][when] is not None for when in ("before", "after")):
            label = "gold, sampled [95% interval]" if name == "gold" else name
            result.add_row(label, *(_with_interval(summary, name, when) for when in ("before", "after")))
            if name == "gold":
                greedy = (_with_interval(summary["greedy"], name, when) for when in ("before", "after"))
                result.add_row("gold, greedy [95% interval]", *greedy)
    for name, value in summary.get("metrics", {}).get("after", {}).items():
        before = (summary["metrics"]["before"] or {}).get(name)
        result.add_row(name, _number(before), _number(value))
    result.add_row("KL to the start (nats)", "0.000", _number(summary["kl"]))
    # The last update may exceed the budget.
    result.add_row("tokens", "0", f"{summary['tokens']:,} (budget {budget:,})")
    result.add_row("tokens/s", "", _number(summary["tokens_per_second"], ",.0f"))
    return result


def _with_interval(summary: dict[str, Any], name: str, when: str) -> str:
    """A value, and its interval where the summary has one."""
    value, interval = _number(summary[name][when]), (summary.get(f"{name}_interval") or {}).get(when)
    return value if interval is None else f"{value} [{', '.join(map(_number, interval))}]"
