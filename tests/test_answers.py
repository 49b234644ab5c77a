"""Gold of answers: the truth counts, its wording does not, and nothing but an answer pays."""

from __future__ import annotations

import math
import random

import pytest

from mmenv.tokenizer import IN_WORDS
from mmenv.worlds.answers import BRIEF, FRAME, NEGATIONS, answer_parts
from mmenv.worlds.questions import FAMILIES, HARD_FAMILIES
from mmenv.worlds.samples import draw_question
from mmenv.worlds.scenes import PLACES, Scene, Thing
from mmenv.worlds.things import COLOURS, LETTERS, SIZES, categories, concept_index, concepts
from mmenv.worlds.words import contents

DIGITS = {word: digits for digits, word in IN_WORDS.items()}
EVERYTHING = (
    "yes", "no", *IN_WORDS.values(), *COLOURS, *SIZES, *LETTERS, *PLACES, *categories(), *(c.name for c in concepts()),
)  # fmt: skip


def gold(question, reply):
    return math.prod(answer_parts(question.text, question.answer, reply, question.rough).values())


def questions(n, level="plain"):
    """The first ``n`` questions of every family of a level."""
    for family in FAMILIES:
        try:
            draw_question(level, "train", 0, family=family)
        except ValueError:
            continue  # a level that does not ask this family
        for index in range(n):
            yield draw_question(level, "train", index, family=family)[1]


@pytest.mark.parametrize("level", ["plain", "hard"])
def test_the_right_answer_earns_one_in_any_spelling(level):
    for question in questions(60, level):
        answer = question.answer
        digits = " ".join(DIGITS.get(word, word) for word in answer.split())
        for reply in (answer, answer.upper(), f"{answer}.", f"{answer} .", f"{answer}!", f" {answer}\n", digits,
                      f"a {answer}", f"An {answer}", f"the {answer}.", answer.replace(" ", "-"), f"it is {answer}",
                      f"It's the {answer.title()}."):  # fmt: skip
            assert gold(question, reply) == 1.0, (question, reply)


def test_the_question_alone_and_silence_earn_nothing():
    for question in questions(60):
        for reply in (question.text, question.text.rstrip(" ?."), f"the {question.text}", "", " ", ".", "the", "there"):
            assert gold(question, reply) == 0.0, (question, reply)


def test_a_wrong_answer_beside_the_right_one_earns_nothing():
    rng = random.Random(0)
    for question in questions(60):
        asked = {contents().get(word, word) for word in question.text.split()}
        others = [w for w in EVERYTHING if not asked & {contents().get(word, word) for word in w.split()}]
        other = rng.choice([w for w in others if w not in question.answer])
        if other == question.rough or set(other.split()) & {"middle", "one"}:
            continue
        for reply in (f"{question.answer} {other}", f"{other} {question.answer}", f"{question.answer} or {other}",
                      f"it is {question.answer}, or maybe {other}"):  # fmt: skip
            assert gold(question, reply) == 0.0, (question, reply)


def test_naming_everything_earns_nothing():
    for question in questions(5):
        assert gold(question, " ".join(EVERYTHING)) == 0.0
        assert gold(question, " or ".join(COLOURS)) == 0.0
        assert gold(question, "yes no") == gold(question, "no yes") == 0.0


def test_a_denied_answer_earns_nothing():
    for question in questions(60):
        if question.answer != "no":
            for reply in (f"not {question.answer}", f"it is not {question.answer}", f"it isn't {question.answer}"):
                assert gold(question, reply) == 0.0, (question, reply)


def test_every_word_beyond_twelve_makes_a_right_reply_less_brief():
    for question in questions(3):
        reply = " ".join([question.answer, *["picture", "shown"] * BRIEF])
        parts = answer_parts(question.text, question.answer, reply)
        assert parts["brevity"] == BRIEF / (len(question.answer.split()) + 2 * BRIEF)
        assert (parts["correct"], parts["grammar"]) == (1.0, 1.0)


def test_unknown_words_and_stammering_cost_a_tenth_each():
    parts = answer_parts("what is left of the dog ?", "cat", "umm cat cat frobnicate", "animal")
    assert parts == {"correct": 1.0, "brevity": 1.0, "grammar": pytest.approx(0.7)}


def test_the_rougher_answer_is_worth_a_third():
    assert answer_parts("what is left of the dog ?", "cat", "It is an animal.", "animal")["correct"] == 1 / 3
    assert answer_parts("what is left of the dog ?", "cat", "an animal, a cat", "animal")["correct"] == 1.0
    assert answer_parts("what is left of the dog ?", "cat", "an animal or a car", "animal")["correct"] == 0.0


