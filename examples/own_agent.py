"""Your own agent: REINFORCE with a running baseline, in plain torch with gym.make_vec.

    python examples/own_agent.py --seed 0 --updates 60

It starts from the shipped policy and trains against the preference model; mmenv.evaluate measures it.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch

import mmenv


class Agent:
    """Samples tokens from a network; its state is the network's cache and the last tokens.

    It handles one context per lane; for dialogues, with several replies, see agents/policies/token_policy.py.
    """

    def __init__(self, start: str, budget: int, seed: int) -> None:
        self.network, self.budget = mmenv.load_pretrained(start), budget
        self.generator = torch.Generator().manual_seed(seed)
        for parameter in self.network.encoder_parameters():
            parameter.requires_grad_(False)

    def distribution(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.network.logits(hidden)
        logits[..., self.network.config.pad_id] = -1e9  # padding is masked, for acting and for the loss
        return logits.log_softmax(-1)

    def prefix(self, observations: dict) -> tuple:
        return self.network.encode({k: torch.from_numpy(v) for k, v in observations.items() if k != "response"})

    @torch.no_grad()
    def act(self, observations: dict, state: tuple | None, starts: np.ndarray) -> tuple:
        """One token for every lane; mmenv.evaluate calls this."""
        if state is None:
            hidden, cache = self.network.start(self.prefix(observations), self.budget)
        else:
            cache, last = state
            hidden = self.network.step(last, cache)
        tokens = torch.multinomial(self.distribution(hidden).exp(), 1, generator=self.generator)[:, 0]
        return tokens.numpy(), (cache, tokens)


def play(agent: Agent, env: gym.vector.VectorEnv, indices: np.ndarray) -> tuple:
    """One response in every lane: contexts, tokens (B, T), mask (B, T), scores (B,)."""
    observations, _ = env.reset(options={"sample_index": indices})
    with torch.no_grad():
        prefix = agent.prefix(observations)
    tokens, alive, scores, state = [], [], np.zeros(env.num_envs, np.float32), None
    over = np.zeros(env.num_envs, bool)
    while not over.all():
        actions, state = agent.act(observations, state, over)
        tokens.append(actions)
        alive.append(~over)
        observations, rewards, over, _, _ = env.step(actions)
        scores += rewards.astype(np.float32)
    mask = torch.from_numpy(np.stack(alive, 1)).float()
    return prefix, torch.from_numpy(np.stack(tokens, 1)), mask, torch.from_numpy(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="start", help="shipped name or path of the weights to start from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=512, help="test episodes of the evaluations")
    args = parser.parse_args()
    env = gym.make_vec("mmenv/VQA-v0", num_envs=128, autoreset_mode="Disabled")
    agent = Agent(args.start, env.single_observation_space["response"].shape[0], args.seed)
    optimiser = torch.optim.Adam([p for p in agent.network.parameters() if p.requires_grad], lr=1e-4)
    rng, size, baseline = np.random.default_rng(args.seed), env.unwrapped.task.size("train"), 0.0
    before = mmenv.evaluate(agent.act, "mmenv/VQA-v0", episodes=args.episodes)
    for update in range(args.updates):
        prefix, tokens, mask, scores = play(agent, env, rng.integers(size, size=env.num_envs))
        logp = agent.distribution(agent.network(prefix, tokens)).gather(-1, tokens[..., None])[..., 0]
        loss = -((scores - baseline)[:, None] * logp * mask).sum() / len(scores)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        baseline = 0.9 * baseline + 0.1 * scores.mean().item()
        print(f"update {update + 1:3d}  reward {scores.mean():+.3f}", flush=True)
    after = mmenv.evaluate(agent.act, "mmenv/VQA-v0", episodes=args.episodes)
    print(f"before  {before}\nafter   {after}\ngain in gold {after.gold - before.gold:+.3f}")


if __name__ == "__main__":
    main()
