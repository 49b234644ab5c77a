"""Make the shipped weights from nothing, seeded; a stage that was stopped goes on when it is run again.

python -m scripts.make_weights encoders   # encoders aligned with words
python -m scripts.make_weights base       # a decoder on them that tells facts of pictures: no question, no answer
python -m scripts.make_weights start      # the same decoder, taught few right demonstrations of each task
python -m scripts.make_weights guess      # the start, taught some games of mmenv/Guess-v0 besides: start-guess
python -m scripts.make_weights oracle     # the same, taught as many as there are: experiments/oracle/
python -m scripts.make_weights reward     # preference models: prints their agreement with gold
python -m scripts.make_weights card       # the model card, from what the files say of themselves
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import tyro

from mmenv.models.checkpoints import PRETRAINED
from scripts.decoder_weights import make_base, make_guess_start, make_oracle, make_start
from scripts.encoder_weights import make_encoders
from scripts.preference_weights import IDS, RECIPES, make_reward, write_card


def main(
    stage: tyro.conf.Positional[Literal["encoders", "base", "start", "guess", "oracle", "reward", "card"]],
    task: tuple[str, ...] = tuple(IDS),
    kind: tuple[str, ...] = tuple(RECIPES),
    seed: int = 0,
    out: Path = PRETRAINED,
    states: Path = Path("runs/weights"),
) -> None:
    """Make a stage of the shipped weights.

    Args:
        stage: what to make; each needs those before it, the preference models need no oracle.
        task: tasks of the preference models.
        kind: kinds of preference models.
        seed: of everything random.
        out: folder of the weights.
        states: folder of the files by which a training goes on.
    """
    torch.set_num_threads(1)  # the other processor draws the batches
    if stage == "encoders":
        make_encoders(seed, out, states)
    elif stage == "base":
        make_base(seed, out, states)
    elif stage == "start":
        make_start(seed, out, states)
    elif stage == "guess":
        make_guess_start(seed, out, states)
    elif stage == "oracle":
        make_oracle(seed, states)
    elif stage == "reward":
        for name in task:
            for one in kind:
                make_reward(one, name, seed, out)
    else:
        write_card(seed, out)


if __name__ == "__main__":
    tyro.cli(main)
