"""The guessing game: what the user says to any text, and the best questioner against brute force."""

from __future__ import annotations

import math

import pytest

from mmenv.worlds.guessing import (
    NO_MARK,
    NO_PLATE,
    UNREAD,
    Query,
    answer,
    ninth,
    queries,
    read_query,
    reply,
    text_of,
)
from mmenv.worlds.questioner import Questioner
from mmenv.worlds.samples import GUESS_THINGS, draw_guess
from mmenv.worlds.scenes import SPLITS, Scene, Thing, held_out, place
from mmenv.worlds.speech import speakable
from mmenv.worlds.things import concept_index
from mmenv.worlds.vocabulary import world_tokenizer

DOG, CAT, CAR, PEAR = (concept_index()[name] for name in ("dog", "cat", "car", "pear"))
SCENE = Scene(
    (
        Thing(DOG, 14, 14, size=2, colour=0, mark="b"),
        Thing(CAT, 48, 16, size=0),
        Thing(CAR, 80, 78, size=2, colour=4, mark="7"),
        Thing(PEAR, 20, 50, size=1, colour=0),
    )
)


def scenes(number, level="plain", split="train"):
    return [draw_guess(level, split, index)[0] for index in range(number)]


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("is it an animal ?", "yes yes no no"),
        ("Is it a VEHICLE?", "no no yes no"),
        ("it is a fruit", "no no no yes"),
        ("is it large ?", "yes no yes no"),
        ("is it big ?", "yes no yes no"),
        ("is it on a red plate ?", "yes no no yes"),
        ("does it have a red plate ?", "yes no no yes"),
        ("is its plate red ?", "yes no no yes"),
        ("is the plate under it red ?", "yes no no yes"),
        ("is it on a plate ?", "yes no yes yes"),
        ("does it have a plate ?", "yes no yes yes"),
        ("does it have the letter b ?", "yes no no no"),
        ("is the digit 7 written on it ?", "no no yes no"),
        ("does it have a letter ?", "yes no no no"),
        ("does it have a digit ?", "no no yes no"),
        ("is it at the top ?", "no yes no no"),
        ("is it in the top left corner of the picture ?", "yes no no no"),
        ("is it left of the cat ?", "yes no no no"),
        ("is it to the left of the car ?", "yes no no yes"),
        ("is it below the dog ?", "no no no yes"),
        ("is it right of the pear ?", "no no yes no"),
        ("what kind of thing is it ?", "animal animal vehicle fruit"),
        ("what size is it ?", "large small large medium"),
        ("how large is it ?", "large small large medium"),
        ("and where is it ?", "top-left top bottom-right left"),
        ("what color is its plate ?", "red no-plate blue red"),
        ("What colour is the plate under it?", "red no-plate blue red"),
        ("what is written on it ?", "b no-letter-or-digit seven no-letter-or-digit"),
        ("it is the dog .", "yes no no no"),
        ("is it the dog ?", "yes no no no"),
        ("Dog!", "yes no no no"),
        ("I guess it is the car.", "no no yes no"),
        ("it is the horse .", "no no no no"),
    ],
)
def test_the_user_answers_truly_whatever_he_has_in_mind(text, answers):
    replies = [reply(SCENE, thing, text).text for thing in SCENE.things]
    assert replies == [word.replace("-", " ") for word in answers.split()]


@pytest.mark.parametrize(
    "text",
    [
        "", "?", "is it", "dog cat", "is it the dog or the cat ?", "is it an animal and is it large ?", "animal",
        "the red plate", "is it large and on a red plate ?", "is there a dog ?", "what is it ?", "is it the",
        "is it an animal or a fruit ?", "is it left of the horse ?", "is it left of a thing ?", "yes", "dogs",
        "is it one of the dogs ?", "is it not large ?", "where is the dog ?", "what color is it ?", "is it bigger ?",
        "is it left of the dog on the red plate ?", "is it dog ? dog", "is it an animal ? yes",
        "is it on a red plate of the dog ?", "is it " + "above the dog " * 2_000,
    ],
)  # fmt: skip
def test_whatever_is_not_one_question_or_guess_is_not_understood(text):
    result = reply(SCENE, SCENE.things[0], text)
    assert (result.text, result.query, result.is_guess, result.correct) == (UNREAD, None, False, False)


def test_a_guess_ends_the_game_and_a_question_does_not():
    dog = SCENE.things[0]
    for text, is_guess, correct in (
        ("it is the dog .", True, True), ("the cat", True, False), ("is it the horse ?", True, False),
        ("is it an animal ?", False, False), ("what size is it ?", False, False),
    ):  # fmt: skip
        result = reply(SCENE, dog, text)
        assert (result.is_guess, result.correct) == (is_guess, correct), text


@pytest.mark.parametrize("level", GUESS_THINGS)
def test_every_question_is_read_back_known_to_agents_and_answered_in_recorded_words(level):
    tokenizer = world_tokenizer()
    for text in (UNREAD, NO_PLATE, NO_MARK, "yes", "no"):
        assert speakable(text)
        assert tokenizer.unk_id not in tokenizer.encode(text)
    for scene in scenes(25, level):
        guesses = [Query("name", None, thing.name) for thing in scene.things]
        for query in (*queries(scene), *guesses):
            text = text_of(query)
            assert read_query(text) == query, text
            assert tokenizer.decode(tokenizer.encode(text)) == text
            for thing in scene.things:
                heard = reply(scene, thing, text).text
                assert speakable(heard), heard
                assert heard == answer(scene, thing, query) == reply(scene, thing, f"  {text.upper()}.").text


