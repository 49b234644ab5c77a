"""The film of the README, docs/img/episode.gif: three questions, answered token by token.

    python -m scripts.make_film

The shipped start answers, sampled with a fixed seed, and the preference model scores the answers. A frame is what
``render_mode="rgb_array"`` shows after each token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import mmenv
from mmenv.cards import save_film

FILM = Path(__file__).parent.parent / "docs" / "img" / "episode.gif"
SAMPLES = (0, 3, 5)  # of the test split
TOKEN_MS, END_MS = 350, 2200


@torch.no_grad()
def sample_token(network: Any, observation: dict[str, np.ndarray], generator: torch.Generator) -> int:
    """The next token, drawn from the network's distribution without padding."""
    batch = {key: torch.from_numpy(value[None]) for key, value in observation.items()}
    response = batch.pop("response")  # (1, R)
    length = int((response != network.config.pad_id).sum())
    logits = network.logits(network(network.encode(batch), response)[:, length])[0]  # (V,)
    logits[network.config.pad_id] = -torch.inf
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


def frames() -> Iterator[tuple[np.ndarray, int]]:
    """Frames (H, W, 3) of the episodes, each with its duration in milliseconds."""
    env: Any = gym.make("mmenv/VQA-v0", split="test", render_mode="rgb_array")
    network, generator = mmenv.load_pretrained("start"), torch.Generator().manual_seed(0)
    for index in SAMPLES:
        observation, _ = env.reset(seed=0, options={"sample_index": index})
        yield env.render(), 3 * TOKEN_MS
        terminated = False
        while not terminated:
            observation, _, terminated, _, _ = env.step(sample_token(network, observation, generator))
            yield env.render(), END_MS if terminated else TOKEN_MS


def main() -> None:
    """Write the film."""
    film, durations = zip(*frames(), strict=True)
    save_film(film, durations, FILM)
    print(f"{FILM}: {FILM.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
