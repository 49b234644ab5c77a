"""The processes (ranks) of one run: joining and leaving, and the collectives that all of them call together.

``accelerate launch`` starts them and Accelerate's ``PartialState`` joins them, over gloo on CPUs and NCCL on GPUs. In a
run of one process every function here does nothing, and accelerate need not be installed.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from agents.files import SIZES
from agents.settings.shared import TrainConfig
from mmenv.arguments import require

T = TypeVar("T")
Config = TypeVar("Config", bound=TrainConfig)

# Ranks wait so long for a machine that does not answer; that a process died they notice at once. It must be longer than
# an evaluation, during which the others wait for rank 0.
TIMEOUT = timedelta(minutes=30)


class RankLost(RuntimeError):
    """Another process of the run has ended or no longer answers.

    Args:
        reason: the error that showed it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"another process of the run is gone ({reason}); the last checkpoint is complete: go on with --resume, on "
            "as many processes as you like"
        )


def launched() -> int:
    """Number of processes that the launcher started.

    Raises:
        ValueError: several were requested and one was started.
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
    with _rank_lost():
        PartialState(cpu=torch.device(device).type == "cpu", timeout=TIMEOUT)


def leave() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def hard_exit(code: int) -> NoReturn:
    """End the process; a launched one without finalising the interpreter, as multiprocessing ends its workers.

    FSDP's mesh keeps threads of gloo beyond ``leave``, and they release their tensors a moment after the collectives.
    For this they wait for the interpreter's lock. A finalising interpreter stops such threads, which aborts the process
    (https://github.com/pytorch/pytorch/pull/179291).
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
    """Number of this process, from 0; rank 0 writes the log and the checkpoint."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_config(config: Config) -> Config:
    """A run's configuration for this rank: its lanes, its seed, its device.

    Raises:
        ValueError: the lanes do not divide among the processes in complete groups.
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
    return dataclasses.replace(config, num_envs=config.num_envs // n, seed=rank_seed(config.seed), device=device)


def rank_seed(seed: int, *keys: int) -> int:
    """A seed for this rank; that of rank 0 is ``seed`` itself, unless ``keys`` ask for another stream of numbers."""
    if not keys and rank() == 0:
        return seed
    return int(np.random.SeedSequence((seed, rank(), *keys)).generate_state(1)[0])


def gather(value: T) -> list[T]:
    """The values of all ranks, in order of rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    with _rank_lost():
        dist.all_gather_object(values, value)
    return values


def gather_arrays(x: np.ndarray) -> np.ndarray:
    """The arrays of all ranks, concatenated in order of rank."""
    return np.concatenate(gather(x))


def sum_in_place(x: Tensor) -> Tensor:
    """Replace ``x`` by its sum over all ranks."""
    if size() > 1:
        with torch.no_grad(), _rank_lost():
            dist.all_reduce(x)
    return x


def total(x: Tensor) -> Tensor:
    """``x`` summed over all ranks; gradients do not pass."""
    return x if size() == 1 else sum_in_place(x.detach().clone())


def broadcast(parameters: Iterable[Tensor]) -> None:
    """Give every rank the weights of rank 0."""
    if size() > 1:
        with torch.no_grad(), _rank_lost():
            for p in parameters:
                dist.broadcast(p, 0)


def on_rank_zero(make: Callable[[], T]) -> T:
    """Call ``make`` on rank 0 alone and return its result on all ranks; the others wait.

    Raises:
        RankLost: on the others, if it raised on rank 0.
    """
    if size() == 1:
        return make()
    message: list[Any] = [None, True]  # the result, and whether there is none
    try:
        if rank() == 0:
            message = [make(), False]
    finally:
        with _rank_lost():
            dist.broadcast_object_list(message, 0)
    result, failed = message
    if failed:
        raise RankLost("rank 0 failed; its message has the reason")
    return result


@contextlib.contextmanager
def _rank_lost() -> Iterator[None]:
    """Turn the RuntimeErrors of collectives into RankLost."""
    try:
        yield
    except RankLost:
        raise  # raised by a signal handler meanwhile
    except RuntimeError as error:  # gloo and NCCL raise it alike
        raise RankLost(str(error).splitlines()[0]) from error