def test_no_word_both_has_content_and_has_none():
    assert not FRAME & NEGATIONS
    # "one" is a number where a number is asked for, and a pronoun elsewhere.
    assert (FRAME | NEGATIONS | {"yes", "no"}) & set(contents()) == {"one"}
    nouns = [word for c in concepts() for word in (c.name, c.plural)]
    others = [*COLOURS, *SIZES, *LETTERS, *IN_WORDS.values(), *categories(), *categories().values()]
    assert len({*nouns, *others}) == len(nouns) + len(others)


@pytest.mark.parametrize(
    ("question", "answer", "reply", "correct"),
    [
        ("how many dogs are there ?", "zero", "there are no dogs", 1),
        ("how many dogs are there ?", "zero", "There aren't any dogs.", 1),
        ("how many dogs are there ?", "zero", "none", 1),
        ("how many dogs are there ?", "zero", "no", 0),
        ("how many dogs are there ?", "two", "there are no dogs", 0),
        ("is there a dog ?", "yes", "There is a dog.", 1),
        ("is there a dog ?", "yes", "yes, there is no dog", 0),
        ("is there a dog ?", "no", "there isn't", 1),
        ("is there a dog ?", "no", "no, there is a dog", 0),
        ("is the dog left of the cat ?", "yes", "the cat is right of the dog", 1),
        ("is the dog left of the cat ?", "yes", "yes, the cat is left of the dog", 0),
        ("are there more animals or more vehicles ?", "animals", "there are fewer vehicles than animals", 1),
        ("are there more animals or more vehicles ?", "animals", "there are more vehicles than animals", 0),
        ("where is the dog ?", "left", "in the middle left", 1),
        ("what is on the red plate ?", "hotdog", "a hot-dog", 1),
    ],
)
def test_sentences_mean_what_they_say(question, answer, reply, correct):
    assert answer_parts(question, answer, reply)["correct"] == correct


# With the scene: a dog at the top left, a cat at the bottom left, a car at the bottom right.
SCENE = Scene(
    tuple(Thing(concept_index()[name], x, y) for name, x, y in (("dog", 16, 16), ("cat", 18, 76), ("car", 80, 78)))
)


@pytest.mark.parametrize(
    ("question", "answer", "reply", "correct"),
    [
        ("is the dog left of the cat ?", "no", "the cat is right of the dog", 0),  # as wrong as "yes"
        ("is the dog left of the cat ?", "no", "the cat is left of the dog", 0),  # it lies below
        ("is the dog left of the cat ?", "no", "no , the cat is left of the dog", 0),
        ("is the dog left of the cat ?", "no", "the dog is above the cat", 1),
        ("is the dog left of the cat ?", "no", "no, the cat is below the dog.", 1),
        ("is the dog left of the cat ?", "no", "the dog is below the cat", 0),
        ("is the dog left of the cat ?", "no", "the dog is not left of the cat", 1),
        ("is the dog right of the cat ?", "no", "the cat is left of the dog", 0),
        ("is the cat left of the car ?", "yes", "the car is right of the cat", 1),
        ("is the cat left of the car ?", "yes", "the cat is not left of the car", 0),
        ("is the car left of the cat ?", "no", "the cat is left of the car", 1),
        ("what is left of the car ?", "cat", "the cat is left of the car", 1),
        ("what is left of the car ?", "cat", "the car is right of the cat", 1),
        ("what is left of the car ?", "cat", "the car is left of the cat", 0),
        ("are there more vehicles than animals ?", "no", "there are more animals than vehicles", 1),
        ("are there more fruits than plants ?", "no", "there are more plants than fruits", 0),
        ("is the dog left of it ?", "no", "it is left of the dog", 1),  # what "it" is, is not known here
    ],
)
def test_a_statement_about_two_things_must_be_true_of_the_scene(question, answer, reply, correct):
    assert answer_parts(question, answer, reply, scene=SCENE)["correct"] == correct


@pytest.mark.parametrize("level", ["plain", "hard"])
def test_no_right_answer_is_false_of_its_scene(level):
    for family in FAMILIES:
        if level == "hard" and family not in HARD_FAMILIES:
            continue
        for index in range(60):
            scene, question = draw_question(level, "train", index, family=family)
            for reply in (question.answer, f"It is {question.answer}.", f"the {question.answer}"):
                parts = answer_parts(question.text, question.answer, reply, question.rough, scene=scene)
                assert parts == {"correct": 1.0, "brevity": 1.0, "grammar": 1.0}, (question, reply)
