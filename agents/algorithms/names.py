"""What the command line knows by name. A list of names needs no torch, and none is loaded for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from agents.settings import shared

CONFIGS: dict[str, type[shared.TrainConfig]] = {
    "ppo": shared.PPOConfig,
    "reinforce": shared.ReinforceConfig,
    "rloo": shared.RLOOConfig,
    "grpo": shared.GRPOConfig,
    "nlpo": shared.NLPOConfig,
    "a2c": shared.A2CConfig,
    "online-dpo": shared.DPOConfig,
    "offline-dpo": shared.OfflineDPOConfig,
    "expert-iteration": shared.ExpertIterationConfig,
    "distillation": shared.DistillationConfig,
    "best-of-n": shared.BestOfNConfig,
    "sft": shared.SFTConfig,
}
# Those of stable-baselines3, which agents.integrations.sb3 runs: their packages are an extra.
SB3 = ("sb3-ppo", "sb3-a2c", "sb3-maskable-ppo", "sb3-recurrent-ppo")


def unknown(name: str, others: Iterable[str] = ()) -> ValueError:
    """The error for a name that is none: which there are, which was meant, and how one of one's own joins."""
    names = [*CONFIGS, *others]
    near = difflib.get_close_matches(name, names, 1)
    there = f"did you mean {near[0]!r}? There" if near else "there"
    return ValueError(
        f"unknown algorithm {name!r}: {there} are {', '.join(names)}; one of your own is package.module:Class"
    )


def modules_in(names: Iterable[str]) -> list[str]:
    """Modules that algorithms (``package.module:Class``) and ids (``package.module:namespace/Name-v0``) import."""
    return [name.rpartition(":")[0] for name in names if ":" in name]


def check_trust(names: Iterable[str], trusted: Iterable[str], where: object) -> None:
    """Refuse names that would import code which a file names and no person does.

    Args:
        names: algorithms and ids, as the file has them.
        trusted: modules, or names with them, as the person has them.
        where: the file.

    Raises:
        ValueError: names the module, and how to allow it.
    """
    allowed = {name.rpartition(":")[0] or name for name in trusted}
    for module in modules_in(names):
        if module not in allowed:
            raise ValueError(
                f"{where} names code that would be run, the module {module!r}: if you know it and whoever wrote the "
                f"file, allow it by --trust {module}"
            )
