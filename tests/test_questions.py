"""Questions of scenes: right answers, held-out combinations, balance, and words."""

import random
import re
from collections import Counter

import pytest

from experiments.blind import accuracies, questions
from mmenv.tokenizer import NUMBER_WORDS
from mmenv.worlds.questions import FAMILIES, FORMS, HARD_FAMILIES, ask, families
from mmenv.worlds.questions.forms import neighbours
from mmenv.worlds.samples import draw_question
from mmenv.worlds.scenes import (
    PLACES,
    RELATIONS,
    SPLITS,
    Scene,
    Thing,
    beside,
    held_out,
    held_out_relation,
)
from mmenv.worlds.solver import phrasing_of, solve
from mmenv.worlds.things import COLOURS, categories, concept_index, concepts
from mmenv.worlds.vocabulary import words_of, world_words

DOG, CAT, CAR = (concept_index()[name] for name in ("dog", "cat", "car"))
SCENE = Scene(
    (
        Thing(DOG, 14, 14, size=2, colour=0, mark="b"),
        Thing(CAT, 48, 16, size=0, colour=4, mark="7"),
        Thing(CAR, 78, 70, size=2, colour=4, mark="4"),
    )
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("is there a dog ?", "yes"),
        ("do you see a car ?", "yes"),
        ("does the picture show a cow ?", "no"),
        ("are there any animals ?", "yes"),
        ("does the picture show any fruits ?", "no"),
        ("how many dogs are there ?", "one"),
        ("how many animals do you see ?", "two"),
        ("count the things .", "three"),
        ("count the cows .", "zero"),
        ("are there more animals than vehicles ?", "yes"),
        ("do you see fewer animals than vehicles ?", "no"),
        ("are there more vehicles than plants ?", "yes"),
        ("are there more fruits than plants ?", "no"),
        ("which are there more of , vehicles or animals ?", "animals"),
        ("are there more fruits or more plants ?", None),
        ("what is at the top left ?", "dog"),
        ("name the thing at the top .", "cat"),
        ("what is at the left ?", None),
        ("where is the car ?", "bottom right"),
        ("in which part of the picture is the dog ?", "top left"),
        ("where is the cow ?", None),
        ("is the dog left of the cat ?", "yes"),
        ("is the dog right of the cat ?", "no"),
        ("does the car lie above the cat ?", "no"),
        ("is the dog above the cat ?", "no"),  # by two pixels, and left of it by 34
        ("what is left of the cat ?", "dog"),
        ("which thing is below the cat ?", "car"),
        ("what is above the cat ?", None),
        ("what color is the plate under the dog ?", "red"),
        ("which color does the plate under the car have ?", "blue"),
        ("how large is the dog ?", "large"),
        ("what size is the cat ?", "small"),
        ("what is on the red plate ?", "dog"),
        ("what is on the blue plate ?", None),
        ("what color is the plate of the thing left of the cat ?", "red"),
        ("what size is the thing above the car ?", "small"),
        ("what kind of thing is at the bottom right ?", "vehicle"),
        ("what kind of thing is on the red plate ?", "animal"),
        ("what kind of thing has the digit four ?", "vehicle"),
        ("which one does not belong ?", "car"),
        ("what is nearest to the dog ?", "cat"),
        ("what is closest to the car ?", "cat"),
        ("what is left of the thing above the car ?", "dog"),
        ("what is written on the dog ?", "b"),
        ("what does the cat have written on it ?", "seven"),
        ("which letter is written on the dog ?", "b"),
        ("which digit is written on the dog ?", None),
        ("which thing has the digit seven ?", "cat"),
        ("what is the letter b written on ?", "dog"),
        ("what is the letter x written on ?", None),
        ("what is the sum of the digits ?", "eleven"),
        ("what is the sum of the digits on the cat and the car ?", "eleven"),
        ("what is the sum of the digits on the dog and the car ?", None),
        ("do the cat and the car have plates of the same color ?", "yes"),
        ("are the plates of the dog and the car the same color ?", "no"),
        ("are the dog and the car of the same size ?", "yes"),
        ("are the dog and the cat of the same size ?", "no"),
        ("are the dog and the dog of the same size ?", None),
        ("is the same kind of thing on the red plate and the green plate ?", None),
        ("", None),
        ("is there", None),
        ("dog", None),
        ("why is the dog left of the cat ?", None),
    ],
)
def test_the_solver_answers_by_hand_worked_cases(text, answer):
    assert solve(text, SCENE) == answer


