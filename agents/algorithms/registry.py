"""Algorithms by name. One of one's own joins as ``package.module:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from agents.algorithms.a2c import A2C
from agents.algorithms.base import Algorithm
from agents.algorithms.best_of_n import BestOfN
from agents.algorithms.dpo import OfflineDPO, OnlineDPO
from agents.algorithms.grpo import GRPO
from agents.algorithms.imitation import SFT, Distillation, ExpertIteration
from agents.algorithms.names import SB3 as SB3
from agents.algorithms.names import unknown
from agents.algorithms.nlpo import NLPO
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import Reinforce
from agents.algorithms.rloo import RLOO

ALGORITHMS: dict[str, type[Algorithm]] = {
    "ppo": PPO,
    "reinforce": Reinforce,
    "rloo": RLOO,
    "grpo": GRPO,
    "nlpo": NLPO,
    "a2c": A2C,
    "online-dpo": OnlineDPO,
    "offline-dpo": OfflineDPO,
    "expert-iteration": ExpertIteration,
    "distillation": Distillation,
    "best-of-n": BestOfN,
    "sft": SFT,
}


def find(name: str, others: Iterable[str] = ()) -> type[Algorithm]:
    """The class behind a name, or behind ``package.module:Class``.

    Args:
        name: of the algorithm.
        others: what else the caller takes; the error names it too.

    Raises:
        ValueError: there is none; the message says which there are, which was meant, and how one joins.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    module, _, cls = name.partition(":")
    if not cls:
        raise unknown(name, others)
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"algorithm {name!r} cannot be imported ({error}): is it on the Python path?") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(f"{name!r} is no subclass of agents.algorithms.base.Algorithm: make it one")
    return found
