"""A training that goes on where it stopped: a seeded batch for each step, and a file with all that a step needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Steps of a training and their learning rate: one cycle, linear to ``lr`` and down by a cosine.

    Attributes:
        steps: gradient steps.
        lr: greatest learning rate.
        warm: share of the steps until it is reached.
        every: steps between two files.
        bf16: whether matrix products are in bfloat16, twice as fast on processors that have them.
    """

    steps: int
    lr: float
    warm: float = 0.05
    every: int = 250
    bf16: bool = True


def train(
    network: nn.Module,
    groups: list[dict[str, Any]],
    batches: Dataset[T],
    loss_of: Callable[[T], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    state: Path,
    name: str,
) -> None:
    """Train ``network`` in place; a run that was stopped goes on from ``state`` and ends with equal weights.

    Args:
        network: what is saved.
        groups: parameters as AdamW takes them; a group's ``scale`` times the schedule is its learning rate.
        batches: the batch of each step.
        loss_of: batch -> loss, and numbers to print.
        schedule: steps and learning rate.
        state: file of the training.
        name: what to print.
    """
    parameters = [p for group in groups for p in group["params"]]
    scaled = [{**g, "lr": schedule.lr * g["scale"]} for g in groups]
    optimiser = torch.optim.AdamW(scaled, weight_decay=0.01, betas=(0.9, 0.98))
    rates = [group["lr"] for group in scaled]
    cycle = OneCycleLR(optimiser, rates, schedule.steps, pct_start=schedule.warm, cycle_momentum=False)
    parts: list[Any] = [optimiser, cycle]
    first = _restore(state, network, parts)
    loader = DataLoader(batches, None, sampler=range(first, schedule.steps), num_workers=1, prefetch_factor=4)
    metrics: dict[str, list[float]] = {}
    begun = time.time()
    for step, batch in enumerate(loader, first + 1):
        with torch.autocast("cpu", torch.bfloat16) if schedule.bf16 else nullcontext(), sdpa_kernel(SDPBackend.MATH):
            loss, numbers = loss_of(batch)  # attention by products: its bfloat16 kernel has a slow backward pass
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for part in parts:
            part.step()
        for key, value in {"loss": loss.item(), **numbers}.items():
            metrics.setdefault(key, []).append(value)
        if step % 100 == 0 or step == schedule.steps:
            means = "  ".join(f"{key} {np.mean(values[-100:]):.3f}" for key, values in sorted(metrics.items()))
            print(f"{name} {step} of {schedule.steps}, {time.time() - begun:.0f} s: {means}", flush=True)
        if step % schedule.every == 0 or step == schedule.steps:
            _store(state, step, network, parts)


def _store(state: Path, step: int, network: nn.Module, parts: list[Any]) -> None:
    """Write the state under another name first, so that a stop leaves the one before."""
    state.parent.mkdir(parents=True, exist_ok=True)
    stored = {"step": step, "network": network.state_dict(), "parts": [part.state_dict() for part in parts]}
    new = state.with_suffix(".new")
    torch.save({**stored, "random": torch.get_rng_state()}, new)
    new.replace(state)


def _restore(state: Path, network: nn.Module, parts: list[Any]) -> int:
    """Take up a stored training; the number of its steps, 0 where there is none."""
    if not state.is_file():
        return 0
    stored = torch.load(state, weights_only=True)
    network.load_state_dict(stored["network"])
    for part, content in zip(parts, stored["parts"], strict=True):
        part.load_state_dict(content)
    torch.set_rng_state(stored["random"])
    return int(stored["step"])
