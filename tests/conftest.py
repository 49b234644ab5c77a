"""Toy tasks registered for every test: ``toy/Colours-v0``, ``toy/Talk-v0`` and ``toy/Unknown-v0``, paid by gold."""

from __future__ import annotations

import mmenv
from toys import Colours, Talk, Unknown

mmenv.register("toy/Colours-v0", Colours, reward="gold")
mmenv.register("toy/Talk-v0", Talk, reward="gold")
mmenv.register("toy/Unknown-v0", Unknown, reward=lambda samples, responses: [float(len(r.text)) for r in responses])
