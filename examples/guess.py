"""PPO on mmenv/Guess-v0, where the agent asks and only the guess at the end of a game is paid.

    python examples/guess.py --total-tokens 400000 --out runs/guess

It starts from a policy that was taught some games, and prints how often it names the thing and what it asks, before and
after, beside the exact optimum. Run it from a checkout: the wheel does not contain the agents.
"""

import argparse
from collections import Counter
from pathlib import Path

import gymnasium as gym

import mmenv
from agents.algorithms.ppo import PPOConfig
from agents.training.loading import load_policy
from agents.training.trainer import Trainer
from mmenv.worlds.guessing import read_query

ENV_ID = "mmenv/Guess-v0"


def kind_of(reply: str) -> str:
    """What a reply asks for: "place by a word", "category by yes or no", "guess"."""
    query = read_query(reply)
    if query is None:
        return "not understood"
    if query.kind == "name":
        return "guess"
    return f"{query.kind} by {'a word' if query.value is None else 'yes or no'}"


def show(title: str, result: mmenv.Evaluation, games: int = 2) -> None:
    """Print success, the kinds of first questions, and the turns of some games."""
    print(f"{title}: {result}")
    first = Counter(kind_of(row.response) for row in result.rows if row.sample.turn == 0)
    print("  first: " + ", ".join(f"{kind} {n / result.episodes:.0%}" for kind, n in first.most_common(5)))
    for row in sorted(result.rows, key=lambda row: (row.sample.index, row.sample.turn)):
        if row.sample.index < games:
            print(f"  game {row.sample.index}  user: {row.sample.said:24}  agent: {row.response}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="start-guess", help="shipped name or path of weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-tokens", type=int, default=400_000)
    parser.add_argument("--num-envs", type=int, default=256, help="games of an update")
    parser.add_argument("--episodes", type=int, default=256, help="test games of the evaluations")
    parser.add_argument("--out", default="runs/guess")
    args = parser.parse_args()
    config = PPOConfig(
        env_id=ENV_ID,  # its reward is gold: 1 for the right guess, known to the user who has the thing in mind
        start=args.start,
        seed=args.seed,
        total_tokens=args.total_tokens,
        num_envs=args.num_envs,
        responses_per_context=1,  # after the first question games differ, so there is nothing to share
        minibatches=4,  # a game has up to four replies, so an update has up to 1,024
        eval_episodes=0,
        overwrite=True,
    )
    env = gym.make_vec(ENV_ID, num_envs=1).unwrapped
    before = mmenv.evaluate(load_policy(args.start, env, args.seed).act, ENV_ID, episodes=args.episodes)
    Trainer("ppo", config, Path(args.out)).train()
    after = mmenv.evaluate(load_policy(args.out, env, args.seed).act, ENV_ID, episodes=args.episodes)
    show("before", before)
    show("after", after)
    print(f"optimum: {env.task.optimal_success(episodes=min(args.episodes, 64)):.3f}")
    print(f"gain in gold {after.gold - before.gold:+.3f}")


if __name__ == "__main__":
    main()
