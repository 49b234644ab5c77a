"""Spoken responses, for annotators who listen instead of reading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from mmenv.data.media import RATE
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_media import SPOKEN


def spoken_responses(
    comparisons: Iterable[Comparison], folder: Path, voice: Callable[[str], np.ndarray]
) -> list[Comparison]:
    """The comparisons with their responses as sounds, FLAC files in ``folder/spoken``, which the labelling pages play.

    Args:
        comparisons: to be judged.
        folder: of the file that will hold the comparisons.
        voice: text -> float32 (T,) at 16 kHz; a response with an empty wave stays text.
    """
    (folder / SPOKEN).mkdir(parents=True, exist_ok=True)
    paths: dict[str, str | None] = {}

    def path_of(text: str) -> str | None:
        if text not in paths:
            wave, name = voice(text), f"{SPOKEN}/{hashlib.sha256(text.encode()).hexdigest()[:24]}.flac"
            if len(wave):
                soundfile.write(folder / name, wave, RATE)
            paths[text] = name if len(wave) else None
        return paths[text]

    return [
        replace(c, provenance={**c.provenance, SPOKEN: [path_of(text) for text in c.responses]}) for c in comparisons
    ]
