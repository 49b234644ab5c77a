"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024): a context's other responses are the baseline."""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.base import Algorithm, Targets
from agents.maths.advantages import leave_one_out
from agents.maths.kl import sequence_penalised
from agents.maths.losses import reinforce_loss
from agents.rollouts.rollout import Batch
from agents.settings.shared import RLOOConfig


class RLOO(Algorithm):
    """Steps along scores less the mean of the others'."""

    Config = RLOOConfig
    config: RLOOConfig

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        scores = sequence_penalised(self.scores(batch), batch.logp, ref_logp, batch.mask, self.config.kl_coef)  # (S,)
        return {"advantages": leave_one_out(scores, batch.contexts)[:, None]}

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = reinforce_loss(logp, rows["advantages"], mask)
        return loss, {"policy_loss": loss}
