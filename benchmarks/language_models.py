"""Rollouts of transformers models beside their own ``generate``, and PPO end to end.

    python -m benchmarks.language_models                                    # tiny models from configurations
    python -m benchmarks.language_models --width 768 --layers 12            # about 100M parameters
    python -m benchmarks.language_models --width 2048 --layers 16 --device cuda --dtype bfloat16 --lanes 256

Both sample from the same weights with the same temperature, to the same end or budget, from contexts that were encoded
beforehand; tokens are those up to and with the end. They take turns, and the figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import mmenv  # noqa: F401  (registers the ids)
from agents.algorithms.ppo import PPOConfig
from agents.policies.token_policy import TokenPolicy
from agents.policies.transformers.config import HFConfig
from agents.policies.transformers.loading import load_transformers
from agents.policies.transformers.network import HFNetwork
from agents.rollouts.rollout import rollout
from agents.training.trainer import Trainer
from benchmarks.models import llama, llava, qwen2_audio

MODELS = {
    "llama": (llama, "mmenv/VQA-v0"), "llava": (llava, "mmenv/VQA-v0"),
    "qwen2-audio": (qwen2_audio, "mmenv/SpokenDialogue-v0"),
}  # fmt: skip
ROUNDS = 5


def generated(network: HFNetwork, observations: dict[str, np.ndarray], budget: int) -> int:
    """Tokens that ``generate`` writes to the contexts of an observation."""
    prefix = TokenPolicy(network, budget).encode(observations)
    inputs = network.inputs(prefix)
    with torch.inference_mode():
        out = network.model.generate(
            **inputs, attention_mask=prefix.mask.long(), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=budget, pad_token_id=network.config.pad_id, eos_token_id=sorted(network.tokenizer.eos_ids),
            suppress_tokens=list(network.forbidden_token_ids),
        )  # fmt: skip
    new = out if "inputs_embeds" in inputs else out[:, prefix.prompt.shape[1] :]
    return int((new != network.config.pad_id).sum())


def timed(run: Any, device: str) -> tuple[float, float]:
    """What ``run`` counts, and seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    tokens = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return tokens, time.perf_counter() - begun


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of rollouts and of ``generate``, and of PPO."""
    make, env_id = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        # A model that ends now and then, as trained ones do, and whose lanes end at different times.
        make(Path(folder), hidden_size=given.width, intermediate_size=3 * given.width, num_hidden_layers=given.layers,
             num_attention_heads=max(1, given.width // 64), num_key_value_heads=max(1, given.width // 64),
             initializer_range=0.02)  # fmt: skip
        eyes = "encoders" if name == "llama" else ""
        asked = HFConfig(folder, given.rank, given.dtype, image_encoder=eyes)
        network = load_transformers(asked, given.device)
        env: Any = gym.make_vec(
            env_id, num_envs=given.lanes, reward="gold", tokenizer=network.tokenizer, autoreset_mode="Disabled",
            copy=False, max_response_tokens=given.budget,
        ).unwrapped  # fmt: skip
        policy = TokenPolicy(network, given.budget).eval()
        # One reply to each context on both sides: dialogues would go on.
        observations, _ = env.reset(options={"sample_index": np.arange(given.lanes)})
        observations = {k: v.copy() for k, v in observations.items()}
        ratios, ours, theirs = [], [], []
        for i in range(given.rounds + 1):
            mine = timed(lambda: single_replies(policy, observations, given.budget), given.device)
            other = timed(lambda: generated(network, observations, given.budget), given.device)
            if i:  # the first warms both up
                ours.append(mine[0] / mine[1])
                theirs.append(other[0] / other[1])
                ratios.append(ours[-1] / theirs[-1])
        batch, seconds = timed(lambda: rollout(policy, env).num_tokens, given.device)
        config = PPOConfig(
            env_id=env_id, start=folder, image_encoder=eyes, lora_rank=given.rank, dtype=given.dtype,
            num_envs=given.lanes, total_tokens=3 * given.lanes * given.budget, eval_episodes=0, pictures=False,
            device=given.device,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as out:
            arguments = {"reward": "gold", "max_response_tokens": given.budget}
            summary = Trainer("ppo", config, Path(out), console=Console(quiet=True), **arguments).train()
        parameters = sum(p.numel() for p in network.model.parameters())
    assert summary is not None
    return {
        "model": name, "parameters": parameters,
        "rollout": float(np.median(ours)), "generate": float(np.median(theirs)),
        "ratio": float(np.median(ratios)), "ratios": ratios, "env_rollout": batch / seconds,
        "ppo": summary["tokens_per_second"],
    }  # fmt: skip


@torch.inference_mode()
def single_replies(policy: TokenPolicy, observations: dict[str, np.ndarray], budget: int) -> int:
    """Tokens that a policy writes to the contexts of an observation, as rollouts do: ended rows are left behind."""
    hidden, cache = policy.begin(policy.encode(observations))
    ends = torch.tensor(sorted(policy.network.tokenizer.eos_ids), device=policy.device)
    written, over = 0, torch.zeros(len(hidden), dtype=torch.bool, device=policy.device)
    for _ in range(budget):
        tokens, _, _ = policy.sample(hidden)
        written += int((~over).sum())
        over |= torch.isin(tokens, ends)
        if over.all():
            break
        if (~over).sum() <= 0.75 * len(over):
            kept = (~over).nonzero()[:, 0]
            cache, tokens, over = cache.select(kept), tokens[kept], over[kept]
        hidden = policy.step(tokens, cache)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--width", type=int, default=64, help="of the language model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=64, help="contexts at a time")
    parser.add_argument("--budget", type=int, default=32, help="longest response")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=None, help="where the figures go, as JSON")
    given = parser.parse_args()
    table = Table("model", "parameters", "rollout tok/s", "generate tok/s", "ratio", "with env tok/s", "PPO tok/s")
    found = []
    for name in given.models:
        row = measure(name, given)
        found.append(row)
        numbers = ("parameters", "rollout", "generate")
        table.add_row(
            name, *(f"{row[n]:,.0f}" for n in numbers), f"{row['ratio']:.2f}",
            *(f"{row[n]:,.0f}" for n in ("env_rollout", "ppo")),
        )  # fmt: skip
    Console().print(table)
    if given.out is not None:
        given.out.write_text(json.dumps({"given": {**vars(given), "out": str(given.out)}, "found": found}, indent=1))


if __name__ == "__main__":
    main()
