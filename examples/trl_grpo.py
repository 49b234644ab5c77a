"""TRL's GRPO on mmenv/VQA-v0. TRL takes no observations, so a word of the prompt stands for picture and question.

    python examples/trl_grpo.py --total-tokens 10000 --seed 0

A prompt is one word such as ``image17``. The model is mmenv's network as a transformers model, which looks up the
picture and question of sample 17. So TRL trains the same policy, from the same start, on the same reward as mmenv's
agents.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import mmenv
from agents.integrations.trl_network import ENCODED, Policy, save_start, word_tokenizer
from agents.policies.token_policy import TokenPolicy
from mmenv.integrations.trl import reward_function
from mmenv.models.checkpoints import load_pretrained
from mmenv.models.transformer import Network


class Budget(TrainerCallback):
    """Ends training when the token budget is used."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = self.used >= self.total
        return control


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="mmenv/VQA-v0")
    parser.add_argument("--reward", default="preference")
    parser.add_argument("--start", default="start", help="weights to start from")
    parser.add_argument("--total-tokens", type=int, default=10_000)
    parser.add_argument("--contexts", type=int, default=2048, help="number of samples of the training split")
    parser.add_argument("--batch", type=int, default=256, help="responses per batch, four per picture")
    parser.add_argument("--episodes", type=int, default=512, help="test episodes of the evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", default="", help="append a line of JSON with the results to this file")
    args = parser.parse_args()
    env: Any = gym.make_vec(args.env_id, num_envs=args.contexts, reward=args.reward).unwrapped
    rng = np.random.default_rng(args.seed)
    indices = rng.choice(env.episode_spec.size, args.contexts, replace=False)
    observations, _ = env.reset(options={"sample_index": indices})
    tokenizer = word_tokenizer(env.tokenizer, args.contexts)
    start = load_pretrained(args.start)
    policy = TokenPolicy(start, env.task.max_response_tokens)
    with torch.no_grad():
        ENCODED["contexts"] = policy.encode(observations)
    before = evaluated(start, env, args)
    budget = Budget(args.total_tokens)
    dataset = Dataset.from_dict({"prompt": [f"image{k}" for k in range(args.contexts)], "index": indices})
    reward_of_env = reward_function(args.env_id, args.reward, missing_eos_penalty=1.0)

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        budget.used += sum(map(len, completion_ids))
        return reward_of_env(**columns)

    with tempfile.TemporaryDirectory() as folder:
        save_start(start, folder)
        # Loaded from a folder, because TRL loads the reference policy from there.
        model = Policy.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
        updates = max(1, round(args.total_tokens / (args.batch * before.length)))
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[budget],
            args=GRPOConfig(
                output_dir=folder, seed=args.seed, max_steps=4 * updates, per_device_train_batch_size=args.batch // 2,
                steps_per_generation=2, num_iterations=2, num_generations=4, beta=0.05, learning_rate=3e-4,
                lr_scheduler_type="linear", max_grad_norm=1.0, max_completion_length=env.task.max_response_tokens,
                temperature=1.0, top_k=0, top_p=1.0, generation_kwargs={"use_cache": False}, use_cpu=True, bf16=False,
                gradient_checkpointing=False, save_strategy="no", report_to=[], logging_steps=10, disable_tqdm=True,
            ),
        )  # fmt: skip
        trainer.train()
    after = evaluated(model.body.network, env, args)
    if args.results:
        row = {"env_id": args.env_id, "seed": args.seed, "tokens": budget.used, "trl": version("trl")}
        row |= {"gold": [before.gold, after.gold], "reward": [before.reward, after.reward]}
        with open(args.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print(f"tokens {budget.used}\nbefore {before}\nafter  {after}\ngain in gold {after.gold - before.gold:+.3f}")


def evaluated(network: Network, env: Any, args: argparse.Namespace) -> mmenv.Evaluation:
    """Reward and gold on the test split."""
    policy = TokenPolicy(network, env.task.max_response_tokens, generator=torch.Generator().manual_seed(12_345))
    return mmenv.evaluate(policy.act, args.env_id, episodes=args.episodes, seed=12_345, reward=args.reward)


if __name__ == "__main__":
    main()
