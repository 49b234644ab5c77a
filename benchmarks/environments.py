"""Steps of the environments alone, in tokens a second: native vector against Gymnasium's, scalar, dialogue, fresh."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

import mmenv  # noqa: F401
from mmenv.data.sample import Sample
from mmenv.registration import task_of

VQA, CAPTIONING, DIALOGUE = "mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0"
RESPONSE, LANES, POOL = 16, 256, 4096


def pool_of(env_id: str, size: int) -> tuple[list[Sample], float]:
    """Samples made before anything is timed, and their media in MB."""
    task = task_of(env_id)(dataset=None, image_size=None, tokenizer=None)
    samples = [task.sample("train", i) for i in range(size)]
    media = [x.nbytes for s in samples for x in (s.image, s.audio) if x is not None]
    return samples, sum(media) / 1e6


def tokens_per_second(make: Callable[[], Any], lanes: int, seconds: float) -> float:
    """Random words, hardly ever an end token, written for ``seconds`` after a warm-up of one response."""
    env = make()
    env.reset(seed=0)
    words = env.unwrapped.single_action_space.n if lanes > 1 else env.action_space.n
    actions = np.random.default_rng(0).integers(1, words, (997, lanes))
    for row in actions[: RESPONSE + 1]:
        _step(env, row, lanes)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for _ in range(RESPONSE):
            _step(env, actions[steps % len(actions)], lanes)
            steps += 1
    rate = steps * lanes / (time.perf_counter() - begun)
    env.close()
    return rate


def _step(env: Any, row: np.ndarray, lanes: int) -> None:
    if lanes > 1:
        env.step(row)
    elif env.step(row[0])[2]:
        env.reset()


def median_rates(makers: dict[str, tuple[Callable[[], Any], int]], seconds: float, repeats: int) -> dict[str, float]:
    """Median over ``repeats`` rounds; each round measures everything once, so that drift hits all alike."""
    rounds = [
        {n: tokens_per_second(make, lanes, seconds) for n, (make, lanes) in makers.items()} for _ in range(repeats)
    ]
    return {name: float(np.median([r[name] for r in rounds])) for name in makers}


def measure(quick: bool) -> dict[str, Any]:
    """All figures of the environments; ratios and totals take the slower of VQA and Captioning."""
    seconds, repeats, size = (0.3, 1, 512) if quick else (2.0, 3, POOL)
    makers: dict[str, tuple[Callable[[], Any], int]] = {}
    memory = {}
    for env_id in (VQA, CAPTIONING):
        samples, memory[env_id] = pool_of(env_id, size)
        arguments = {"dataset": samples, "reward": "gold", "max_response_tokens": RESPONSE}
        makers[f"vector {env_id}"] = (_maker(gym.make_vec, env_id, num_envs=LANES, **arguments), LANES)
        makers[f"sync {env_id}"] = (
            _maker(gym.make_vec, env_id, num_envs=LANES, vectorization_mode="sync", **arguments), LANES,
        )  # fmt: skip
        makers[f"scalar {env_id}"] = (_maker(gym.make, env_id, **arguments), 1)
    fresh = {"reward": "gold", "max_response_tokens": RESPONSE}
    makers["dialogue"] = (_maker(gym.make_vec, DIALOGUE, num_envs=LANES, **fresh), LANES)
    makers["fresh"] = (_maker(gym.make_vec, VQA, num_envs=LANES, **fresh), LANES)
    rates = median_rates(makers, seconds, repeats)
    both = (VQA, CAPTIONING)
    return {
        "vector_over_sync": min(rates[f"vector {i}"] / rates[f"sync {i}"] for i in both),
        "vector_tokens_per_second": min(rates[f"vector {i}"] for i in both),
        "scalar_tokens_per_second": min(rates[f"scalar {i}"] for i in both),
        "dialogue_tokens_per_second": rates["dialogue"],
        "fresh_tokens_per_second": rates["fresh"],
        "environments": {
            "lanes": LANES, "response": RESPONSE, "reward": "gold", "pool": size, "pool_megabytes": memory,
            "seconds": seconds, "repeats": repeats, "tokens_per_second": rates,
        },
    }  # fmt: skip


def _maker(make: Callable[..., Any], env_id: str, **arguments: Any) -> Callable[[], Any]:
    return lambda: make(env_id, **arguments)
