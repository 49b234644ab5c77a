"""TorchRL's PPO with GymEnv and GymWrapper, on the shipped network.

pip install -c constraints.txt -e ".[torchrl]"
python examples/torchrl_gym_env.py --seed 0 --total-tokens 10240
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.utils import check_env_specs
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import mmenv

KEYS = ["image", "prompt", "response"]
STEPS, EPOCHS, MINIBATCHES = 16, 2, 4


class ActorCritic(nn.Module):
    """Observations with any leading dimensions (...) -> logits (..., V) of the next token, and its value (..., 1)."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.network = mmenv.load_pretrained(start)
        for parameter in self.network.encoder_parameters():
            parameter.requires_grad_(False)

    def forward(self, image: Tensor, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        batch, pad = response.shape[:-1], self.network.config.pad_id
        image = image.reshape(-1, *image.shape[-3:])
        prompt, response = (x.reshape(-1, x.shape[-1]) for x in (prompt, response))
        # GAE also evaluates full responses; their steps are terminated, so their value does not count.
        lengths = (response != pad).sum(1).clamp(max=response.shape[1] - 1)  # (B,)
        prefix = self.network.encode({"image": image, "prompt": prompt})
        states = self.network(prefix, response[:, : lengths.max() + 1])  # (B, T, width), states[:, t] predicts token t
        hidden = states[torch.arange(len(states)), lengths]
        logits = self.network.logits(hidden)
        logits[:, pad] = -1e9  # padding is masked, for acting and for learning
        return logits.view(*batch, -1), self.network.value(hidden).view(*batch, 1)


def evaluated(actor: ProbabilisticActor, episodes: int) -> mmenv.Evaluation:
    """Reward and gold on the test split."""

    def act(observations: dict[str, np.ndarray], state: None, starts: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return actor(TensorDict(observations, batch_size=len(starts)))["action"].numpy()

    return mmenv.evaluate(act, "mmenv/VQA-v0", episodes=episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="start", help="shipped name or path of the weights to start from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-tokens", type=int, default=10_240, help="steps of all lanes together")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=512, help="test episodes of the evaluations")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    actor_critic = ActorCritic(args.start)
    learned = [p for p in actor_critic.parameters() if p.requires_grad]
    one = GymEnv("mmenv/VQA-v0", categorical_action_encoding=True)
    actor = ProbabilisticActor(
        TensorDictModule(actor_critic, KEYS, ["logits", "_"]), in_keys=["logits"], spec=one.action_spec,
        distribution_class=torch.distributions.Categorical, return_log_prob=True,
        default_interaction_type=InteractionType.RANDOM,
    )  # fmt: skip
    critic = TensorDictModule(actor_critic, KEYS, ["_", "state_value"])
    check_env_specs(one)
    with torch.no_grad():
        print("one response:", one.rollout(one.observation_spec["response"].shape[0], actor)["action"].tolist())

    # The native vector env. TorchRL resets its lanes itself, so autoreset is disabled.
    lanes = GymWrapper(
        gym.make_vec("mmenv/VQA-v0", num_envs=args.num_envs, autoreset_mode="Disabled"),
        categorical_action_encoding=True,
    )
    lanes.set_seed(args.seed)
    collector = Collector(
        lanes, actor, frames_per_batch=STEPS * args.num_envs, total_frames=args.total_tokens,
        auto_register_policy_transforms=False,
    )  # fmt: skip
    # The network reads up to the longest response, which vmap does not support: GAE computes values in a loop.
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic, deactivate_vmap=True)
    ppo = ClipPPOLoss(
        actor, critic, clip_epsilon=0.2, entropy_bonus=False, critic_coeff=0.05, normalize_advantage=True,
        loss_critic_type="l2",
    )  # fmt: skip
    optimizer = torch.optim.Adam(learned, lr=1e-4, eps=1e-5)
    before = evaluated(actor, args.episodes)
    for update, batch in enumerate(collector, 1):  # (num_envs, STEPS)
        with torch.no_grad():
            advantage(batch)
        flat = batch.reshape(-1)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(flat)).tensor_split(MINIBATCHES):
                losses = ppo(flat[rows])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(learned, 0.5)
                optimizer.step()
        ended = batch["next", "terminated"]
        print(f"update {update:3d}  reward {batch['next', 'reward'][ended].mean():+.3f}", flush=True)
    collector.shutdown()
    after = evaluated(actor, args.episodes)
    print(f"before  {before}\nafter   {after}\ngain in gold {after.gold - before.gold:+.3f}")


if __name__ == "__main__":
    main()
