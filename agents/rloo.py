"""REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024): a context's other responses are the baseline."""

from __future__ import annotations

from torch import Tensor

from agents.advantages import leave_one_out
from agents.algorithm import Algorithm, Targets
from agents.config import RLOOConfig
from agents.kl import sequence_penalised
from agents.losses import reinforce_loss
from agents.rollout import Batch


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
