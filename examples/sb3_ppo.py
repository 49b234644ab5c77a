"""stable-baselines3's PPO from the supervised start, on any of the tasks.

pip install -c constraints.txt -e ".[sb3]"
python examples/sb3_ppo.py --env-id mmenv/VQA-v0 --total-tokens 20000
"""

import argparse
import json
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import mmenv
from mmenv.integrations.sb3 import TokenVecEnv
from mmenv.integrations.sb3_fast import FastTokenPolicy, SequenceBuffer


def evaluated(model: PPO, env_id: str, episodes: int) -> mmenv.Evaluation:
    """Reward and gold on the test split."""

    def act(observations: dict, state: Any, starts: Any) -> Any:
        return model.predict(observations)[0]  # no cache: reads the full observation

    return mmenv.evaluate(act, env_id, episodes=episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="mmenv/VQA-v0")
    parser.add_argument("--start", help="shipped name or path of weights; default: the task's start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-tokens", type=int, default=20_000)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=512, help="test episodes of the evaluations")
    parser.add_argument("--results", default="", help="a file to which a line of JSON is added")
    args = parser.parse_args()
    lanes = TokenVecEnv(args.env_id, num_envs=args.num_envs)
    env, start = VecMonitor(lanes), args.start or f"start-{lanes.env.task.name}"
    model = PPO(
        FastTokenPolicy, env, policy_kwargs={"start": start}, rollout_buffer_class=SequenceBuffer,
        rollout_buffer_kwargs={"reference": start, "kl_coef": 0.05}, learning_rate=1e-4, n_steps=16,
        batch_size=4 * args.num_envs, n_epochs=2, gamma=1.0, vf_coef=0.1, seed=args.seed, verbose=1, device="cpu",
    )  # fmt: skip
    before = evaluated(model, args.env_id, args.episodes)
    model.learn(args.total_tokens)
    after = evaluated(model, args.env_id, args.episodes)
    if args.results:
        row = {"seed": args.seed, "tokens": args.total_tokens, "before": before.gold, "after": after.gold}
        with open(args.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print(f"before  {before}\nafter   {after}\ngain in gold {after.gold - before.gold:+.3f}")


if __name__ == "__main__":
    main()
