"""Complete answers as actions, for agents that write text; this agent guesses without looking at the picture.

    python examples/turn_level.py --env-id mmenv/SpokenDialogue-v0

The same with OpenEnv, from another process or machine:

    uvicorn --factory mmenv.integrations.openenv:vqa --port 8000
    python examples/turn_level.py --url http://localhost:8000
"""

import argparse
from collections.abc import Iterator

import numpy as np

from mmenv.integrations.turns import TurnEnv

GUESSES = {"how many": "two", "which": "left", "what": "dog", "describe": "a dog ."}


def guess(prompt: str) -> str:
    """An answer chosen by the first words of the question; ``yes`` if the question is spoken."""
    return next((said for asked, said in GUESSES.items() if asked in prompt.lower()), "yes")


def play_locally(env_id: str, episodes: int) -> Iterator[tuple[float, float]]:
    """Reward and gold of every turn; gold is available in this process only."""
    env = TurnEnv(env_id, split="test")
    for index in range(episodes):
        observation, _ = env.reset(index=index)  # prompt, and image or audio if the task has them
        over = False
        while not over:
            observation, reward, over, _, info = env.step(guess(observation["prompt"]))
            yield reward, info["gold"]


def play_on_server(url: str, episodes: int) -> Iterator[tuple[float, float]]:
    """The same from a server. It sends no gold; pictures and sounds are files in base64."""
    from openenv import GenericEnvClient

    with GenericEnvClient(base_url=url).sync() as client:
        for index in range(episodes):
            result = client.reset(index=index)
            while not result.done:
                result = client.step({"text": guess(result.observation["prompt"])})
                yield result.reward, np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="mmenv/VQA-v0")
    parser.add_argument("--url", default="", help="address of an OpenEnv server; empty plays in this process")
    parser.add_argument("--episodes", type=int, default=64)
    args = parser.parse_args()
    turns = play_on_server(args.url, args.episodes) if args.url else play_locally(args.env_id, args.episodes)
    reward, gold = np.array(list(turns)).T
    gold_text = "" if np.isnan(gold).any() else f"  gold {gold.mean():.3f}"
    print(f"{len(gold)} turns  reward {reward.mean():+.3f}{gold_text}")


if __name__ == "__main__":
    main()
