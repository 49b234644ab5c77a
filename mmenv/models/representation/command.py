"""``mmenv align``: pretraining with a progress bar, then weights, metrics and a picture of retrieval."""

from __future__ import annotations

import dataclasses
import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mmenv.models.devices import device_named
from mmenv.models.representation.config import AlignConfig
from mmenv.models.representation.network import Representation, save_representation
from mmenv.models.representation.pretraining import Step, pretrain
from mmenv.models.representation.probes import held_out_examples, linear_probe, retrieval, similarities

PIECE, SHOWN = 96, 4  # pixels a side of an image in the picture, images a row


def run(config: AlignConfig, out: Path, console: Console, device: str = "cpu") -> dict[str, Any]:
    """Train, save and evaluate.

    Args:
        config: what to train.
        out: folder for ``representation.safetensors``, ``metrics.json`` and ``retrieval.png``.
        console: where the progress bar goes.
        device: where it is trained and evaluated.

    Returns:
        what ``metrics.json`` holds.
    """
    model, begun = Representation(config).to(device_named(device)), time.perf_counter()
    curve = _watched(model, console)
    seconds = time.perf_counter() - begun
    save_representation(model, out)
    found = retrieval(model)
    if "image" in model.modalities:
        found |= {f"probe/{name}": value for name, value in linear_probe(model, config.probe_scenes).items()}
        picture(model, out / "retrieval.png")
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    metrics = {
        "config": dataclasses.asdict(config), "device": device, "versions": versions, "seconds": seconds,
        "found": found, "curve": [{"step": s.step, **s.losses} for s in curve],
    }  # fmt: skip
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    console.print(metrics_table(found))
    files = "representation.safetensors, metrics.json, retrieval.png"
    console.print(f"{out}: {files}", soft_wrap=True, highlight=False, markup=False)
    return metrics


def _watched(model: Representation, console: Console) -> list[Step]:
    """The steps of pretraining, under a progress bar."""
    columns = (
        TextColumn("[bold]align"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    steps = []
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=model.config.steps, note="")
        for step in pretrain(model):
            steps.append(step)
            note = "  ".join(f"{name} {value:.2f}" for name, value in step.losses.items())
            progress.update(bar, advance=1, note=note)
    return steps


def metrics_table(metrics: dict[str, float]) -> Table:
    """Metrics of retrieval and probes as a table."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("among 200 held-out scenes")
    shown.add_column("", justify="right")
    for name, value in metrics.items():
        shown.add_row(name.replace("/", ": ").replace("_", " "), f"{value:.3f}")
    return shown


def picture(model: Representation, path: Path, rows: int = 6, n: int = 200) -> None:
    """Draw captions with the images most similar to each among ``n``; the right image has a green frame."""
    examples = held_out_examples(n)
    matrix = similarities(model, examples, "image", "text").T  # (texts, images)
    assert examples.image is not None
    assert examples.text is not None
    height, width = PIECE + 34, SHOWN * (PIECE + 12)
    sheet = Image.new("RGB", (width + 12, rows * height + 8), (250, 250, 250))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row in range(rows):
        top = row * height + 6
        pen.text((12, top), examples.text[row], (30, 30, 30), font)
        for at, i in enumerate(matrix[row].topk(SHOWN).indices.tolist()):
            small = Image.fromarray(np.asarray(examples.image[i])).resize((PIECE, PIECE), Image.Resampling.NEAREST)
            x, y = 12 + at * (PIECE + 12), top + 20
            if i == row:
                pen.rectangle((x - 4, y - 4, x + PIECE + 3, y + PIECE + 3), (30, 150, 70))
            sheet.paste(small, (x, y))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