def test_every_listed_question_tells_some_things_apart_and_words_are_left_out_on_request():
    for scene in scenes(60):
        for query in queries(scene):
            assert len({answer(scene, thing, query) for thing in scene.things}) > 1
        every = queries(scene, words=False)
        assert {answer(scene, thing, query) for thing in scene.things for query in every} == {"yes", "no"}
        assert set(every) < set(queries(scene))


def test_the_ninth_of_a_thing_is_its_place_wherever_that_is_clear():
    for scene in scenes(60):
        assert all(place(thing) in (None, ninth(thing)) for thing in scene.things)


def test_a_relation_to_a_thing_that_is_not_there_once_is_an_error():
    with pytest.raises(ValueError, match="exactly one horse"):
        answer(SCENE, SCENE.things[0], Query("relation", "left of", "horse"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", GUESS_THINGS)
def test_scenes_to_guess_in_have_each_concept_once(level, split):
    least, most = GUESS_THINGS[level]
    targets = []
    for index in range(100):
        scene, target = draw_guess(level, split, index)
        assert least <= len({thing.name for thing in scene.things}) == len(scene.things) <= most
        targets.append(scene.things.index(target))
        for thing in scene.things:
            assert thing.colour is None or held_out(thing.concept, thing.colour) == (split == "comp")
    assert len(set(targets)) >= least
    assert draw_guess(level, split, 3) == draw_guess(level, split, 3)


# The best questioner.


def answers_of(scene, words):
    """What the user says to each question about each thing, as texts."""
    texts = [text_of(query) for query in queries(scene, words)]
    return [[reply(scene, thing, text).text for thing in scene.things] for text in texts]


def parts(answers, candidates):
    return [[i for i in candidates if answers[i] == text] for text in {answers[i] for i in candidates}]


def right_guesses(table, candidates, questions):
    """By trying everything: in how many cases the best strategy ends with a right guess."""
    if questions == 0:
        return 1
    return max(
        [1, *(sum(right_guesses(table, part, questions - 1) for part in parts(row, candidates)) for row in table)]
    )


def questions_asked(table, candidates):
    """By trying everything: the least sum of questions over the candidates."""
    if len(candidates) == 1:
        return 0
    splits = [split for row in table if len(split := parts(row, candidates)) > 1]
    return len(candidates) + min((sum(questions_asked(table, p) for p in split) for split in splits), default=math.inf)


@pytest.mark.parametrize("words", [True, False])
def test_the_best_questioner_is_as_good_as_trying_everything(words):
    for scene in scenes(6):
        few = Scene(scene.things[:4])
        table, everything = answers_of(few, words), range(len(few.things))
        questioner = Questioner(few, words)
        assert questioner.expected() == questions_asked(table, everything) / 4
        for number in range(4):
            assert questioner.success(number) == right_guesses(table, everything, number) / 4


@pytest.mark.parametrize("words", [True, False])
def test_playing_the_best_questions_succeeds_as_often_as_promised(words):
    for variant, scene in enumerate(scenes(15)):
        questioner = Questioner(scene, words)
        for allowed in (1, 2, 6):
            games = [play(questioner, scene, target, allowed, variant) for target in scene.things]
            # Among equal candidates the first is guessed, so one of each remaining set is right.
            assert sum(correct for correct, _ in games) / len(games) == pytest.approx(questioner.success(allowed))
            if allowed == 6:
                mean_number = sum(number for _, number in games) / len(games)
                assert mean_number == pytest.approx(questioner.expected())


def play(questioner, scene, target, allowed, variant):
    """Whether the guess is right after the best questions, and how many were asked."""
    candidates, number = questioner.everything, 0
    while number < allowed and candidates.bit_count() > 1:
        best = questioner.best(candidates, allowed - number)
        query = best[candidates * variant % len(best)]
        candidates = questioner.after(candidates, query, reply(scene, target, text_of(query)).text)
        number += 1
    first = (candidates & -candidates).bit_length() - 1
    return reply(scene, target, f"it is the {scene.things[first].name} .").correct, number


def test_bounds_of_information_hold_and_more_questions_never_harm():
    for scene in scenes(15):
        n = len(scene.things)
        questioner, rich = Questioner(scene, words=False), Questioner(scene)
        assert math.log2(n) <= questioner.expected() < n
        assert rich.expected() <= questioner.expected()
        successes = [questioner.success(k) for k in range(8)]
        assert successes[0] == 1 / n
        assert successes == sorted(successes)
        assert all(success <= 2**k / n for k, success in enumerate(successes))
        assert successes[-1] == 1.0


def test_things_that_no_question_tells_apart_remain():
    twins = Scene((Thing(DOG, 14, 14), Thing(DOG, 16, 16)))
    questioner = Questioner(twins)
    assert questioner.best(questioner.everything, 3) == []
    assert questioner.success(5) == 0.5
    assert questioner.expected() == math.inf
