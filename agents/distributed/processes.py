"""The processes of one run: who they are, what they add up, what they agree on, and what the first does for all.

They are started by ``accelerate launch`` and joined by Accelerate's ``PartialState``, over gloo on CPUs and NCCL on
GPUs. A policy is not called through ``forward`` (it samples from a cache and scores whole responses by methods of its
own), so that DistributedDataParallel's wrapper would not see its passes; and its mean over ranks would be another
gradient wherever they hold different numbers of tokens. Gradients are therefore added up after the backward pass, in
one buffer, each weighted by its share. Alone, every function here does nothing, and accelerate need not be installed.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from agents.files import SIZES
from agents.settings.shared import TrainConfig
from mmenv.arguments import require

T = TypeVar("T")
Config = TypeVar("Config", bound=TrainConfig)

# A process that dies closes its connections, which the others notice at once; this long they wait for a machine that
# has fallen silent. It must be longer than an evaluation, in which the others wait for the first process.
TIMEOUT = timedelta(minutes=30)


class RankLost(RuntimeError):
    """Another process of the run has ended or no longer answers.

    Args:
        reason: how that showed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"another process of the run is gone ({reason}); its last checkpoint is whole: go on with --resume, on as "
            "many processes as you like"
        )


def launched() -> int:
    """How many processes the launcher started.

    Raises:
        ValueError: it was asked for several and started one.
    """
    size = int(next((os.environ[name] for name in SIZES if name in os.environ), "1"))
    if size == 1 and "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
        raise ValueError(
            "accelerate launch started one process: with --cpu it leaves starting several to mpirun; take "
            "accelerate launch --config_file examples/accelerate/cpu.yaml --num_processes N"
        )
    return size


def join(device: str) -> None:
    """Meet the other processes, where there are any.

    Args:
        device: cpu or cuda, as the run's configuration has it.

    Raises:
        MissingExtraError: accelerate is missing.
        ValueError: it launched what it does not say.
    """
    if launched() == 1 or dist.is_initialized():
        return
    with require("cluster"):
        from accelerate import PartialState
    with _together():
        PartialState(cpu=torch.device(device).type == "cpu", timeout=TIMEOUT)


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> NoReturn:
    """End the process; one of several as multiprocessing ends its own, without winding down the interpreter.

    Threads of gloo, which a mesh of FSDP keeps beyond ``leave``, hold tensors a moment longer than the collectives that
    these were for. To release one they wait for the interpreter's lock, and an interpreter that is ending stops whoever
    waits, of which C++ makes an abort (https://github.com/pytorch/pytorch/pull/179291).
    """
    if not any(name in os.environ for name in SIZES):
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; the first one writes the log and the checkpoint."""
    return dist.get_rank() if dist.is_initialized() else 0


def own(config: Config) -> Config:
    """A run's configuration as this process has it: its lanes, its seed, its device.

    Raises:
        ValueError: the lanes do not divide among the processes in whole groups.
    """
    n, each = size(), config.responses_per_context
    if n == 1:
        return config
    if config.num_envs % (n * each):
        raise ValueError(
            f"num_envs={config.num_envs} does not divide among {n} processes in groups of "
            f"responses_per_context={each}: take a multiple of {n * each}"
        )
    device = config.device
    if torch.device(device).type == "cuda":
        from accelerate import PartialState

        device = str(PartialState().device)
    return dataclasses.replace(config, num_envs=config.num_envs // n, seed=stream(config.seed), device=device)


def stream(seed: int, *also: int) -> int:
    """A seed of this process's own; the first one's is ``seed`` itself, unless ``also`` makes another stream."""
    if not also and rank() == 0:
        return seed
    return int(np.random.SeedSequence((seed, rank(), *also)).generate_state(1)[0])


def gather(value: T) -> list[T]:
    """What every process holds, in order of rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    with _together():
        dist.all_gather_object(values, value)
    return values


def joined(x: np.ndarray) -> np.ndarray:
    """Arrays of all processes one after the other."""
    return np.concatenate(gather(x))


def total(x: Tensor) -> Tensor:
    """``x`` summed over the processes; gradients do not pass."""
    if size() == 1:
        return x
    summed = x.detach().clone()
    with _together():
        dist.all_reduce(summed)
    return summed


def mean(x: Tensor) -> Tensor:
    """Mean of ``x`` (n,) over what all processes have."""
    if size() == 1:
        return x.mean()
    summed, n = total(torch.stack([x.sum(), x.new_tensor(float(len(x)))]))
    return summed / n


def mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``x`` (n,) over what all processes have."""
    if size() == 1:
        return x.mean(), x.var(correction=0)
    middle = mean(x)
    return middle, mean((x - middle) ** 2)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of all processes where ``mask`` is 1."""
    summed, n = total(torch.stack([(x * mask).sum(), mask.sum()]))
    return summed / n.clamp(min=1)


def share(weight: float, device: torch.device) -> float:
    """What part of a minibatch this process has, of all processes together.

    Args:
        weight: how much it has, in what the loss is a mean over.
        device: on which processes meet.
    """
    if size() == 1:
        return 1.0
    return weight / max(total(torch.tensor(weight, dtype=torch.float64, device=device)).item(), 1.0)


def add_up(parameters: Sequence[nn.Parameter]) -> None:
    """Make the gradients those of the whole minibatch: the sum of what every process has."""
    if size() == 1:
        return
    with torch.no_grad():
        present = [torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        buffer = torch.cat([g.flatten().float() for g in (*grads, *present)])
        with _together():
            dist.all_reduce(buffer)
        *summed, known = buffer.split([*(p.numel() for p in parameters), len(parameters)])
        for p, g, n in zip(parameters, summed, known.tolist(), strict=True):
            # A head that no loss reaches has no gradient anywhere; Adam is to pass it over here as well.
            p.grad = g.view_as(p).to(p.dtype) if n else None


def same(parameters: Iterable[Tensor]) -> None:
    """Give every process the first one's weights."""
    if size() > 1:
        with torch.no_grad(), _together():
            for p in parameters:
                dist.broadcast(p, 0)


def merged(steps: Sequence[tuple[float, dict[str, float]]]) -> list[dict[str, float]]:
    """What was logged of each step, as the mean over the processes by their share; nothing of a step that none took."""
    if size() == 1:
        return [told for _, told in steps]
    found = []
    for several in zip(*gather(list(steps)), strict=True):
        names = next((told for _, told in several if told), {})
        weights = [share if told else 0.0 for share, told in several]
        known = [told or dict.fromkeys(names, 0.0) for _, told in several]
        found.append({name: float(np.average([k[name] for k in known], weights=weights)) for name in names})
    return found


def first(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process, in all of them; the others wait.

    Raises:
        RankLost: in the others, where it raised in the first.
    """
    if size() == 1:
        return make()
    found: list[Any] = [None, True]
    try:
        if rank() == 0:
            found = [make(), False]
    finally:
        with _together():
            dist.broadcast_object_list(found, 0)
    if found[1]:
        raise RankLost("the first one failed, and says why")
    return found[0]


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Where processes meet: one that does not come is told of in words."""
    try:
        yield
    except RankLost:
        raise  # of a signal that came meanwhile
    except RuntimeError as error:  # what gloo and NCCL raise alike
        raise RankLost(str(error).splitlines()[0]) from error
