"""The judge of a run: a preference model that training does not see, whose scores the hacking alarm compares."""

from __future__ import annotations

import numpy as np

from agents.distributed import processes
from agents.rollouts.batch import Batch, to_responses
from agents.training.alarm import mean_and_error
from mmenv.rewards.base import RewardFunction, score
from mmenv.rewards.loading import resolve_reward
from mmenv.rewards.preference.ensemble import EnsembleReward
from mmenv.tasks.base import Task


def load_judge(name: str, task: Task) -> RewardFunction:
    """A preference model by name or path.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return resolve_reward(name, task)
    except ValueError as error:
        raise ValueError(str(error).replace(f"reward={name!r}", f"judge={name!r}")) from error


def judge_scores(judge: RewardFunction, reward: RewardFunction, batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores of the judge (S,), and the disagreement (S,) of the members of a reward that is an ensemble."""
    responses = to_responses(batch)
    disagreement = reward.disagreement(batch.samples, responses) if isinstance(reward, EnsembleReward) else None
    return score(judge, batch.samples, responses), disagreement


def judge_metrics(batch: Batch, scores: np.ndarray, disagreement: np.ndarray | None) -> dict[str, float]:
    """Metrics of the judge over the responses of all processes, with the standard error of its mean."""
    # Each process numbers its contexts from 0.
    contexts = batch.contexts.cpu().numpy()
    before = sum(processes.gather(int(contexts.max()) + 1)[: processes.rank()])
    mean, error = mean_and_error(processes.gather_arrays(scores), processes.gather_arrays(contexts + before))
    metrics = {"judge": mean, "judge_error": error}
    if disagreement is not None:
        metrics["disagreement"] = float(processes.gather_arrays(disagreement).mean())
    return metrics
