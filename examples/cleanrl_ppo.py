"""PPO in one file, like CleanRL's ppo.py, with gym.make_vec.

    pip install -c constraints.txt -e ".[agents]"
    python examples/cleanrl_ppo.py --seed 1 --total-tokens 20000

Three differences: observations are a Dict, so the storage has one tensor per key; ended lanes are reset within the step
(SAME_STEP), so every stored transition is valid; and the agent starts from a pretrained network.
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

import mmenv


@dataclass
class Args:
    env_id: str = "mmenv/VQA-v0"  # id of the environment
    start: str = "start"  # shipped name or path of the weights to start from
    seed: int = 1  # seed of the environment and of torch
    total_tokens: int = 20_000  # steps of all lanes together
    num_envs: int = 64  # number of lanes
    num_steps: int = 16  # steps of each lane in one batch
    learning_rate: float = 1e-4  # Adam's step size
    gamma: float = 1.0  # discount for each token
    gae_lambda: float = 0.95  # lambda of generalised advantage estimation
    num_minibatches: int = 4  # gradient steps of one pass over a batch
    update_epochs: int = 2  # passes over a batch
    clip_coef: float = 0.2  # the ratio of new to old probability is clipped to 1 - clip_coef .. 1 + clip_coef
    vf_coef: float = 0.1  # weight of the value loss
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm
    episodes: int = 512  # test episodes of the evaluations


class Agent(nn.Module):
    """The shipped network with its language and value heads; it reads picture, prompt and response at every token."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.network = mmenv.load_pretrained(start)
        for parameter in self.network.encoder_parameters():
            parameter.requires_grad_(False)

    def get_action_and_value(self, obs: dict[str, Tensor], action: Tensor | None = None) -> tuple:
        """Action, its log-probability and the value, each (B,)."""
        prefix = self.network.encode({k: v for k, v in obs.items() if k != "response"})
        response, pad = obs["response"], self.network.config.pad_id  # (B, R), padded
        lengths = (response != pad).sum(1).clamp(max=response.shape[1] - 1)  # (B,)
        states = self.network(prefix, response[:, : lengths.max() + 1])  # (B, T, width), states[:, t] predicts token t
        hidden = states[torch.arange(len(states)), lengths]
        logits = self.network.logits(hidden)  # (B, V)
        logits[:, pad] = -1e9  # padding is masked, for acting and for learning
        probs = Categorical(logits=logits)
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), self.network.value(hidden)

    @torch.no_grad()
    def act(self, observations: dict[str, np.ndarray], state: None, starts: np.ndarray) -> np.ndarray:
        """Actions for mmenv.evaluate."""
        return self.get_action_and_value({k: torch.from_numpy(v) for k, v in observations.items()})[0].numpy()


def gae(rewards: Tensor, values: Tensor, ends: Tensor, next_value: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation, all (T, B) except ``next_value`` (B,); ``ends`` is 1 on terminated steps.

    The observation after a terminated step is another question, so its value is not part of the return.
    (With max_episode_steps, a truncated step would bootstrap from the value of infos["final_obs"].)
    """
    advantages, carried = torch.zeros_like(rewards), torch.zeros_like(next_value)
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * (1 - ends[t]) * next_value - values[t]
        carried = delta + gamma * lam * (1 - ends[t]) * carried
        advantages[t], next_value = carried, values[t]
    return advantages


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    torch.manual_seed(args.seed)
    envs, agent = gym.make_vec(args.env_id, num_envs=args.num_envs), Agent(args.start)
    learned = [p for p in agent.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=args.learning_rate, eps=1e-5)
    before = mmenv.evaluate(agent.act, args.env_id, episodes=args.episodes)
    shape = (args.num_steps, args.num_envs)
    next_obs = {k: torch.from_numpy(v) for k, v in envs.reset(seed=args.seed)[0].items()}
    obs = {k: torch.zeros((args.num_steps, *v.shape), dtype=v.dtype) for k, v in next_obs.items()}
    actions = torch.zeros(shape, dtype=torch.long)
    logprobs, rewards, values, ends = (torch.zeros(shape) for _ in range(4))
    for iteration in range(1, args.total_tokens // (args.num_steps * args.num_envs) + 1):
        for step in range(args.num_steps):
            for key, lanes in next_obs.items():
                obs[key][step] = lanes
            with torch.no_grad():
                actions[step], logprobs[step], values[step] = agent.get_action_and_value(next_obs)
            observations, reward, terminated, _, _ = envs.step(actions[step].numpy())
            next_obs = {k: torch.from_numpy(v) for k, v in observations.items()}
            rewards[step], ends[step] = torch.from_numpy(reward), torch.from_numpy(terminated)
        with torch.no_grad():
            next_value = agent.get_action_and_value(next_obs)[2]
        advantages = gae(rewards, values, ends, next_value, args.gamma, args.gae_lambda)
        returns = (advantages + values).flatten()
        b_obs = {k: v.flatten(0, 1) for k, v in obs.items()}
        b_actions, b_logprobs, b_advantages = actions.flatten(), logprobs.flatten(), advantages.flatten()
        for _ in range(args.update_epochs):
            for rows in torch.randperm(len(returns)).tensor_split(args.num_minibatches):
                mb_obs = {k: v[rows] for k, v in b_obs.items()}
                _, logprob, value = agent.get_action_and_value(mb_obs, b_actions[rows])
                ratio = (logprob - b_logprobs[rows]).exp()
                advantage = (b_advantages[rows] - b_advantages[rows].mean()) / (b_advantages[rows].std() + 1e-8)
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                loss = torch.max(-advantage * ratio, -advantage * clipped).mean()
                loss = loss + args.vf_coef * 0.5 * ((value - returns[rows]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(learned, args.max_grad_norm)
                optimizer.step()
        print(f"iteration {iteration:3d}  reward of a response {rewards.sum() / ends.sum():+.3f}", flush=True)
    after = mmenv.evaluate(agent.act, args.env_id, episodes=args.episodes)
    print(f"before  {before}\nafter   {after}\ngain in gold {after.gold - before.gold:+.3f}")


if __name__ == "__main__":
    main()
