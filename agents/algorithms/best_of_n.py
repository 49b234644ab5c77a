"""Best of n: no training; of n responses of the start the one with the best score is played.

Its KL to the start is at most ln n - (n - 1) / n nats (Stiennon et al. 2020; equality if scores have no ties).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import mmenv
from agents.algorithms.base import Algorithm
from agents.maths.kl import kl_of_best
from agents.policies.chooser import Chooser
from agents.rollouts.batch import Batch
from agents.rollouts.rollout import draw_contexts
from agents.settings.bounds import Count, NonNegative
from agents.settings.shared import TrainConfig
from mmenv.data.sample import Response, Sample
from mmenv.envs.token_vector_env import TokenVectorEnv


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig(TrainConfig):
    """No training: of n responses of the start, the one with the best score is the answer."""

    responses_per_context: Count = field(default=1, init=False)  # every lane says one response, the best of n
    missing_eos_penalty: NonNegative = field(default=0.0, init=False)  # responses are chosen by what the reward pays
    # Nothing is trained.
    micro_batches: Count = field(default=1, init=False)
    train_encoder: bool = field(default=False, init=False)
    gradient_checkpointing: bool = field(default=False, init=False)
    eval_every: Count | None = field(default=None, init=False)
    eval_split: str = field(default="validation", init=False)
    stop_on_alarm: bool = field(default=False, init=False)
    checkpoint_every: Count = field(default=10, init=False)
    n: Count = 16
    """Responses to choose among."""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.reward == "gold":
            yield "reward='gold': best-of-n scores what an agent sees, give --reward a preference model"


class BestOfN(Algorithm):
    """Chooses among responses of the start."""

    Config = BestOfNConfig
    config: BestOfNConfig
    reward_is = "what the best are chosen by"

    def collect(self, env: TokenVectorEnv) -> Batch:
        """The best of n responses to one context a lane, for the curves."""
        chooser = Chooser(self.policy, env, self.config.n, self.policy.generator)
        observations, _ = env.reset(options={"sample_index": draw_contexts(env, self.contexts)})
        starts = np.ones(env.num_envs, bool)
        over = np.zeros(env.num_envs, bool)
        state = None
        returns = np.zeros(env.num_envs)
        samples: list[Sample] = []
        responses: list[Response] = []
        scores: list[float] = []
        gold: list[float] = []
        while not over.all():
            actions, state = chooser.act(observations, state, starts)
            current = list(env.samples)  # before the step, which starts the next turns of dialogues
            observations, rewards, terminated, truncated, infos = env.step(actions)
            ended = mmenv.finished(infos)
            samples += [current[lane] for lane in ended.lanes]
            responses += [chooser.response(state.tokens[lane]) for lane in ended.lanes]
            returns += rewards
            scores += returns[ended.lanes].tolist()
            returns[ended.lanes] = 0.0
            gold += ended.gold.tolist()
            over = terminated | truncated
            starts = np.isin(np.arange(env.num_envs), ended.lanes) & ~over
        batch = Batch.from_responses(self.policy, env, samples, [[response] for response in responses])
        return dataclasses.replace(batch, scores=torch.tensor(scores).to(batch.scores), gold=np.array(gold))

    def update(self, batch: Batch, progress: float) -> dict[str, float]:
        self.finished = True  # there is nothing to learn
        return self.distance(batch)

    def distance(self, batch: Batch) -> dict[str, float]:
        kl = kl_of_best(self.config.n)
        return {"kl": kl, "kl_k1": kl}

    def evaluation_policy(
        self, generator: torch.Generator, env: TokenVectorEnv, greedy: bool = False
    ) -> Callable[..., Any]:
        if greedy or not self.finished:  # its weights never change, so neither does its greedy gold
            return super().evaluation_policy(generator, env, greedy)
        return Chooser(self.policy, env, self.config.n, generator).act

    def counters(self) -> dict[str, Any]:
        return {"finished": self.finished}

    def restore(self, counters: dict[str, Any]) -> None:
        self.finished = counters["finished"]
