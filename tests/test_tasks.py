"""The tasks on the scene world: gold, splits, levels and shifts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import gymnasium as gym
import pytest

from mmenv.arguments import ArgumentError
from mmenv.data.sample import SPLITS, Response
from mmenv.registration import TABLE, default_task
from mmenv.tasks.captioning import Captioning
from mmenv.tasks.spoken_dialogue import SpokenDialogue
from mmenv.tasks.vqa import VQA
from mmenv.worlds.scenes import SPLITS as SIZES
from mmenv.worlds.scenes import held_out, held_out_relation
from mmenv.worlds.things import ASSETS, COLOURS, concept_index
from mmenv.worlds.vocabulary import world_tokenizer
from scripts.make_golden import GOLDEN, world

TASKS = (VQA, Captioning, SpokenDialogue)
LEVELS = ("plain", "hard")


def turns(task, split, index):
    """A sample and what follows right replies."""
    sample = task.sample(split, index)
    while sample is not None:
        yield sample
        sample = task.follow_up(sample, Response(sample.references[0]))


def test_samples_are_those_of_the_golden_file():
    assert world() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_another_process_draws_the_same_sample():
    code = (
        "import hashlib; from mmenv.tasks.spoken_dialogue import SpokenDialogue;"
        "s = SpokenDialogue().sample('test', 7);"
        "print(hashlib.sha256(s.image.tobytes() + s.audio.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    sample = SpokenDialogue().sample("test", 7)
    assert there == hashlib.sha256(sample.image.tobytes() + sample.audio.tobytes()).hexdigest()


@pytest.mark.parametrize("split", ["train", "comp"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", TASKS)
def test_the_answer_key_has_gold_one_and_silence_zero(make, level, split):
    task = make(level=level)
    for index in range(60):
        for sample in turns(task, split, index):
            assert task.gold(sample, Response(sample.references[0])) == 1.0
            assert task.gold(sample, Response("")) == 0.0


@pytest.mark.parametrize("make", TASKS)
def test_gold_does_not_depend_on_case_full_stop_or_article(make):
    task = make()
    for index in range(60):
        for sample in turns(task, "test", index):
            right = sample.references[0].removesuffix(" .")
            for text in (right.upper(), right.capitalize() + ".", f"The {right}"):
                assert task.gold(sample, Response(text)) == 1.0, text


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", TASKS)
def test_prompts_and_references_are_of_the_vocabulary_and_fit(make, level):
    task, tokenizer = make(level=level), world_tokenizer()
    for index in range(200):
        for sample in turns(task, "train", index):
            for text in (sample.prompt, *sample.references):
                assert tokenizer.unk_id not in tokenizer.encode(text), text
            assert len(tokenizer.encode(sample.prompt)) <= task.max_prompt_tokens
            assert len(tokenizer.encode(sample.references[0])) < task.max_response_tokens
            assert sample.family


@pytest.mark.parametrize("make", TASKS)
def test_a_shift_changes_pictures_and_sounds_of_test_and_comp_alone(make):
    plain, shifted = make(), make(shift=1.0)
    for split in SIZES:
        a, b = plain.sample(split, 3), shifted.sample(split, 3)
        same = split in ("train", "validation")
        assert a.references == b.references
        assert (a.image == b.image).all() == same
        assert (a.id == b.id) == same
        if a.audio is not None:
            assert (a.audio.shape == b.audio.shape and (a.audio == b.audio).all()) == same


def test_plates_of_comp_are_combinations_that_training_never_shows():
    def held_out_plates(split):
        things = [thing for i in range(100) for thing in VQA().sample(split, i).truth[0].things]
        return {held_out(t.concept, COLOURS.index(t.plate)) for t in things if t.plate is not None}

    assert held_out_plates("comp") == {True}
    assert [held_out_plates(split) for split in SPLITS] == [{False}] * 3


def test_captions_say_held_out_relations_in_comp_alone():
    def said(split):
        found = []
        for index in range(300):
            sample = Captioning().sample(split, index)
            words = sample.references[0].split()
            for i, word in enumerate(words[:-2]):
                relation = " ".join(words[i + 1 : i + 3]) if words[i + 1] in ("left", "right") else words[i + 1]
                if word == "is" and relation in ("left of", "right of", "above", "below"):
                    concept = concept_index().get(words[i - 1])
                    found.append(concept is not None and held_out_relation(concept, relation))
        return found

    assert not any(said("train"))
    assert all(said("comp"))


def test_the_user_repeats_after_a_wrong_reply_and_refers_back_after_a_right_one():
    task, referred = SpokenDialogue(), 0
    for index in range(150):
        sample = task.sample("train", index)
        again = task.follow_up(sample, Response("nonsense"))
        assert again is not None
        assert again.said == f"no {sample.truth.turn.full}"
        assert again.references == sample.references
        assert again.prompt == "you said nonsense ."
        after = task.follow_up(sample, Response(sample.references[0]))
        assert after is not None
        referred += after.truth.turn.text != after.truth.turn.full
    assert referred > 50


def test_one_speaker_says_a_whole_dialogue_and_all_speakers_occur():
    task, speakers = SpokenDialogue(), set()
    for index in range(80):
        voices = {sample.truth.speaker for sample in turns(task, "train", index)}
        assert len(voices) == 1
        speakers |= voices
    assert len(speakers) == 5


@pytest.mark.parametrize(("level", "numbers"), [("plain", {2, 3, 4}), ("hard", {3, 4, 5})])
def test_dialogues_have_the_promised_number_of_turns(level, numbers):
    assert {len(list(turns(SpokenDialogue(level=level), "train", i))) for i in range(80)} == numbers


def test_hard_and_shifted_ids_set_level_and_shift_and_either_can_be_given():
    assert {(default_task(i).level, default_task(i).shift) for i in TABLE if "Hard" in i} == {("hard", 0.0)}
    assert {(default_task(i).level, default_task(i).shift) for i in TABLE if "Shifted" in i} == {("plain", 1.0)}
    env = gym.make("mmenv/VQAShifted-v0", level="hard", shift=0.5, reward="gold").unwrapped
    assert (env.task.level, env.task.shift, env.episode_spec.split) == ("hard", 0.5, "test")
    vector = gym.make_vec("mmenv/Captioning-v0", num_envs=2, level="hard", reward="gold", split="comp").unwrapped
    assert vector.single_observation_space["response"].shape == (96,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "difficult"}, "level='difficult'.*plain.*hard"),
        ({"shift": 1.5}, r"shift=1.5 is outside \[0, 1\]"),
        ({"shift": "much"}, "shift='much' is not a number"),
        ({"shift": True}, "shift=True is not a number"),
        ({"split": "all"}, "split='all'.*comp"),
    ],
)
def test_wrong_levels_shifts_and_splits_are_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        gym.make("mmenv/VQA-v0", reward="gold", **arguments)


@pytest.mark.parametrize("arguments", [{"level": "hard"}, {"shift": 0.5}])
def test_a_task_without_levels_and_shifts_refuses_them(arguments):
    with pytest.raises(ArgumentError, match="this task has no"):
        gym.make("toy/Colours-v0", **arguments)


def test_assets_stay_below_25_megabytes():
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) < 25e6
