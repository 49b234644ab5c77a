"""Toy tasks registered for every test: ``toy/Colours-v0``, ``toy/Talk-v0`` and ``toy/Unknown-v0``, paid by gold."""

from __future__ import annotations

from toys import Colours, Talk, Unknown, characters

import mmenv

mmenv.register("toy/Colours-v0", Colours, reward="gold")
mmenv.register("toy/Talk-v0", Talk, reward="gold")
mmenv.register("toy/Unknown-v0", Unknown, reward=characters)
