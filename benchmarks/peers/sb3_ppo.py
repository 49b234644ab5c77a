"""stable-baselines3's PPO on a token environment with an image; a transformer of the same shape extracts features."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from shape import read_shape, report
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

SHAPE = read_shape()
SIDE = 48
# The rollout buffer holds every observation as floats: 256 lanes would only make it slower.
LANES = min(64, SHAPE.batch)


class Words(gym.Env):
    """Writes tokens below a picture; one word is worth a point at the end."""

    def __init__(self) -> None:
        top = SHAPE.vocab - 1
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8),
            prompt=spaces.Box(0, top, (SHAPE.prompt,), np.int64),
            response=spaces.Box(0, top, (SHAPE.response,), np.int64),
        )
        self.action_space = spaces.Discrete(SHAPE.vocab)
        self.pictures = np.random.default_rng(0).integers(0, 256, (64, 3, SIDE, SIDE), dtype=np.uint8)
        self.prompt = np.full(SHAPE.prompt, 5)

    def observe(self) -> dict[str, np.ndarray]:
        return {"image": self.picture, "prompt": self.prompt, "response": self.written.copy()}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        self.picture = self.pictures[self.np_random.integers(len(self.pictures))]
        self.written, self.length = np.zeros(SHAPE.response, np.int64), 0
        return self.observe(), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        self.written[self.length] = action
        self.length += 1
        over = self.length == SHAPE.response
        return self.observe(), float((self.written == 3).sum()) if over else 0.0, over, False, {}


class Extractor(BaseFeaturesExtractor):
    """Image patches, prompt and response through a transformer; the last state is the features."""

    def __init__(self, space: spaces.Dict) -> None:
        super().__init__(space, SHAPE.width)
        d, patch = SHAPE.width, SIDE // int(SHAPE.image**0.5)
        layer = nn.TransformerEncoderLayer(d, SHAPE.heads, 4 * d, 0.0, batch_first=True, norm_first=True)
        self.patches, self.words = nn.Conv2d(3, d, patch, patch), nn.Embedding(SHAPE.vocab, d)
        self.positions = nn.Parameter(torch.zeros(SHAPE.prefix + SHAPE.response, d))
        self.body = nn.TransformerEncoder(layer, SHAPE.layers, enable_nested_tensor=False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        image = self.patches(observations["image"]).flatten(2).transpose(1, 2)
        text = torch.cat([observations["prompt"], observations["response"]], 1).long()
        return self.body(torch.cat([image, self.words(text)], 1) + self.positions)[:, -1]


def main() -> None:
    torch.set_num_threads(SHAPE.threads)
    model = PPO(
        "MultiInputPolicy", DummyVecEnv([Words] * LANES), n_steps=SHAPE.response, batch_size=256, n_epochs=SHAPE.epochs,
        policy_kwargs={"features_extractor_class": Extractor, "net_arch": []}, device="cpu",
    )  # fmt: skip
    tokens = LANES * SHAPE.response * SHAPE.updates
    begun = time.perf_counter()
    model.learn(tokens)
    report(tokens, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
