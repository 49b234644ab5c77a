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
    """Train ``network`` in place by AdamW; a run that was stopped goes on from ``state`` and ends with equal weights.

    Args:
        network: what is saved.
        groups: parameters for AdamW; a group's ``scale`` times the schedule is its learning rate.
        batches: the batch of each step.
        loss_of: batch -> loss, and numbers to print.
        schedule: steps and learning rate.
        state: file of the training.
        name: what to print.
    """
    rates = [schedule.lr * group.pop("scale", 1.0) for group in groups]
    optimiser = torch.optim.AdamW(groups, lr=schedule.lr, weight_decay=0.01, betas=(0.9, 0.98))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=schedule.steps, pct_start=schedule.warm)
    first = _restore(state, network, optimiser, cycle)
    parameters = [p for group in groups for p in group["params"]]
    loader = DataLoader(batches, None, sampler=range(first, schedule.steps), num_workers=1, prefetch_factor=4)
    metrics: dict[str, list[float]] = {}
    begun = time.time()
    for step, batch in enumerate(loader, first + 1):
        with torch.autocast("cpu", torch.bfloat16) if schedule.bf16 else nullcontext(), sdpa_kernel(SDPBackend.MATH):
            loss, numbers = loss_of(batch)  # attention by products: its bfloat16 kernel has a slow backward pass
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        cycle.step()
        for key, value in {"loss": loss.item(), **numbers}.items():
            metrics.setdefault(key, []).append(value)
        if step % 100 == 0 or step == schedule.steps:
            means = "  ".join(f"{key} {np.mean(values[-100:]):.3f}" for key, values in sorted(metrics.items()))
            print(f"{name} {step} of {schedule.steps}, {time.time() - begun:.0f} s: {means}", flush=True)
        if step % schedule.every == 0 or step == schedule.steps:
            _store(state, step, network, optimiser, cycle)


def _store(state: Path, step: int, network: nn.Module, optimiser: Any, cycle: Any) -> None:
    """Write the state under another name first, so that a stop leaves the one before."""
    state.parent.mkdir(parents=True, exist_ok=True)
    parts = {"step": step, "network": network.state_dict(), "optimiser": optimiser.state_dict()}
    new = state.with_suffix(".new")
    torch.save({**parts, "cycle": cycle.state_dict(), "random": torch.get_rng_state()}, new)
    new.replace(state)


def _restore(state: Path, network: nn.Module, optimiser: Any, cycle: Any) -> int:
    """Take up a stored training; the number of its steps, 0 where there is none."""
    if not state.is_file():
        return 0
    parts = torch.load(state, weights_only=True)
    network.load_state_dict(parts["network"])
    optimiser.load_state_dict(parts["optimiser"])
    cycle.load_state_dict(parts["cycle"])
    torch.set_rng_state(parts["random"])
    return int(parts["step"])
