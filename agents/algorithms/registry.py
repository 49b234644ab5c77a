"""Algorithms by name. Names and what they stand for are strings, so that a list of them loads no torch.

An algorithm of your own needs no entry: its name is ``package.module:Class``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from agents.algorithms.base import Algorithm


class Entry(NamedTuple):
    """Where the class of an algorithm is, as ``package.module:Class``, and a sentence about it."""

    path: str
    summary: str


ALGORITHMS = {
    "ppo": Entry("agents.algorithms.ppo:PPO", "Proximal policy optimisation with a KL penalty to the start."),
    "reinforce": Entry("agents.algorithms.reinforce:Reinforce", "REINFORCE with a moving average as baseline."),
    "rloo": Entry("agents.algorithms.reinforce:RLOO", "REINFORCE; other responses to the context are the baseline."),
    "remax": Entry("agents.algorithms.remax:ReMax", "ReMax (Li et al. 2023): the greedy response is the baseline."),
    "reinforce-pp": Entry(
        "agents.algorithms.reinforce_pp:ReinforcePP", "REINFORCE++ (Hu et al. 2025): clipped steps, batch-normalised."
    ),
    "reinforce-pp-baseline": Entry(
        "agents.algorithms.reinforce_pp:ReinforcePPBaseline",
        "REINFORCE++ (Hu et al. 2025) after the mean of the context.",
    ),
    "grpo": Entry("agents.algorithms.grpo:GRPO", "PPO's clipped steps along scores relative to the context's."),
    "dr-grpo": Entry("agents.algorithms.grpo:DrGRPO", "GRPO without deviation, length and KL in its loss."),
    "dapo": Entry("agents.algorithms.grpo:DAPO", "GRPO that refills groups whose scores are all equal, without KL."),
    "gspo": Entry("agents.algorithms.grpo:GSPO", "GRPO with one ratio of probabilities for each response."),
    "cispo": Entry("agents.algorithms.grpo:CISPO", "GRPO whose capped ratios weight log-probabilities, without KL."),
    "sapo": Entry("agents.algorithms.grpo:SAPO", "GRPO with a soft gate on the ratio instead of a clip."),
    "vineppo": Entry("agents.algorithms.vineppo:VinePPO", "VinePPO (2024): PPO whose values are means over branches."),
    "nlpo": Entry("agents.algorithms.nlpo:NLPO", "PPO among the likely tokens of an earlier policy."),
    "a2c": Entry("agents.algorithms.a2c:A2C", "Advantage actor-critic, one unclipped step on every batch."),
    "online-dpo": Entry("agents.algorithms.dpo:OnlineDPO", "Direct preference optimisation on sampled pairs."),
    "offline-dpo": Entry("agents.algorithms.dpo:OfflineDPO", "Direct preference optimisation on stored preferences."),
    "ipo": Entry("agents.algorithms.dpo:IPO", "IPO (Azar et al. 2023): offline DPO with a squared loss."),
    "kto": Entry("agents.algorithms.kto:KTO", "KTO (Ethayarajh et al. 2024): learns from single judgements."),
    "expert-iteration": Entry("agents.algorithms.imitation:ExpertIteration", "Imitates its own best responses."),
    "distillation": Entry("agents.algorithms.imitation:Distillation", "Imitates the best of n responses of the start."),
    "best-of-n": Entry("agents.algorithms.best_of_n:BestOfN", "Answers with the best of n responses; learns nothing."),
    "sft": Entry("agents.algorithms.imitation:SFT", "Supervised fine-tuning on demonstrations."),
}
# Those of stable-baselines3, which agents.integrations.sb3 runs: their packages are an extra.
SB3 = ("sb3-ppo", "sb3-a2c", "sb3-maskable-ppo", "sb3-recurrent-ppo")
TRL = ("trl-grpo",)  # of TRL, which agents.integrations.trl runs
OTHERS = (*SB3, *TRL)


def find(name: str, others: Iterable[str] = ()) -> type[Algorithm]:
    """Import the class behind a name, or behind ``package.module:Class``.

    Args:
        name: of the algorithm.
        others: further names that the caller accepts, for the message.

    Raises:
        ValueError: there is none; the message lists the names, the nearest of them, and how to add an algorithm.
    """
    path = ALGORITHMS[name].path if name in ALGORITHMS else name
    module, _, class_name = path.partition(":")
    if not class_name:
        raise unknown(name, others)
    from agents.algorithms.base import Algorithm

    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"algorithm {name!r} cannot be imported ({error}): is it on the Python path?") from error
    if not hasattr(imported, class_name):
        classes = [n for n, value in vars(imported).items() if isinstance(value, type) and value.__module__ == module]
        remedy = f"give package.module:Class, one of {', '.join(classes)}" if classes else "give package.module:Class"
        raise ValueError(f"algorithm {name!r}: {module} has no class {class_name}: {remedy}")
    cls = getattr(imported, class_name)
    if not (isinstance(cls, type) and issubclass(cls, Algorithm)):
        raise ValueError(f"{name!r} is no subclass of agents.algorithms.base.Algorithm: make it one")
    return cls


def unknown(name: str, others: Iterable[str] = ()) -> ValueError:
    """The error for an unknown name. It lists the names, the nearest of them, and how to add an algorithm."""
    names = [*ALGORITHMS, *others]
    near = difflib.get_close_matches(name, names, 1)
    there = f"did you mean {near[0]!r}? There" if near else "there"
    return ValueError(
        f"unknown algorithm {name!r}: {there} are {', '.join(names)}; one of your own is package.module:Class"
    )


def modules_in(names: Iterable[str]) -> list[str]:
    """Modules that algorithms (``package.module:Class``) and ids (``package.module:namespace/Name-v0``) import."""
    return [name.rpartition(":")[0] for name in names if ":" in name]


def check_trust(names: Iterable[str], trusted: Iterable[str], where: object) -> None:
    """Refuse names from a file that would import code which the person has not allowed.

    Args:
        names: algorithms and ids from the file.
        trusted: modules that the person allowed, or names that contain them.
        where: the file, for the message.

    Raises:
        ValueError: the message has the module, and how to allow it.
    """
    allowed = {name.rpartition(":")[0] or name for name in trusted}
    for module in modules_in(names):
        if module not in allowed:
            raise ValueError(
                f"{where} names code that would be run, the module {module!r}: if you know it and whoever wrote the "
                f"file, allow it by --trust {module}"
            )
