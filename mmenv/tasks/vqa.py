"""Visual question answering: a picture, a written question, a short answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmenv.data.sample import Response, Sample
from mmenv.tasks.base import Task
from mmenv.tokenizer import Tokenizer
from mmenv.worlds.questions import FAMILIES, HARD_FAMILIES, answers, credit
from mmenv.worlds.scenes import SPLIT_SIZES, Scene, draw_scene, generator, paint, split_key

VARIANTS = ("plain", "hard", "shifted")


class WorldTask(Task):
    """A task on the embedded world.

    Args:
        dataset, image_size, tokenizer: see ``Task``.
        variant: ``"plain"``, ``"hard"`` (more things, harder questions), or ``"shifted"`` (its test split is drawn or
            spoken as no other split is).
    """

    counts: ClassVar[dict[str, tuple[int, int]]] = {"plain": (2, 4), "shifted": (2, 4), "hard": (5, 6)}
    key: ClassVar[int] = 0

    def __init__(
        self,
        dataset: Sequence[Sample] | None = None,
        image_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        variant: str = "plain",
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} is none of {VARIANTS}")
        self.variant = variant
        super().__init__(dataset, image_size, tokenizer)

    def size(self, split: str) -> int:
        return SPLIT_SIZES[split] if self.dataset is None else super().size(split)

    def rng(self, split: str, index: int, *more: int):  # type: ignore[no-untyped-def]
        """The generator of a sample: plain and shifted share theirs."""
        return generator(2026, self.key, int(self.variant == "hard"), split_key(split), index, *more)

    def compose(self, split: str, index: int) -> tuple[Scene, str, tuple[str, ...], Any]:
        """Scene, prompt, references and truth of a sample."""
        raise NotImplementedError(f"{type(self).__name__} composes no samples: override compose or sample")

    def sample(self, split: str, index: int) -> Sample:
        if self.dataset is not None:
            return super().sample(split, index)
        scene, prompt, references, truth = self.compose(split, index)
        return Sample(
            id=f"{self.name}/{self.variant}/{split}/{index}",
            index=index,
            prompt=prompt,
            image=paint(scene, self.image_size),
            references=references,
            truth=truth,
        )

    def style(self, split: str) -> str:
        return "twemoji" if self.variant == "shifted" and split == "test" else "noto"

    def metadata(self) -> dict[str, Any]:
        return {**super().metadata(), "variant": self.variant}


class VQA(WorldTask):
    """Visual question answering.

    ## Description

    A picture of two to four things on a three by three grid, and a written question of one of nine families:
    existence, count, comparison of counts, what is at a place, relation, category, odd one out, two steps, where.
    The Hard id shows five or six things and asks the hardest three families: count, comparison, two steps. The
    Shifted id draws its test split in a style never trained on, and shows that split unless told otherwise; its
    other splits are the plain id's. Gold is the accuracy of VQA (three of ten people make an answer right), times a
    factor for brevity and grammar.

    ## Observation Space

    A `Dict`: `image` uint8 (48, 48, 3); `prompt` int64 (16,), right-padded; `response` int64 (16,), the tokens so
    far.

    ## Action Space

    `Discrete(401)`: the next token. Token 0 is padding: the mask excludes it, and choosing it ends the response
    without being written. Token 1 ends a response, token 2 is the unknown word, the others are the words of the world.

    ## Rewards

    0 until the response ends, then the score of the reward function: by default the strong preference model, whose
    scores of the supervised start have mean 0 and standard deviation 1. `info["gold"]` says beside it what is true,
    in [0, 1].

    ## Starting State

    A sample of the split, drawn uniformly by the lane's own generator or named by `options={"sample_index": i}`; an
    empty response.

    ## Episode End

    Terminated by an end token (`info["stop"]` is "eos"), after 16 tokens ("budget"), or by padding ("pad"). Never
    truncated by itself.

    ## Arguments

    `dataset`, `split`, `reward`, `tokenizer`, `max_response_tokens`, `image_size` (48, 96 or 192),
    `action_masking`, `render_mode`; of the vector env also `autoreset_mode`, `copy`, `max_episode_steps`.

    ## Version History

    - v0: first version.
    """

    name = "vqa"
    key = 1

    def compose(self, split: str, index: int) -> tuple[Scene, str, tuple[str, ...], Any]:
        rng = self.rng(split, index)
        names = list(FAMILIES) if self.variant != "hard" else list(HARD_FAMILIES)
        family = names[int(rng.integers(len(names)))]
        low, high = self.counts[self.variant]
        held = False if split != "test" else None
        while True:
            odd = family == "odd one out"
            scene = draw_scene(rng, (max(low, 3) if odd else low, high), self.style(split), odd=odd)
            question = FAMILIES[family](scene, rng, held)
            if question is not None:
                return scene, question.text, answers(question), (scene, question)

    def gold(self, sample: Sample, response: Response) -> float | None:
        return credit(sample.references, response.text) if sample.truth is not None else None
