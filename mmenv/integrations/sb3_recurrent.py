"""sb3-contrib's RecurrentPPO around the network: an LSTM over the decoder's states that at first adds nothing."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from mmenv.integrations.sb3 import NetworkPolicyMixin
from mmenv.integrations.sb3_fast import CachedRolloutMixin
from mmenv.models.checkpoints import load_pretrained

# Imported after the module that names the command where this package is missing.
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy  # isort: skip


class ResidualLSTM(nn.LSTM):
    """States (L, N, width) plus a gated LSTM over them; the gate begins at 0, so that the start is the network's."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, states: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # type: ignore[override]
        out, memory = super().forward(states, memory)
        return states + self.gate * out, memory


class RecurrentTokenPolicy(CachedRolloutMixin, NetworkPolicyMixin, RecurrentActorCriticPolicy):
    """``TokenPolicy`` for ``RecurrentPPO`` of sb3-contrib; the same arguments.

    Rollouts go through the cache. Updates read every transition anew: RecurrentPPO takes no other rollout buffer.
    """

    def __init__(
        self, observation_space: spaces.Dict, action_space: spaces.Discrete, lr_schedule: Any, **arguments: Any
    ):
        width = load_pretrained(arguments["start"]).config.width
        super().__init__(observation_space, action_space, lr_schedule, lstm_hidden_size=width, **arguments)
        self.lstm_actor, self.lstm_critic = ResidualLSTM(width), ResidualLSTM(width)
        learned = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = self.optimizer_class(learned, **{"lr": lr_schedule(1), **self.optimizer_kwargs})
