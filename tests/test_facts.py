"""Facts of scenes: true as an independent solver reads them, of every kind, within their length, nothing of comp."""

import random
import re

import pytest
from independent_solver import independent_answer

from mmenv.worlds.facts import facts_by_kind, write_facts
from mmenv.worlds.scenes import RELATIONS, draw_scene, held_out_relation
from mmenv.worlds.things import concept_index
from mmenv.worlds.vocabulary import world_tokenizer

# Each kind of fact as the question whose answer it states: a pattern of the fact, and the question.
QUESTIONS = {
    "place": (r"the (\w+) is at the (?P<answer>.+)", "where is the {0} ?"),
    "plate": (r"the plate under the (\w+) is (?P<answer>\w+)", "what color is the plate under the {0} ?"),
    "mark": (r"on the (\w+) is the (letter|digit) (?P<answer>\w+)", "which {1} is written on the {0} ?"),
    "size": (r"the size of the (\w+) is (?P<answer>\w+)", "what size is the {0} ?"),
    "category": (r"the (\w+) is an? (?P<answer>\w+)", "what kind of thing is the {0} ?"),
    "what is where": (r"at the (.+) is an? (?P<answer>\w+)", "what is at the {0} ?"),
    "what is on a plate": (r"on the (\w+) plate is an? (?P<answer>\w+)", "what is on the {0} plate ?"),
    "what has a mark": (r"the (letter|digit) (\w+) is on an? (?P<answer>\w+)", "which thing has the {0} {1} ?"),
    "relation": (r"(\w+(?: of)?) the (\w+) is the (?P<answer>\w+)", "what is {0} the {1} ?"),
    "nearest": (r"nearest to the (\w+) is the (?P<answer>\w+)", "what is nearest to the {0} ?"),
    "count": (r"of (\w+) there are (?P<answer>\w+)", "how many {0} are there ?"),
}
# Kinds of facts as a question, and what it is to be answered with.
SAME_COLOUR, SAME_SIZE = (
    "are the plates under the {0} and the {1} of the same color ?",
    "are the {0} and the {1} of the same size ?",
)
TOLD = {
    "same color": (r"the plates under the (\w+) and the (\w+) are of the same color", SAME_COLOUR, "yes"),
    "different color": (r"the plates under the (\w+) and the (\w+) are of a different color", SAME_COLOUR, "no"),
    "same size": (r"the (\w+) and the (\w+) are of the same size", SAME_SIZE, "yes"),
    "different size": (r"the (\w+) and the (\w+) are of a different size", SAME_SIZE, "no"),
}
MORE_OR_FEWER = r"of (?P<first>\w+) and (?P<second>\w+) there are (?P<what>more|fewer) (?P<said>\w+) \."


def scenes(n):
    rng = random.Random(0)
    return [draw_scene(rng, (2, 9)) for _ in range(n)]


@pytest.mark.parametrize("kind", QUESTIONS)
def test_an_independent_solver_answers_with_what_a_fact_says(kind):
    pattern, question = QUESTIONS[kind]
    checked = 0
    for scene in scenes(400):
        for fact in facts_by_kind(scene)[kind]:
            match = re.fullmatch(pattern + r" \.", fact)
            slots = [group for group in match.groups() if group != match["answer"]]
            assert independent_answer(question.format(*slots), scene) == match["answer"], (fact, scene)
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("kind", TOLD)
def test_an_independent_solver_agrees_on_what_is_the_same(kind):
    pattern, question, expected = TOLD[kind]
    facts = [(scene, fact) for scene in scenes(400) for fact in facts_by_kind(scene)[kind]]
    assert len(facts) > 100
    for scene, fact in facts:
        names = re.fullmatch(pattern + r" \.", fact).groups()
        assert independent_answer(question.format(*names), scene) == expected, (fact, scene)


def test_an_independent_solver_agrees_on_where_there_are_more_and_where_fewer():
    facts = [(scene, fact) for scene in scenes(200) for fact in facts_by_kind(scene)["more or fewer"]]
    assert len(facts) > 100
    for scene, fact in facts:
        first, second, what, said = re.fullmatch(MORE_OR_FEWER, fact).groups()
        other = second if said == first else first
        assert independent_answer(f"are there {what} {said} than {other} ?", scene) == "yes", (fact, scene)


def test_every_kind_of_fact_is_checked_here():
    assert facts_by_kind(scenes(1)[0]).keys() == {*QUESTIONS, *TOLD, "more or fewer"}


def test_facts_are_written_once_each_within_their_length_and_vocabulary():
    tokenizer, rng = world_tokenizer(), random.Random(1)
    for scene in scenes(300):
        text = write_facts(scene, rng, 40)
        sentences = text.split(" . ")
        assert len(set(sentences)) == len(sentences)
        assert len(text.split()) <= 40
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_fact_states_a_relation_that_is_held_out_of_training():
    stated = set()
    for scene in scenes(400):
        for fact in facts_by_kind(scene)["relation"]:
            relation, _, subject = re.fullmatch(r"(\w+(?: of)?) the (\w+) is the (\w+) \.", fact).groups()
            assert not held_out_relation(concept_index()[subject], relation)
            stated.add(relation)
    assert stated == set(RELATIONS)


def test_the_same_generator_writes_the_same_facts():
    scene = scenes(1)[0]
    assert write_facts(scene, random.Random(2), 64) == write_facts(scene, random.Random(2), 64) != ""


def test_a_kind_with_higher_odds_is_told_more_often():
    def share(odds):
        rng, told = random.Random(3), []
        for scene in scenes(200):
            told += write_facts(scene, rng, 64, odds).split(" . ")
        return sum(fact.startswith("nearest") for fact in told) / len(told)

    assert share({"nearest": 4}) > 2 * share({}) > 0
