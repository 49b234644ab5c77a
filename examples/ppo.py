"""PPO with a KL penalty from the supervised start, with mmenv's own agents.

    python examples/ppo.py --env-id mmenv/VQA-v0 --total-tokens 60000 --out runs/ppo-example

Run it from a checkout: the wheel does not contain the agents. ``python -m agents ppo`` does the same and has an option
for every field of ``PPOConfig``.
"""

import argparse
from pathlib import Path

from agents.algorithms.ppo import PPOConfig
from agents.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="mmenv/VQA-v0")
    parser.add_argument("--start", default="", help="shipped name or path of weights; default: the task's start")
    parser.add_argument("--reward", default="preference", help="preference, preference-weak, gold, or a path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-tokens", type=int, default=60_000)
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=512, help="test episodes of the evaluations")
    parser.add_argument("--out", default="runs/ppo-example")
    args = parser.parse_args()
    config = PPOConfig(
        env_id=args.env_id,
        reward=args.reward,
        start=args.start,
        seed=args.seed,
        total_tokens=args.total_tokens,
        num_envs=args.num_envs,
        eval_episodes=args.episodes,
        overwrite=True,
    )
    summary = Trainer("ppo", config, Path(args.out)).train()
    if summary is not None:  # None after an interrupt: the run's folder holds a checkpoint
        gain = summary["gold"]["after"] - summary["gold"]["before"]
        print(f"gain in gold {gain:+.3f}")


if __name__ == "__main__":
    main()
