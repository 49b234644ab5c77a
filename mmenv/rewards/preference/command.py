"""``python -m mmenv train-reward``: from comparisons in files and stores to weights, a report and a plot."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mmenv.arguments import MissingExtraError, require
from mmenv.data.sample import Sample
from mmenv.feedback.comparison import Comparison, now
from mmenv.feedback.comparison_files import read_comparisons
from mmenv.feedback.comparison_media import sample_of
from mmenv.rewards.preference.calibration import Report, UndecidedError, caution, evaluate, plot_reliability
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import EnsembleReward, fit_ensemble
from mmenv.rewards.preference.files import Backbone, read_backbone
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.reading import Reader
from mmenv.statistics import Share


@dataclass(frozen=True)
class TrainRewardConfig:
    """Arguments of ``python -m mmenv train-reward``.

    Attributes:
        out: file of the weights; the report is written beside it, as NAME.json and NAME-reliability.png.
        comparisons: files of comparisons, JSON lines; their media lie beside them.
        store: URL of a feedback store, or None.
        media: folders, beside the store's own, in which its items may have their media.
        members: number of models; 1 saves a preference model, more an ensemble.
        combine, weight: as in ``EnsembleReward``.
        held_out: share of the samples that is kept from training for the report; 0 writes no report.
        backbone: shipped name, file or run's folder of the network that every model begins as.
        learning: what the models are made of and how they are trained.

    Raises:
        ValueError: names the field, its value and the remedy.
    """

    out: Path
    comparisons: Sequence[Path] = ()
    store: str | None = None
    media: Sequence[Path] = ()
    members: int = 5
    combine: str = "mean"
    weight: float = 1.0
    held_out: float = 0.2
    backbone: str = "start"
    learning: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        if not self.comparisons and not self.store:
            raise ValueError("there is nothing to learn from: give --comparisons FILE.jsonl or --store URL")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out!r} is not a share: give 0 or more, and less than 1")
        if self.out.suffix != ".safetensors":
            raise ValueError(
                f"out={str(self.out)!r} does not end in .safetensors, by which gym.make knows a reward: add it"
            )


class JudgedComparisons(NamedTuple):
    """Judged comparisons and the sample of each."""

    comparisons: list[Comparison]
    samples: list[Sample]

    def take(self, indices: Sequence[int]) -> JudgedComparisons:
        """The comparisons at some indices."""
        return JudgedComparisons([self.comparisons[i] for i in indices], [self.samples[i] for i in indices])


def train_reward(console: Console, config: TrainRewardConfig) -> Report | None:
    """Train on judged comparisons, save the weights, and report on the comparisons that were held out.

    Args:
        console: for progress, notes and the table.
        config: what to train from and how.

    Returns:
        the report; None where nothing was held out or the held-out comparisons are all undecided.

    Raises:
        ValueError: there is nothing to learn from.
        FileNotFoundError: a file is missing.
        WeightsError: there is no such backbone.
    """
    parent = read_backbone(config.backbone)
    judged = _distinguishable(console, read(console, config), Reader(parent.network, parent.tokenizer, config.out.stem))
    train, test = split(judged, config.held_out, config.learning.seed)
    if not train.comparisons:
        raise ValueError(
            f"all {len(test.comparisons)} judged comparisons are of samples that are held out: give --held-out 0, or "
            "label more samples"
        )
    model = _fit(console, train, parent, config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    count = f"{len(train.comparisons):,}"
    _save(model, config.out, {"comparisons": count})  # before anything of the report can fail
    _print(console, f"{config.out}: {config.members} models from {count} comparisons")
    report = _report(console, model, test, config.held_out)
    if report is None:
        return None
    model.temperature = report.scaling.temperature
    accuracy = report.accuracy
    summary = {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n}
    _save(model, config.out, {"comparisons": count, "report": json.dumps(summary)})
    _write_report(report, config, len(train.comparisons))
    console.print(table(report))
    warning = caution(accuracy)
    if warning is not None:
        _print(console, f"caution: {warning}", style="bold")
    try:
        plot_reliability(report, config.out.with_name(f"{config.out.stem}-reliability.png"))
    except MissingExtraError as error:
        _print(console, f"there is no plot: {error}")
    return report


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is: paths in it are neither wrapped nor read as markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, style=style)


def _save(model: PreferenceModel | EnsembleReward, out: Path, metadata: Mapping[str, str]) -> None:
    """Write the weights in one step: a crash leaves the old file or the new one, never a part."""
    new = out.with_name(f"{out.name}.new")
    model.save(new, metadata)
    new.replace(out)


def _write_report(report: Report, config: TrainRewardConfig, trained_on: int) -> None:
    """Write the report and what it depends on as JSON beside the weights."""
    facts = {
        "trained_on": trained_on,
        "members": config.members,
        "combine": config.combine,
        "backbone": config.backbone,
        "config": dataclasses.asdict(config.learning),
        "files": [str(file) for file in config.comparisons],
        "created": now(),
        "versions": {name: version(name) for name in ("numpy", "safetensors", "torch")},
    }
    text = json.dumps({**report.to_dict(), **facts}, indent=1)
    config.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def _report(
    console: Console, model: PreferenceModel | EnsembleReward, test: JudgedComparisons, held_out: float
) -> Report | None:
    """The report on the held-out comparisons; without one, the reason is printed."""
    if not held_out:
        console.print("nothing was held out, so there is no report: give --held-out 0.2 for one")
    elif not test.comparisons:
        console.print("no sample fell into the part that is held out, so there is no report: label more samples")
    else:
        try:
            return evaluate(model, *test)
        except UndecidedError as error:
            console.print(f"there is no report: {error}", soft_wrap=True, highlight=False)
    return None


def _distinguishable(console: Console, judged: JudgedComparisons, reader: Reader) -> JudgedComparisons:
    """Leave out comparisons whose different responses have the same tokens for the model: they teach nothing."""
    retained = [
        i for i, comparison in enumerate(judged.comparisons)
        if len(set(comparison.responses)) == 1
        or len({reader.tokens_of(response) for response in comparison.as_responses()}) > 1
    ]  # fmt: skip
    total = len(judged.comparisons)
    if len(retained) < total:
        console.print(
            f"{total - len(retained)} of {total} comparisons left out: the model reads {reader.longest} tokens of a "
            "response, in one spelling, and knows no other words than its own: their responses are the same to it",
            soft_wrap=True,
            highlight=False,
        )
    if not retained:
        raise ValueError("no comparison is left to learn from: label responses that differ in words of the vocabulary")
    return judged.take(retained)


def read(console: Console, config: TrainRewardConfig) -> JudgedComparisons:
    """All judged comparisons of the files and the store; bad lines are printed and left out.

    Raises:
        ValueError: there are none, or they do not all have the same media.
    """
    judged: list[tuple[Comparison, Path]] = []  # each with the folder of its media
    for file in config.comparisons:
        reading = read_comparisons(file)
        for fault in reading.faults:
            _print(console, f"{file}, line {fault.line} left out: {fault.reason}")
        judged += [(comparison, file.parent) for comparison in reading.comparisons if comparison.decided]
    if config.store is not None:
        judged += stored(config.store, config.media)
    if not judged:
        raise ValueError("no judged comparison: label some first, with python -m mmenv label")
    samples = [sample_of(comparison, folder, index) for index, (comparison, folder) in enumerate(judged)]
    kinds = {(s.image is not None, s.audio is not None) for s in samples}
    if len(kinds) > 1:
        raise ValueError("some comparisons have an image or a sound and others have not: train on each kind by itself")
    return JudgedComparisons([comparison for comparison, _ in judged], samples)


def stored(url: str, media: Sequence[Path] = ()) -> list[tuple[Comparison, Path]]:
    """Judgements of a feedback store, each with the folder that the paths of its media begin at.

    Raises:
        MissingExtraError: SQLAlchemy is missing.
        ValueError: there is no such store, or it cannot be read.
    """
    with require("labelling"):
        from mmenv.feedback.store import FeedbackStore, StoreError
    try:
        with FeedbackStore(url, create=False, media=media) as store:
            folders = {_item_key(item.comparison): item.folder for item in store.items()}
            return [(c, folders[_item_key(c)] or Path()) for c in store.judgements()]
    except StoreError as error:
        raise ValueError(str(error)) from error


def _item_key(comparison: Comparison) -> tuple[Any, ...]:
    """What a comparison has in common with the item that it judges."""
    return comparison.sample_id, comparison.prompt, comparison.responses, comparison.image, comparison.audio


def split(judged: JudgedComparisons, held_out: float, seed: int) -> tuple[JudgedComparisons, JudgedComparisons]:
    """Comparisons for training and for the report; all comparisons of one sample are on the same side."""
    draws = [zlib.crc32(f"{seed}/{c.sample_id}".encode()) / 2**32 for c in judged.comparisons]
    train = [i for i, draw in enumerate(draws) if draw >= held_out]
    test = [i for i, draw in enumerate(draws) if draw < held_out]
    return judged.take(train), judged.take(test)


def _fit(
    console: Console, train: JudgedComparisons, parent: Backbone, config: TrainRewardConfig
) -> PreferenceModel | EnsembleReward:
    epochs, members = config.learning.epochs, config.members
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("reading", total=members * epochs)

        def show(member: int, passes: float, loss: float) -> None:
            text = f"model {member + 1}/{members}, pass {math.ceil(passes)}/{epochs}, loss {loss:.3f}"
            progress.update(task, completed=member * epochs + passes, description=text)

        ensemble = fit_ensemble(parent, *train, config.learning, members, config.combine, config.weight, show)
    return ensemble.models[0] if members == 1 else ensemble


def table(report: Report) -> Table:
    """The report as a table."""
    result = Table(box=SIMPLE_HEAD, pad_edge=False, title="held-out comparisons", title_justify="left")
    for column, justify in (("", "left"), ("value", "right"), ("95% interval", "right"), ("pairs", "right")):
        result.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]

    def row(name: str, share: Share) -> None:
        if share.n:
            result.add_row(name, f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}", f"{share.n:,}")

    row("accuracy", report.accuracy)
    if report.undecided:
        result.add_row("pairs of equal rewards, half right", f"{report.undecided:,}", "", "")
    if report.probability_accuracy != report.accuracy:
        row("accuracy of the members' mean probability", report.probability_accuracy)
    result.add_row("log loss (nats)", f"{report.log_loss:.3f}", "", "")
    result.add_row("expected calibration error", f"{report.calibration_error:.3f}", "", "")
    scaling = report.scaling
    result.add_row(f"at temperature {scaling.temperature:.2f}: log loss", f"{scaling.log_loss:.3f}", "", "")
    result.add_row("  expected calibration error", f"{scaling.calibration_error:.3f}", "", "")
    result.add_row("ties, left out", f"{report.ties:,}", "", "")
    for name, share in report.annotators.items():
        row(f"accuracy, {name}", share)
    for name, value in report.length.items():
        if isinstance(value, Share):
            row(f"accuracy, {name}", value)
        else:
            result.add_row(f"score and length, {name}", "-" if value is None else f"{value:+.2f}", "", "")
    return result