def test_a_diagonal_is_neither_left_nor_not_left():
    diagonal = Scene((Thing(DOG, 20, 20), Thing(CAT, 50, 52)))
    assert solve("is the dog left of the cat ?", diagonal) is None
    assert solve("is the dog right of the cat ?", diagonal) == "no"
    assert solve("is the dog above the cat ?", diagonal) == "yes"


CASES = [(level, split, f) for level in ("plain", "hard") for split in SPLITS for f in families(level, split == "comp")]


@pytest.mark.parametrize(("level", "split", "family"), CASES)
def test_the_solver_reads_every_question_and_agrees_with_its_answer(level, split, family):
    for index in range(40):
        scene, question = draw_question(level, split, index, family=family)
        assert solve(question.text, scene) == question.answer, question


@pytest.mark.slow
@pytest.mark.parametrize(("level", "split", "family"), CASES)
def test_the_solver_agrees_with_ten_thousand_answers(level, split, family):
    for index in range(10_000 if split == "train" else 2_000):
        scene, question = draw_question(level, split, index, family=family)
        assert solve(question.text, scene) == question.answer, question


def test_a_sample_depends_on_its_key_alone():
    first = [draw_question("plain", "test", i) for i in range(20)]
    assert [draw_question("plain", "test", i) for i in range(20)] == first
    for key in (("plain", "validation"), ("hard", "test"), ("plain", "comp")):
        assert [draw_question(*key, i) for i in range(20)] != first
    assert [draw_question("plain", "test", i, task="other") for i in range(20)] != first


def test_questions_and_answers_do_not_change_with_the_shift():
    for index in range(50):
        scene, question = draw_question("plain", "test", index)
        shifted, same = draw_question("plain", "test", index, shift=1.0)
        assert (question.text, question.answer) == (same.text, same.answer)
        assert scene != shifted


@pytest.mark.parametrize(("level", "names"), [("plain", FAMILIES), ("hard", HARD_FAMILIES)])
def test_families_are_equally_frequent(level, names):
    number = 60 * len(names)
    counts = Counter(draw_question(level, "train", i)[1].family for i in range(number))
    assert set(counts) == set(names)
    for count in counts.values():
        assert 30 <= count <= 95  # 60, and four standard deviations


def test_every_phrasing_of_a_family_is_asked():
    for family in FAMILIES:
        phrasings = {p for form in FORMS[family] for p in form.phrasings}
        assert len(phrasings) >= 3
        assert {phrasing_of(draw_question("plain", "train", i, family=family)[1].text) for i in range(200)} == phrasings


def test_every_form_has_an_example_that_shows_one_of_its_phrasings():
    for forms in FORMS.values():
        for form in forms:
            examples = re.findall(r"``([^`]+ [?.])``", form.find.__doc__)
            assert examples
            assert phrasing_of(examples[0]) in form.phrasings


def relations_of(text, scene):
    """(concept of the subject, relation) for each relation that a question speaks of."""
    match = re.search(r"(?:(left of|right of|above|below) the thing )?(left of|right of|above|below) the (\w+) ", text)
    if match is None:
        return []
    second, first, name = match.groups()
    asserted = re.match(r"(?:is|does) the (\w+) ", text)
    if asserted:
        return [(concept_index()[asserted.group(1)], first)]
    middle = beside(scene, first, scene.only(name))
    pairs = [(middle.concept, first)]
    return pairs if second is None else [*pairs, (beside(scene, second, middle).concept, second)]


@pytest.mark.parametrize("split", SPLITS)
def test_only_comp_asks_of_held_out_relations_and_plates(split):
    relational = 0
    for family in families("plain", split == "comp"):
        for index in range(60):
            scene, question = draw_question("plain", split, index, family=family)
            for thing in scene.things:
                assert thing.colour is None or held_out(thing.concept, thing.colour) == (split == "comp")
            held = [held_out_relation(*pair) for pair in relations_of(question.text, scene)]
            relational += len(held)
            if split == "comp":
                assert any(held) or "plate" in question.text
            else:
                assert not any(held)
    assert relational > 100


