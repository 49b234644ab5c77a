"""Captioning: say what a picture shows in a sentence or two."""

from __future__ import annotations

import numpy as np

from mmenv.data.sample import CAPTION_PROMPT, Response, Sample
from mmenv.tasks.vqa import WorldTask
from mmenv.worlds.scenes import Scene, Thing, article, concepts, draw_scene, held_out

_NAMES: dict[str, int] = {}


def relations(a: Thing, b: Thing) -> list[str]:
    """What is true of a and b, the clearer first."""
    down, along = b.row - a.row, b.column - a.column
    vertical = ["above"] if down > 0 else ["below"] if down < 0 else []
    horizontal = ["left of"] if along > 0 else ["right of"] if along < 0 else []
    return vertical + horizontal if abs(down) >= abs(along) else horizontal + vertical


def enumerate_things(names: list[str]) -> str:
    """``a dog , an ant and a car .``"""
    phrases = [f"{article(n)} {n}" for n in names]
    return (" , ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]) + " ."


def relate(a: str, relation: str, b: str) -> str:
    """``the dog is above the car .``"""
    return f"the {a} is {relation} the {b} ."


def caption(scene: Scene, rng: np.random.Generator, held: bool | None) -> str | None:
    """A right caption: everything that is there, and one relation; None when every relation is held out."""
    names = [t.name for t in scene.things]
    first = enumerate_things(names)
    if len(names) == 1:
        return first
    options = [
        relate(a.name, relation, b.name)
        for a in scene.things
        for b in scene.things
        if a is not b
        for relation in relations(a, b)[:1]
        if held is None or held_out(a.concept, relation) == held
    ]
    return f"{first} {options[int(rng.integers(len(options)))]}" if options else None


def parse(words: list[str]) -> tuple[list[str], list[tuple[str, str, str]], int]:
    """Things listed, relations claimed, and the number of words that fit no sentence."""
    listed: list[str] = []
    related: list[tuple[str, str, str]] = []
    junk, i, n = 0, 0, len(words)
    if not _NAMES:
        _NAMES.update({c.name: k for k, c in enumerate(concepts())})
    while i < n:
        word = words[i]
        if word in ("a", "an") and i + 1 < n and words[i + 1] in _NAMES:
            listed.append(words[i + 1])
            junk += word != article(words[i + 1])
            i += 2
            # Things are joined by a comma or "and"; the last is closed by a full stop.
            if i < n and words[i] in (",", "and", "."):
                i += 1
            else:
                junk += 1
        elif word == "the" and i + 5 < n and words[i + 1] in _NAMES and words[i + 2] == "is":
            at = i + 3 + (words[i + 3] in ("left", "right"))
            relation = " ".join(words[i + 3 : at + 1])
            if at + 2 < n and words[at + 1] == "the" and words[at + 2] in _NAMES:
                related.append((words[i + 1], relation, words[at + 2]))
                i = at + 3
                if i < n and words[i] == ".":
                    i += 1
                else:
                    junk += 1
            else:
                junk, i = junk + 1, i + 1
        else:
            junk, i = junk + 1, i + 1
    return listed, related, junk


def caption_gold(scene: Scene, text: str) -> float:
    """F1 of the claims of a caption, times a factor for brevity and grammar.

    A caption owes one claim for each thing and, where there are two or more, one relation. What it says twice, or
    wrongly, or beyond that counts against its precision; each word that fits no sentence costs a tenth.
    """
    listed, related, junk = parse(text.split())
    left = [t.name for t in scene.things]
    owed = len(left) + (len(left) > 1)
    claims = len(listed) + len(related)
    right = 0
    for name in listed:
        if name in left:
            left.remove(name)
            right += 1
    if len(scene.things) > 1:
        where = {t.name: t for t in scene.things}
        right += any(a in where and b in where and a != b and r in relations(where[a], where[b]) for a, r, b in related)
    return 2 * right / (claims + owed) * max(0.0, 1 - 0.1 * junk)


class Captioning(WorldTask):
    """Captioning.

    ## Description

    A picture of one to three things (four to six in the Hard id), to be described: list what is there, then say how
    two of the things lie to each other, as in "a dog and an ant . the dog is above the ant .". Gold is the F1 of
    the claims, one owed for each thing and one for a relation, times a factor for grammar; silence and repetition
    earn nothing. The Shifted id draws its test split in a style never trained on, and shows that split unless told
    otherwise; its other splits are the plain id's.

    ## Observation Space

    A `Dict`: `image` uint8 (48, 48, 3); `prompt` int64 (6,), always the same words; `response` int64 (28,).

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

    Terminated by an end token (`info["stop"]` is "eos"), after 28 tokens ("budget"), or by padding ("pad"). Never
    truncated by itself.

    ## Arguments

    `dataset`, `split`, `reward`, `tokenizer`, `max_response_tokens`, `image_size` (48, 96 or 192),
    `action_masking`, `render_mode`; of the vector env also `autoreset_mode`, `copy`, `max_episode_steps`.

    ## Version History

    - v0: first version.
    """

    name = "captioning"
    key = 2
    max_prompt_tokens = 6
    max_response_tokens = 28
    counts = {"plain": (1, 3), "shifted": (1, 3), "hard": (4, 6)}  # noqa: RUF012
    prompt = CAPTION_PROMPT

    def compose(self, split: str, index: int) -> tuple[Scene, str, tuple[str, ...], Scene]:
        rng = self.rng(split, index)
        while True:
            scene = draw_scene(rng, self.counts[self.variant], self.style(split), distinct=True)
            text = caption(scene, rng, False if split != "test" else None)
            if text is not None:
                return scene, self.prompt, (text,), scene

    def gold(self, sample: Sample, response: Response) -> float | None:
        return caption_gold(sample.truth, response.text) if sample.truth is not None else None
