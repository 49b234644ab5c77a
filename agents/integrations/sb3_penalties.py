"""What stable-baselines3 lacks for RLHF: the penalty for a missing end token, and the KL penalty token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from agents.maths import kl as kls
from agents.training import report
from mmenv.integrations.sb3 import LanguageHead, TokenFeatures, TokenVecEnv
from mmenv.integrations.sb3_fast import Lanes

# Imported after the module that names the command where these packages are missing.
from stable_baselines3.common.callbacks import BaseCallback  # isort: skip
from stable_baselines3.common.vec_env import VecEnvWrapper  # isort: skip


@dataclass
class EndedResponses:
    """The responses that ended in a rollout: what they earned before the penalty, gold, texts and stop reasons."""

    paid: list[float] = field(default_factory=list)
    gold: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    num_tokens: int = 0

    def stats(self) -> report.BatchStats:
        """Their statistics."""
        scores, gold = torch.tensor(self.paid), np.array(self.gold)
        return report.BatchStats(scores, gold, self.texts, self.stops, self.num_tokens)


class Responses(VecEnvWrapper):
    """Collects the responses that end, then subtracts the penalty from those that used up their budget.

    Attributes:
        ended: the responses of the rollout so far; replaced by an empty one when the next rollout begins.
    """

    def __init__(self, venv: TokenVecEnv, missing_eos_penalty: float) -> None:
        super().__init__(venv)
        self.penalty, self.ended = missing_eos_penalty, EndedResponses()
        self.lengths = np.zeros(venv.num_envs, np.int64)
        self.returns = np.zeros(venv.num_envs, np.float32)

    def reset(self) -> Any:
        self.lengths[:] = 0
        self.returns[:] = 0.0
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.lengths += 1
        self.returns += rewards  # a reward may pay at the tokens, too
        for lane, info in enumerate(infos):
            if "response" not in info:
                continue
            self.ended.paid.append(float(self.returns[lane]))
            self.ended.gold.append(info.get("gold", np.nan))
            self.ended.texts.append(info["response"])
            self.ended.stops.append(info["stop"])
            self.ended.num_tokens += int(self.lengths[lane])
            self.lengths[lane] = 0
            self.returns[lane] = 0.0
            rewards[lane] -= self.penalty * (info["stop"] != "eos")
        return observations, rewards, dones, infos


class StepPenalty(BaseCallback):
    """The KL penalty, token by token, for algorithms without a buffer of complete responses; it caches the reference.

    Attributes:
        ref_log_probs: of the rollout so far, float32 (N,) each.
    """

    def __init__(self, observation_space: Any, reference: str, kl_coef: float) -> None:
        super().__init__()
        features = TokenFeatures(observation_space, reference).requires_grad_(False)
        self.lanes, self.head, self.kl_coef = Lanes(features), LanguageHead(features.network), kl_coef
        self.ref_log_probs: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self.ref_log_probs = []

    def _on_step(self) -> bool:
        # SB3 exposes its locals between the environment's step and the buffer: rewards changed here are stored.
        actions = torch.as_tensor(self.locals["actions"]).reshape(-1, 1)
        with torch.no_grad():
            logp = self.head(self.lanes.follow(self.locals["obs_tensor"])).log_softmax(-1)
        self.ref_log_probs.append(logp.gather(1, actions)[:, 0].numpy())
        paid = kls.k1(self.locals["log_probs"].flatten(), torch.from_numpy(self.ref_log_probs[-1]))
        self.locals["rewards"] -= self.kl_coef * paid.numpy()
        return True
