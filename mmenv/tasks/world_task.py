"""The base class of tasks on the scene world."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from mmenv.arguments import one_of, share
from mmenv.data.sample import SPLITS, Sample
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer
from mmenv.worlds.scenes import LEVELS, SHIFTED_SPLITS
from mmenv.worlds.scenes import SPLITS as SIZES

COMP = "comp"  # the split of held-out combinations
# What follows the observations in the docstring of every task on the world.
SECTIONS = """

## Action Space

`Discrete({vocabulary})`: the next token. Token 0 is padding: the action mask excludes it, and the environment refuses
it as an invalid action. Token 1 ends a response. Token 2 stands for any unknown word. The other tokens are the words of
the world.

## Rewards

{rewards}

## Starting State

{starting_state}

## Episode End

{episode_end}

## Arguments

`dataset`, `split`, `reward`, `tokenizer`, `max_response_tokens`, `image_size` (96, 192 or 384), `level` (`"plain"` or
`"hard"`), `shift` (0.0 to 1.0), `action_masking`, `render_mode`; of the vector env also `autoreset_mode`, `copy`,
`max_episode_steps`. The splits are `train`, `validation`, `test` and `comp`. `comp` shows plates and relations in
combinations that the other splits never show. A `shift` above 0 changes how pictures look and how the user sounds in
the splits `test` and `comp`; the other splits are never shifted.

## Version History

- v0: first version.
"""


class WorldTask(Task):
    """A task on the scene world; a subclass overrides ``draw``.

    Class attributes:
        budgets: default budget of a response in tokens, by level.
        rewards, starting_state, episode_end: sections of the docstring; ``SECTIONS`` is appended to it.

    Args:
        dataset, image_size, tokenizer: see ``Task``.
        level: ``"plain"``, or ``"hard"`` for more things and harder questions.
        shift: how much the splits ``test`` and ``comp`` differ from training in look and sound, in [0, 1].

    Raises:
        ArgumentError: there is no such level, or ``shift`` is outside [0, 1].
    """

    image_sizes = (96, 192, 384)
    budgets: ClassVar[dict[str, int]] = {"plain": 16, "hard": 16}
    rewards: ClassVar[str] = """\
The reward is 0 until the response ends; then it is the score of the reward function. (A reward function with
`per_token` also gives rewards at the tokens.) The default is the strong preference model. Its scores of responses of
the shipped start have mean 0 and standard deviation 1. When a response ends, `info["gold"]` is its true correctness, in
[0, 1]; `info["gold/correct"]`, `info["gold/brevity"]` and `info["gold/grammar"]` are the factors of gold."""
    starting_state: ClassVar[str] = """\
An episode starts with a sample of the split and an empty response. The lane's own generator draws the sample uniformly;
`options={"sample_index": i}` chooses it. With `options={"response": tokens}` the response already contains these
tokens."""
    episode_end: ClassVar[str] = """\
The episode terminates with an end token (`info["stop"]` is "eos") or after {budget} tokens ("budget"). The environment
never truncates an episode unless `max_episode_steps` is given."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.max_response_tokens = cls.budgets["plain"]
        if cls.__doc__ and "## Observation Space" in cls.__doc__:
            from mmenv.worlds.vocabulary import world_tokenizer

            end = cls.episode_end.replace("{budget}", str(cls.max_response_tokens))
            sections = SECTIONS.replace("{rewards}", cls.rewards).replace("{starting_state}", cls.starting_state)
            sections = sections.replace("{episode_end}", end)
            sections = sections.replace("{vocabulary}", str(world_tokenizer().vocab_size))
            cls.__doc__ = inspect.cleandoc(cls.__doc__) + sections

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        level: str = "plain",
        shift: float = 0.0,
    ) -> None:
        self.level = one_of("level", level, tuple(LEVELS))
        self.shift = share("shift", shift)
        self.max_response_tokens = self.budgets[level]
        super().__init__(dataset, image_size, tokenizer)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return (*SPLITS, COMP) if self.dataset is None else super().splits

    def size(self, split: str) -> int:
        """Number of samples in a split."""
        return SIZES[split] if self.dataset is None else super().size(split)

    def sample(self, split: str, index: int) -> Sample:
        """Sample ``index`` of ``split``: a function of both alone, the same on every machine."""
        return self.draw(split, index) if self.dataset is None else super().sample(split, index)

    def draw(self, split: str, index: int) -> Sample:
        """Sample ``index`` of a split of the world."""
        raise NotImplementedError(f"{type(self).__name__} draws no samples: override draw or sample")

    def shift_of(self, split: str) -> float:
        """The shift of a split's samples: 0 for splits that are never shifted."""
        return self.shift if split in SHIFTED_SPLITS else 0.0

    def sample_id(self, split: str, index: int) -> str:
        """A name that differs wherever the sample does: ``"vqa/plain/test/17"``, ``"vqa/plain/test/17/shift-0.5"``."""
        shift = self.shift_of(split)
        return f"{self.name}/{self.level}/{split}/{index}" + (f"/shift-{shift:g}" if shift else "")

    def metadata(self) -> dict[str, Any]:
        """What distinguishes this task in a run's record."""
        return {**super().metadata(), "level": self.level, "shift": self.shift}
