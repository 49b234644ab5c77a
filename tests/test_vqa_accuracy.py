"""The accuracy of VQA on cases worked by hand, and the files of VQAv2."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
from datafiles import COLOURS, vqa

import mmenv
from mmenv.rewards.metrics.vqa_accuracy import normalised, vqa_accuracy
from mmenv.tokenizer import learn_tokenizer


# Of ten people n gave the answer. Left out is one of those n (n times), or one of the others (10 - n times):
# (n * min(1, (n - 1) / 3) + (10 - n) * min(1, n / 3)) / 10.
@pytest.mark.parametrize(("n", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (7, 1.0), (10, 1.0)])
def test_the_accuracy_is_the_mean_over_nine_of_ten_people(n, expected):
    people = ["cat"] * n + [f"other{i}" for i in range(10 - n)]
    assert vqa_accuracy(people, "cat") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("The cat.", "cat"),
        ("a cat and an owl", "cat and owl"),
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("yall'll", "y'all'll"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("stop!", "stop"),
        ("is it?", "is it"),
        ("what\nnow\t", "what now"),
        ("5:30", "5:30"),
        ("dog's", "dog's"),
    ],
)
def test_answers_are_normalised_by_the_official_rules(said, expected):
    assert normalised(said) == expected


@pytest.mark.parametrize(
    "answer",
    ["11:30", "50%", "3.5", "t-shirt", "$5", "12,000", "1/2", "don't", "it\u2019s", "St. Mary's", "p.m.", "dogs'",
     "rock & roll", "#1", "e-mail@home", "Cafe\u0301-Bar", "赤い車", "50 %", "c++", "7'2\"",
     "10:15 a.m.", "yes, 2", "-5", "1,234.5", "(a)", "Über-Fuss", "...", "2+2=4"],
)  # fmt: skip
@pytest.mark.parametrize("people", [1, 4, 10])
def test_an_answer_is_right_as_people_write_it_and_as_a_tokenizer_does(answer, people):
    tokenizer = learn_tokenizer([answer])
    for text in (
        answer,
        answer.upper(),
        tokenizer.decode(tokenizer.encode(answer)),
        " ".join(tokenizer.pieces(answer)),
    ):
        assert vqa_accuracy([answer] * people, text) == 1.0, text


def test_a_written_answer_is_right_with_the_words_that_the_rules_leave_out():
    assert vqa_accuracy(["11:30"] * 10, "the 11 : 30 .") == 1.0
    assert vqa_accuracy(["t-shirt"] * 9 + ["shirt"], "a t - shirt") == 1.0


@pytest.mark.parametrize("answer", ["the cat", "two cats", "a red ball", "none", "A", "An", "The", "a b", "?", "zero"])
def test_what_all_people_said_word_for_word_is_right(answer):
    for people in (1, 4, 10):
        assert vqa_accuracy([answer] * people, answer) == 1.0


@pytest.mark.parametrize("text", ["", " ", "\n"])
@pytest.mark.parametrize("answer", ["A", "the", "?", ".", "none", "a dog"])
def test_silence_is_no_answer(text, answer):
    for people in (1, 4, 10):
        assert vqa_accuracy([answer] * people, text) == 0.0


@pytest.mark.parametrize(
    ("answer", "text"), [("A", "the"), ("?", "."), ("A", "?"), ("12", "1 2"), ("1:130", "11 : 30"), ("11:30", "11 : 3"),
                         ("t-shirt", "shirt"), ("3.5", "35"), ("50%", "50 $")]
)  # fmt: skip
def test_other_answers_are_wrong(answer, text):
    for people in (1, 10):
        assert vqa_accuracy([answer] * people, text) == 0.0


def test_of_fewer_than_four_people_any_one_will_do():
    assert vqa_accuracy(["a dog"], "dog") == 1.0
    assert vqa_accuracy(["cat", "dog"], "bird") == 0.0


def test_vqav2_is_read_from_its_official_layout_and_paid_by_the_official_accuracy(tmp_path):
    env = gym.make("mmenv/VQA-v0", dataset=str(vqa(tmp_path)), split="all", reward="vqa")
    tokenizer, task = env.get_wrapper_attr("tokenizer"), env.get_wrapper_attr("task")
    assert task.size("all") == 6
    _, info = env.reset(options={"sample_index": 0})
    assert info["sample_id"] == "10"
    sample = task.sample("all", 0)
    colour = list(COLOURS)[1]
    assert sample.prompt == "What colour is this?"
    assert sorted(sample.references) == sorted(["grey", *[colour] * 8, "dark"])
    assert sample.references[0] == colour
    for answer, expected in ((colour, 1.0), ("grey", 0.3), ("no", 0.0)):
        env.reset(options={"sample_index": 0})
        env.step(tokenizer.encode(answer)[0])
        _, reward, terminated, _, info = env.step(1)
        assert terminated
        assert reward == pytest.approx(expected)
        assert "gold" not in info


def test_the_files_of_vqav2_may_lie_anywhere(tmp_path):
    path = vqa(tmp_path / "a")
    answers = (tmp_path / "a" / "v2_mscoco_val2014_annotations.json").rename(tmp_path / "answers.json")
    pictures = (tmp_path / "a" / "val2014").rename(tmp_path / "pictures")
    dataset = mmenv.read_vqa(path, answers, pictures)
    assert len(dataset[0].references) == 10
    assert len(mmenv.read_dataset(f"{path}?images={pictures}&annotations={answers}")[0].references) == 10
    assert mmenv.read_dataset(path, images=pictures)[0].references == ()  # a test split has no answers


def test_faults_of_vqav2_are_named(tmp_path):
    path = vqa(tmp_path)
    content = json.loads(path.read_text())
    content["questions"][1]["question"] = None
    content["questions"][2]["question_id"] = 7
    path.write_text(json.dumps(content))
    (tmp_path / "val2014" / "COCO_val2014_000000000004.jpg").write_text("broken")
    with pytest.warns(mmenv.DatasetWarning) as caught:
        assert len(mmenv.read_dataset(path, broken="skip")) == 3
    said = str(caught[0].message)
    for told in ("questions[1]: question None", "questions[2]: question_id 7 has no answers", "questions[3]: COCO_val"):
        assert told in said


def test_the_file_of_answers_is_no_dataset(tmp_path):
    vqa(tmp_path)
    with pytest.raises(mmenv.DatasetError, match="give the file of questions"):
        mmenv.read_dataset(tmp_path / "v2_mscoco_val2014_annotations.json")
