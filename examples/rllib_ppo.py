"""RLlib's PPO on the shipped network. RLlib pins a version of gymnasium, so it needs its own virtual environment.

python -m venv .venv-rllib
.venv-rllib/bin/pip install -c constraints.txt -r examples/requirements-rllib.txt -e .
.venv-rllib/bin/python examples/rllib_ppo.py --iterations 20
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env

import mmenv


class Policy(TorchRLModule, ValueFunctionAPI):
    """The shipped network ``model_config["start"]`` with its language and value heads."""

    def setup(self) -> None:
        self.network = mmenv.load_pretrained(self.model_config["start"])
        for parameter in self.network.encoder_parameters():
            parameter.requires_grad_(False)

    def hidden(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The state (B, width) that predicts the next token of each response."""
        prefix = self.network.encode({"image": obs["image"], "prompt": obs["prompt"].long()})
        response = obs["response"].long()  # (B, R), padded
        # RLlib also evaluates full responses; their steps are terminated, so their value does not count.
        lengths = (response != self.network.config.pad_id).sum(1).clamp(max=response.shape[1] - 1)  # (B,)
        states = self.network(prefix, response[:, : lengths.max() + 1])  # (B, T, width), states[:, t] predicts token t
        return states[torch.arange(len(states)), lengths]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        hidden = self.hidden(batch[Columns.OBS])
        logits = self.network.logits(hidden)  # (B, V)
        logits[:, self.network.config.pad_id] = -1e9  # padding is masked, for acting and for learning
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.EMBEDDINGS: hidden}

    def compute_values(self, batch: dict[str, Any], embeddings: torch.Tensor | None = None) -> torch.Tensor:
        return self.network.value(self.hidden(batch[Columns.OBS]) if embeddings is None else embeddings)


def make_env(config: dict[str, Any]) -> gym.Env:
    """A scalar env. RLlib calls this in each of its processes; the prefix ``mmenv:`` registers the ids there."""
    return gym.make("mmenv:mmenv/VQA-v0", **config)


def evaluated(module: Policy, episodes: int, seed: int) -> mmenv.Evaluation:
    """Reward and gold on the test split."""
    generator = torch.Generator().manual_seed(seed)

    def act(observations: dict[str, np.ndarray], state: None, starts: np.ndarray) -> np.ndarray:
        obs = {k: torch.from_numpy(v) for k, v in observations.items()}
        logits = module.forward_inference({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS]
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0].numpy()

    return mmenv.evaluate(act, "mmenv/VQA-v0", episodes=episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="start", help="shipped name or path of the weights to start from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of one iteration")
    parser.add_argument("--episodes", type=int, default=512, help="test episodes of the evaluations")
    args = parser.parse_args()
    register_env("mmenv/VQA-v0", make_env)
    config = (
        PPOConfig()
        .environment("mmenv/VQA-v0", env_config={"reward": "preference"})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=32)  # 0: in this process
        .rl_module(rl_module_spec=RLModuleSpec(module_class=Policy, model_config={"start": args.start}))
        .training(
            train_batch_size_per_learner=args.tokens, minibatch_size=args.tokens // 4, num_epochs=2, lr=1e-4,
            gamma=1.0, lambda_=0.95, clip_param=0.2, vf_loss_coeff=0.05, use_kl_loss=False, grad_clip=0.5,
        )
        .debugging(seed=args.seed)
    )  # fmt: skip
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    algorithm = config.build_algo()
    before = evaluated(algorithm.get_module(), args.episodes, args.seed)
    for iteration in range(args.iterations):
        result = algorithm.train()["env_runners"]
        print(f"iteration {iteration + 1:3d}  reward {result['episode_return_mean']:+.3f}", flush=True)
    after = evaluated(algorithm.get_module(), args.episodes, args.seed)
    algorithm.stop()
    ray.shutdown()
    print(f"before  {before}\nafter   {after}\ngain in gold {after.gold - before.gold:+.3f}")


if __name__ == "__main__":
    main()
