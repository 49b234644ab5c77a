"""Gold: hand-worked cases of each task."""

import pytest

from mmenv.data.sample import Response
from mmenv.registration import task_of
from mmenv.tasks.captioning import caption_gold
from mmenv.worlds.grid import Scene, Thing, concepts
from mmenv.worlds.grid_questions import credit

INDEX = {c.name: i for i, c in enumerate(concepts())}
TWO = Scene((Thing(INDEX["dog"], 0, 0), Thing(INDEX["ant"], 1, 0)))
ONE = Scene((Thing(INDEX["dog"], 0, 0),))
REFERENCES = ("dog",) * 9 + ("animal",)


def make(name, **kwargs):
    return task_of(f"mmenv/{name}-v0")(dataset=None, image_size=None, tokenizer=None)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("dog", 1.0),
        ("a dog", 1.0),
        ("a dog .", 1.0),
        ("an dog", 0.8),
        ("it is a dog", 0.75),
        ("it is a dog .", 0.6),
        ("animal", 1 / 3),
        ("cat", 0.0),
        ("dog cat", 0.0),
        ("dog dog dog", 0.0),
        ("it is", 0.0),
        ("", 0.0),
        (".", 0.0),
    ],
)
def test_credit_of_an_answer(text, gold):
    assert credit(REFERENCES, text) == pytest.approx(gold)


def test_two_word_answers_and_counts():
    assert credit(("top left",) * 10, "top left") == 1.0
    assert credit(("top left",) * 10, "at the top left") == pytest.approx(0.75)
    assert credit(("two",) * 10, "there are two") == 1.0
    assert credit(("two",) * 10, "three") == 0.0


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("a dog and an ant . the dog is above the ant .", 1.0),
        ("an ant and a dog . the ant is below the dog .", 1.0),
        ("a dog and an ant . the dog is below the ant .", 4 / 6),  # two right of three claims, three owed
        ("a dog and an ant .", 4 / 5),
        ("a dog . the dog is above the ant .", 4 / 5),
        ("a dog and a dog .", 2 / 5),  # said twice, right once
        ("a dog and an ant . the dog is left of the ant .", 4 / 6),
        ("a dog and a ant . the dog is above the ant .", 0.9),  # one slip of grammar
        ("dog ant", 0.0),
        ("", 0.0),
    ],
)
def test_gold_of_a_caption_of_two_things(text, gold):
    assert caption_gold(TWO, text) == pytest.approx(gold)


def test_gold_of_a_caption_of_one_thing():
    assert caption_gold(ONE, "a dog .") == 1.0
    assert caption_gold(ONE, "a dog . a dog .") == pytest.approx(2 / 3)
    assert caption_gold(ONE, "a cat .") == 0.0


@pytest.mark.parametrize(
    "name", ["VQA", "VQAHard", "Captioning", "CaptioningHard", "SpokenDialogue", "SpokenDialogueHard"]
)
def test_the_answer_key_has_gold_one_and_silence_zero(name):
    task = make(name)
    for i in range(100):
        sample = task.sample("test", i)
        while sample is not None:
            assert task.gold(sample, Response(sample.references[0])) == 1.0
            assert task.gold(sample, Response("")) == 0.0
            sample = task.follow_up(sample, Response(sample.references[0]))


def test_the_user_repeats_after_a_wrong_reply_and_refers_back_after_a_right_one():
    task = make("SpokenDialogue")
    referred = 0
    for i in range(200):
        sample = task.sample("train", i)
        again = task.follow_up(sample, Response("nonsense"))
        assert again is not None
        assert again.truth.question == sample.truth.question
        assert sample.said == sample.truth.question.text
        assert again.said == f"no {sample.said}"
        assert again.prompt == "you said nonsense ."
        after = task.follow_up(sample, Response(sample.references[0]))
        assert after is not None
        if " it " in after.truth.question.text:
            referred += 1
            assert sample.truth.it is not None
    assert referred > 50


def test_dialogues_have_two_to_four_turns():
    task = make("SpokenDialogue")
    counts = set()
    for i in range(100):
        sample, n = task.sample("train", i), 0
        while sample is not None:
            sample, n = task.follow_up(sample, Response("yes")), n + 1
        counts.add(n)
    assert counts == {2, 3, 4}
