"""Algorithms of strangers that go wrong, each in its own way, for tests of what is then reported."""

from __future__ import annotations

import dataclasses
import os
import time

from agents.algorithms.reinforce import RLOO, RLOOConfig


class Raises(RLOO):
    """Has a mistake in it."""

    def advantages(self, scores, contexts):
        return scores[len(scores)]


class NotANumber(RLOO):
    """Divides by zero."""

    def loss(self, new, old):
        loss, logged = super().loss(new, old)
        return float("nan") * loss, logged


@dataclasses.dataclass(frozen=True)
class WideConfig(RLOOConfig):
    num_envs: int = 512


class Overdraws(RLOO):
    """Takes far more tokens at once than it was given in all."""

    Config = WideConfig


class Dies(RLOO):
    """Takes its process with it, as the kernel does where memory ends."""

    def update(self, batch, progress):
        os._exit(9)


class Hangs(RLOO):
    """Never comes back."""

    def update(self, batch, progress):
        time.sleep(3600)
        return {}


class Slow(RLOO):
    """Long enough for somebody to be killed meanwhile; says in a file that it has begun."""

    def update(self, batch, progress):
        time.sleep(0.5)
        return super().update(batch, progress)
