"""Dialogues about scenes: what refers back can be resolved, and every word can be spoken."""

import itertools
import random

import pytest

from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.dialogues import MOST_WORDS, TURNS, Turn, draw_turns, follow_up, opening
from mmenv.worlds.questions import FAMILIES
from mmenv.worlds.scenes import LEVELS, draw_scene, seed_of
from mmenv.worlds.solver import solve
from mmenv.worlds.speech import speakable, words_of
from mmenv.worlds.things import COLOURS, SIZES, categories, concepts
from mmenv.worlds.vocabulary import world_words

NAMES = {concept.name for concept in concepts()}
REFERENCES = {"it", "that"}


class OnlyRandom:
    """A generator that has ``random`` alone, whose numbers no version of Python changes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random


def dialogue(seed, level="plain", split="train", errors=0.3):
    """A scene and its turns, each with the reply; a wrong reply names a thing or a color, to mislead."""
    rng = OnlyRandom(seed_of("test", level, split, seed))
    comp = split == "comp"
    scene = draw_scene(rng, LEVELS[level], split)
    turn, exchanges = opening(scene, rng, level, comp), []
    for _ in range(draw_turns(rng, level)):
        correct = rng.random() >= errors
        misleading = "cat" if rng.random() < 0.5 else "red"
        reply = turn.answer if correct or turn.answer == misleading else misleading
        exchanges.append((turn, reply))
        turn = follow_up(scene, turn, rng, reply == turn.answer, level, comp)
    return scene, exchanges


def several(level, split, n=600):
    return (dialogue(seed, level, split) for seed in range(n))


def resolved(text, replies):
    """The question without references, from the agent's own replies alone."""
    text = text.removeprefix("and ").replace("have written on it ?", "have written on ITSELF ?")
    if " that " in text:
        last = replies[-1]
        assert last in COLOURS or last in SIZES or last in categories(), (text, replies)
        for reference, word in (
            ("plates of that color", f"{last} plates"),
            ("things of that size", f"{last} things"),
            ("others of that kind", f"other {categories().get(last)}"),
        ):
            text = text.replace(reference, word)
        return text
    named = [reply for reply in replies if reply in NAMES]
    words = text.replace("the one ", "the thing ").split()
    if "it" in words:
        words[words.index("it")] = f"the {named[-1]}"
    return " ".join(words).replace("ITSELF", "it")


def answer_to(text, scene):
    """The answer to a question without references, by the solver or, for forms that dialogues add, from the scene."""
    for start, number in (("how many other ", True), ("are there any other ", False)):
        if text.startswith(start):
            noun = text.removeprefix(start).split()
            values = [(t.plate, "plates") for t in scene.things] + [(t.size_word, "things") for t in scene.things]
            kinds = [(plural, "are") for t in scene.things for plural in [categories()[t.category]]]
            others = (values + kinds if number else values + [(k, "?") for k, _ in kinds]).count(tuple(noun[:2])) - 1
            return NUMBER_WORDS[others] if number else ("yes" if others else "no")
    if text.startswith("what kind of thing is the ") and text.split()[6] in NAMES:
        return scene.only(text.split()[6]).category
    return solve(text, scene)


@pytest.mark.parametrize("split", ["train", "comp"])
@pytest.mark.parametrize("level", LEVELS)
def test_own_replies_resolve_every_reference_and_give_the_same_answer(level, split):
    references = 0
    for scene, exchanges in several(level, split):
        replies = []
        for turn, reply in exchanges:
            text = turn.text.removeprefix("no ")
            plain = resolved(text, replies)
            assert answer_to(plain, scene) == turn.answer, (turn, plain, replies)
            references += plain != text
            replies.append(reply)
    assert references > 300


@pytest.mark.parametrize("split", ["train", "comp"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_utterance_is_short_and_made_of_recorded_words(level, split):
    for _, exchanges in several(level, split):
        for turn, _ in exchanges:
            assert speakable(turn.text), turn
            assert speakable(turn.full), turn
            assert len(words_of(turn.text)) <= MOST_WORDS + 1, turn


def test_every_word_of_utterances_and_answers_is_a_word_of_the_world():
    known = set(world_words())
    for level in LEVELS:
        for _, exchanges in several(level, "train"):
            for turn, _ in exchanges:
                assert known.issuperset((turn.text + " " + turn.answer + " " + turn.full).split()), turn


def test_after_a_wrong_reply_the_user_says_no_and_asks_without_a_reference():
    corrections = 0
    for _, exchanges in several("plain", "train"):
        for (turn, reply), (again, _) in itertools.pairwise(exchanges):
            if reply != turn.answer:
                corrections += 1
                assert again.text == f"no {turn.full}"
                assert again.answer == turn.answer
                assert "that" not in words_of(again.text)
    assert corrections > 100


def test_nothing_but_the_last_reply_is_referred_to_after_a_correction():
    for _, exchanges in several("plain", "train"):
        for turn, _ in exchanges:
            if turn.text.startswith("no ") and turn.answer not in NAMES:
                assert turn.it is None, turn


@pytest.mark.parametrize("level", LEVELS)
def test_most_questions_after_a_right_reply_refer_back(level):
    questions = [turn.text for seed in range(600) for turn, _ in dialogue(seed, level, errors=0.0)[1][1:]]
    referring = [text for text in questions if REFERENCES & set(words_of(text))]
    assert len(referring) / len(questions) > 0.5


def test_dialogues_have_two_to_five_turns_of_many_families():
    lengths, families = set(), set()
    for level in LEVELS:
        for _, exchanges in several(level, "train", 200):
            lengths.add(len(exchanges))
            families.update(turn.family for turn, _ in exchanges)
    assert lengths == set(range(TURNS["plain"][0], TURNS["hard"][1] + 1))
    assert families <= set(FAMILIES)
    assert len(families) >= 12


def test_an_unknown_level_is_an_error():
    scene = draw_scene(random.Random(0), LEVELS["plain"])
    with pytest.raises(KeyError, match="gentle"):
        opening(scene, random.Random(0), "gentle")
    assert isinstance(opening(scene, random.Random(0)), Turn)