def test_the_dog_is_named_only_where_there_is_one():
    for family in set(FAMILIES) - {"existence", "count", "comparison"}:
        for index in range(60):
            scene, question = draw_question("plain", "train", index, family=family)
            for name in re.findall(r"\bthe (\w+)", question.text):
                if name in concept_index():
                    assert scene.only(name) is not None, question


def test_neighbours_found_at_once_are_those_found_one_by_one():
    for index in range(150):
        rng = random.Random(index)  # centres closer than a picture has them, too
        scene = Scene(tuple(Thing(DOG, rng.randrange(96), rng.randrange(96)) for _ in range(2 + index % 7)))
        table = neighbours(scene)
        for i, thing in enumerate(scene.things):
            for relation in RELATIONS:
                j = table.get((i, relation))
                assert (None if j is None else scene.things[j]) is beside(scene, relation, thing)


def test_a_question_that_a_scene_cannot_have_is_none():
    alone = Scene((Thing(DOG, 48, 48),))
    for family in ("relation", "attribute of relation", "odd one out", "nearest", "two steps", "reading"):
        for seed in range(20):
            assert ask(family, alone, random.Random(seed)) is None
    with pytest.raises(ValueError, match="no question family 'colours'"):
        ask("colours", alone, random.Random(0))
    with pytest.raises(ValueError, match="no question family 'existence'"):
        ask("existence", alone, random.Random(0), comp=True)


def test_answers_are_of_the_kind_that_their_form_promises():
    kinds = {
        "yes, no": {"yes", "no"},
        "zero to ten": set(NUMBER_WORDS[:11]),
        "one of the nine places": set(PLACES),
        "one of the eight colours": set(COLOURS),
        "small, medium, large": {"small", "medium", "large"},
        "a category": set(categories()),
        "the plural of a category": set(categories().values()),
        "the name of a thing": {c.name for c in concepts()},
    }
    promised = {(form.family, p): form.answers for forms in FORMS.values() for form in forms for p in form.phrasings}
    for family in FAMILIES:
        for index in range(100):
            question = draw_question("hard", "train", index, family=family)[1]
            kind = promised[family, phrasing_of(question.text)]
            assert question.answer in kinds.get(kind, {question.answer}), question


def test_yes_and_no_are_equally_frequent():
    for family in ("existence", "comparison", "relation", "same or different"):
        answers = Counter(draw_question("plain", "train", i, family=family)[1].answer for i in range(600))
        share = answers["yes"] / (answers["yes"] + answers["no"])
        assert 0.4 < share < 0.6, family


def test_counts_reach_from_zero_to_ten():
    answers = {draw_question("hard", "train", i, family="count")[1].answer for i in range(1_000)}
    assert answers == set(NUMBER_WORDS[:11])


@pytest.mark.parametrize("level", ["plain", "hard"])
def test_a_blind_model_is_right_in_less_than_three_of_ten_questions(level):
    train = questions(level, "train", 3_000)
    for split in ("test", "comp"):
        test = questions(level, split, 1_000)
        for by_text in (False, True):
            assert accuracies(train, test, by_text)["all"] <= 0.30


def test_no_question_or_answer_has_an_unknown_word():
    vocabulary = set(world_words())
    for level, split, family in CASES:
        for index in range(20):
            question = draw_question(level, split, index, family=family)[1]
            texts = [question.text, question.answer, question.rough or ""]
            assert set(words_of(texts)) <= vocabulary, question


def test_the_vocabulary_is_small_and_has_no_word_twice():
    words = world_words()
    assert len(set(words)) == len(words)
    assert len(words) <= 450
    assert set(words_of(RELATIONS)) <= set(words)


def test_questions_are_at_most_sixteen_tokens_long():
    slots = dict.fromkeys(("name", "other", "names", "kinds", "other_kinds", "colour", "other_colour"), "dog")
    slots |= {"a_name": "a dog", "place": "top left", "mark": "digit seven"}
    slots |= {"relation": "left of", "second_relation": "right of"}
    for forms in FORMS.values():
        for form in forms:
            for phrasing in form.phrasings:
                assert len(phrasing.format(**slots).split()) <= 16, phrasing
