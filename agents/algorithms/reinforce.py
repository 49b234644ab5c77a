"""REINFORCE (Williams 1992): a response is one action, its KL comes off its score, the baseline is a moving average."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agents.algorithms.base import Algorithm, Targets
from agents.distributed import processes
from agents.maths.kl import sequence_penalised
from agents.maths.losses import reinforce_loss
from agents.rollouts.rollout import Batch
from agents.settings.shared import ReinforceConfig


class Reinforce(Algorithm):
    """Steps along scores less a moving average of earlier ones."""

    Config = ReinforceConfig
    config: ReinforceConfig

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.baseline: float | None = None  # the first batch's mean begins it

    def targets(self, batch: Batch, ref_logp: Tensor) -> Targets:
        scores = sequence_penalised(self.scores(batch), batch.logp, ref_logp, batch.mask, self.config.kl_coef)  # (S,)
        mean, keep = processes.mean(scores).item(), self.config.baseline_decay
        baseline = mean if self.baseline is None else self.baseline
        self.baseline = keep * baseline + (1 - keep) * mean
        return {"advantages": (scores - baseline)[:, None]}

    def loss(
        self, logp: Tensor, values: Tensor, entropy: Tensor, mask: Tensor, rows: Targets
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = reinforce_loss(logp, rows["advantages"], mask)
        return loss, {"policy_loss": loss}

    def counters(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def restore(self, counters: dict[str, Any]) -> None:
        self.baseline = counters["baseline"]
