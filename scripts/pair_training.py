"""The training of the shipped preference models, kept as it was when they were made.

``mmenv.rewards.preference.training.fit`` learns from judged comparisons and adds up heads in another order, so that its
weights would differ from the shipped ones in their last bits.
"""

from __future__ import annotations

import numpy as np
import torch

from mmenv.feedback.annotators import SyntheticAnnotator
from mmenv.rewards.preference.losses import bradley_terry
from mmenv.rewards.preference.model import PreferenceModel
from mmenv.rewards.preference.training import Pairs, all_features, set_scale


def train_on_pairs(
    model: PreferenceModel,
    pairs: Pairs,
    annotator: SyntheticAnnotator,
    epochs: int = 3,
    lr: float = 1e-3,
    batch: int = 128,
    seed: int = 0,
) -> None:
    """Fit the head to the annotator's choices, then normalise it on all responses of ``pairs``.

    The backbone is frozen, so its features are computed once.
    """
    rng = np.random.default_rng(seed)
    choice = torch.from_numpy(annotator.prefer(list(pairs.responses), pairs.gold, rng))
    features, mask = all_features(model, *pairs.flat())
    n = len(choice)
    optimiser = torch.optim.AdamW(model.head.parameters(), lr=lr, weight_decay=0.01)
    steps = max(1, epochs * ((n + batch - 1) // batch))
    # A cycle needs steps to rise and to fall; a handful of pairs is learned at the full rate.
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = one_cycle(optimiser, lr, total_steps=steps, pct_start=0.1) if steps >= 20 else None
    for _ in range(epochs):
        for rows in torch.split(torch.from_numpy(rng.permutation(n)), batch):
            both = torch.stack([2 * rows, 2 * rows + 1], 1).flatten()
            scores = model.head(features[both].float(), mask[both]).view(-1, 2)
            chosen = scores.gather(1, choice[rows, None])
            rejected = scores.gather(1, 1 - choice[rows, None])
            loss = bradley_terry(chosen - rejected).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
    with torch.no_grad():
        chunks = zip(torch.split(features, 1024), torch.split(mask, 1024), strict=True)
        set_scale(model, torch.cat([model.head(f.float(), m) for f, m in chunks]))
