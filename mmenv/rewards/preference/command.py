"""Comparisons from files and stores to saved weights, a table, a report and a reliability plot."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mmenv.arguments import require
from mmenv.data.sample import Sample
from mmenv.feedback.comparison import Comparison, now, read_comparisons, sample_of
from mmenv.models.transformer import Network
from mmenv.rewards.preference.calibration import Report, UndecidedError, caution, evaluate, plot_reliability
from mmenv.rewards.preference.config import RewardConfig
from mmenv.rewards.preference.ensemble import EnsembleReward, fit_ensemble
from mmenv.rewards.preference.model import PreferenceModel, shared_backbone
from mmenv.statistics import Share


class Data(NamedTuple):
    """Judged comparisons and the sample of each."""

    comparisons: list[Comparison]
    samples: list[Sample]

    def take(self, numbers: Sequence[int]) -> Data:
        """Some of them."""
        return Data([self.comparisons[i] for i in numbers], [self.samples[i] for i in numbers])


def train_reward(
    console: Console,
    files: Sequence[Path],
    store: str | None,
    out: Path,
    config: RewardConfig,
    members: int = 5,
    combine: str = "mean",
    weight: float = 1.0,
    held_out: float = 0.2,
    kind: str = "token",
    backbone: str = "base",
    media: Sequence[Path] = (),
) -> Report | None:
    """Train on judged comparisons, save, and report on those held out.

    Args:
        console: for progress and the table.
        files: JSON lines of comparisons; their media stand beside them.
        store: URL of a feedback store, or None.
        out: the weights; the report is written beside them, ``NAME.json`` and ``NAME-reliability.png``.
        config: of the training.
        members: 1 saves a preference model, more an ensemble.
        combine, weight: as in ``EnsembleReward``.
        held_out: share of the samples kept from training; 0 keeps none and writes no report.
        kind: of the heads.
        backbone: shipped name or path.
        media: folders, beside the store's own, in which its items may have their media.

    Returns:
        the report

    Raises:
        ValueError: an argument is out of range, or there is nothing to learn from.
        FileNotFoundError: a file is missing.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out!r} is no share: give 0 or more, and less than 1")
    if out.suffix != ".safetensors":
        raise ValueError(f"out={str(out)!r} is no .safetensors file: end its name so, gym.make knows rewards by that")
    data = _distinct(console, read(console, files, store, media), shared_backbone(backbone))
    train, test = split(data, held_out, config.seed)
    if not train.comparisons:
        raise ValueError(
            f"all {len(test.comparisons)} judged comparisons are of samples that are held out: give --held-out 0, or "
            "label more samples"
        )
    model = _fit(console, train, config, members, combine, weight, kind, backbone)
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {"comparisons": f"{len(train.comparisons):,}"}
    _save(model, out, about)  # before anything of the report can fail
    console.print(
        f"{out}: {members} heads from {len(train.comparisons):,} comparisons",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    report = _report(console, model, test, held_out)
    if report is None:
        return None
    model.temperature, share = report.scaling.temperature, report.accuracy
    summary = {"accuracy": share.value, "low": share.low, "high": share.high, "n": share.n}
    _save(model, out, {**about, "report": json.dumps(summary)})
    facts = {
        "trained_on": len(train.comparisons), "members": members, "combine": combine, "kind": kind,
        "backbone": backbone, "config": dataclasses.asdict(config), "files": [str(f) for f in files],
        "created": now(), "versions": {name: version(name) for name in ("numpy", "safetensors", "torch")},
    }  # fmt: skip
    out.with_suffix(".json").write_text(json.dumps({**report.to_dict(), **facts}, indent=1) + "\n", encoding="utf-8")
    console.print(table(report))
    sentence = caution(share)
    if sentence is not None:
        console.print(f"caution: {sentence}", soft_wrap=True, highlight=False, markup=False, style="bold")
    try:
        plot_reliability(report, out.with_name(f"{out.stem}-reliability.png"))
    except ModuleNotFoundError as error:
        console.print(f"there is no plot: {error}", soft_wrap=True, highlight=False, markup=False)
    return report


def _save(model: PreferenceModel | EnsembleReward, out: Path, metadata: Mapping[str, str]) -> None:
    """Write the weights whole or not at all."""
    new = out.with_name(f"{out.name}.new")
    model.save(new, metadata)
    new.replace(out)


def _report(console: Console, model: PreferenceModel | EnsembleReward, test: Data, held_out: float) -> Report | None:
    """The report on what was held out; None, and the reason in print, where there is none to make."""
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


def _distinct(console: Console, data: Data, network: Network) -> Data:
    """Without the comparisons whose different responses the network reads alike: they cannot be learned."""
    reader = PreferenceModel(network)
    kept = [
        i for i, c in enumerate(data.comparisons)
        if len(set(c.responses)) == 1 or len({reader.tokens_of(r) for r in c.as_responses()}) > 1
    ]  # fmt: skip
    if len(kept) < len(data.comparisons):
        console.print(
            f"{len(data.comparisons) - len(kept)} of {len(data.comparisons)} comparisons left out: the model reads "
            f"{reader.longest} tokens of a response and knows no other words than its own, so their responses are the "
            "same to it",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    if not kept:
        raise ValueError("no comparison is left to learn from: label responses that differ in words of the vocabulary")
    return data.take(kept)


def read(console: Console, files: Sequence[Path], store: str | None, media: Sequence[Path] = ()) -> Data:
    """All judged comparisons of some files and a store; bad lines are named and left out.

    Raises:
        ValueError: there are none, or they do not all have the same media.
    """
    found: list[tuple[Comparison, Path]] = []
    for file in files:
        reading = read_comparisons(file)
        for fault in reading.faults:
            console.print(
                f"{file}, line {fault.line} left out: {fault.reason}", soft_wrap=True, highlight=False, markup=False
            )
        found += [(c, file.parent) for c in reading.comparisons if c.decided]
    found += [] if store is None else stored(store, media)
    if not found:
        raise ValueError("no judged comparison: label some first, with python -m mmenv label")
    samples = [sample_of(c, folder, index) for index, (c, folder) in enumerate(found)]
    kinds = {(s.image is not None, s.audio is not None) for s in samples}
    if len(kinds) > 1:
        raise ValueError("some comparisons have an image or a sound and others have not: train on each kind by itself")
    return Data([c for c, _ in found], samples)


def stored(url: str, media: Sequence[Path] = ()) -> list[tuple[Comparison, Path]]:
    """Judgements of a feedback store, and where the media of each begin.

    Raises:
        ModuleNotFoundError: SQLAlchemy is missing.
        ValueError: there is no such store, or it cannot be read.
    """
    with require("labelling"):
        from mmenv.feedback.store.store import FeedbackStore, StoreError
    try:
        with FeedbackStore(url, create=False, media=media) as store:
            folders = {_key(item.comparison): item.folder for item in store.items()}
            return [(c, folders[_key(c)] or Path()) for c in store.judgements()]
    except StoreError as error:
        raise ValueError(str(error)) from error


def _key(comparison: Comparison) -> tuple[Any, ...]:
    c = comparison
    return c.sample_id, c.prompt, c.responses, c.image, c.audio


def split(data: Data, held_out: float, seed: int) -> tuple[Data, Data]:
    """For training and for the report: a sample is in one of them, whatever was said of it and by whom."""
    keys = [zlib.crc32(f"{seed}/{c.sample_id}".encode()) / 2**32 for c in data.comparisons]
    numbers = range(len(keys))
    return data.take([i for i in numbers if keys[i] >= held_out]), data.take([i for i in numbers if keys[i] < held_out])


def _fit(
    console: Console,
    train: Data,
    config: RewardConfig,
    members: int,
    combine: str,
    weight: float,
    kind: str,
    backbone: str,
) -> PreferenceModel | EnsembleReward:
    network = shared_backbone(backbone)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("reading", total=members * config.epochs)

        def report(member: int, epoch: int, loss: float) -> None:
            said = f"head {member + 1}/{members}, epoch {epoch + 1}, loss {loss:.3f}"
            progress.update(task, advance=1, description=said)

        ensemble = fit_ensemble(network, *train, config, members, combine, weight, kind, backbone, report)
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
