"""Algorithms by name. One of one's own joins as ``package.module:Class``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable

from agents.a2c import A2C
from agents.algorithm import Algorithm
from agents.best_of_n import BestOfN
from agents.dpo import OfflineDPO, OnlineDPO
from agents.grpo import GRPO
from agents.nlpo import NLPO
from agents.ppo import PPO
from agents.reinforce import Reinforce
from agents.rloo import RLOO
from agents.sft import SFT, Distillation, ExpertIteration

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
# Those of stable-baselines3, which agents.sb3 runs: their packages are an extra.
SB3 = ("sb3-ppo", "sb3-a2c", "sb3-maskable-ppo", "sb3-recurrent-ppo")


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
        names = [*ALGORITHMS, *others]
        near = difflib.get_close_matches(name, names, 1)
        there = f"did you mean {near[0]!r}? There" if near else "there"
        raise ValueError(
            f"unknown algorithm {name!r}: {there} are {', '.join(names)}; one of your own is package.module:Class"
        )
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"algorithm {name!r} cannot be imported ({error}): is it on the Python path?") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(f"{name!r} is no subclass of agents.algorithm.Algorithm: make it one")
    return found
