"""Parts of gold and the family of a question: the same in scalar and vector infos and in an evaluation."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
from toys import Unknown

import mmenv
from mmenv.data.sample import Response
from mmenv.envs.infos import without_gold
from mmenv.tasks.captioning import Captioning
from mmenv.tasks.vqa import VQA

IDS = ["mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0"]
NAMES = {"correct", "brevity", "grammar"}


def references(env):
    """Tokens of the best reference of the present sample, with an end token."""
    return [*env.tokenizer.encode(env.sample.references[0]), env.tokenizer.end_id]


def scalar_end(env_id, index):
    """The info in which the first response of a sample ends, the response being the best reference."""
    env = gym.make(env_id, reward="gold").unwrapped
    env.reset(options={"sample_index": index})
    for token in references(env):
        *_, info = env.step(token)
    return info


def vector_end(env_id, indices, mode):
    """The same of a vector env's lanes, as one dict a lane."""
    env = gym.make_vec(env_id, num_envs=len(indices), reward="gold", autoreset_mode=mode).unwrapped
    env.reset(options={"sample_index": indices})
    tokens = [[*env.tokenizer.encode(s.references[0]), env.tokenizer.end_id] for s in env.samples]
    ends = [None] * len(indices)
    for step in range(max(map(len, tokens))):
        *_, infos = env.step(np.array([row[min(step, len(row) - 1)] for row in tokens]))
        for source in (infos, infos.get("final_info", {})):
            for lane in np.flatnonzero(source.get("_response", [])):
                if ends[lane] is None:
                    ends[lane] = {k: v[lane] for k, v in source.items() if k[0] != "_" and source[f"_{k}"][lane]}
    return ends


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("env_id", IDS)
def test_parts_and_family_of_a_lane_are_those_of_the_scalar_env(env_id, mode):
    indices = [0, 1, 2, 3]
    for index, there in zip(indices, vector_end(env_id, indices, mode), strict=True):
        here = scalar_end(env_id, index)
        assert {key: there[key] for key in here} == here
        assert {k.removeprefix("gold/") for k in here if k.startswith("gold/")} == NAMES
        assert here["family"]


@pytest.mark.parametrize("env_id", IDS)
def test_gold_is_the_product_of_its_parts(env_id):
    info = scalar_end(env_id, 5)
    assert info["gold"] == math.prod(value for key, value in info.items() if key.startswith("gold/"))


@pytest.mark.parametrize("env_id", IDS)
def test_an_info_for_another_party_has_neither_parts_nor_family(env_id):
    assert set(without_gold(scalar_end(env_id, 0))) == {"response", "stop"}


def test_a_response_without_known_gold_has_no_parts():
    env = mmenv.TokenVectorEnv(Unknown, 2, reward=lambda samples, responses: [0.0] * len(samples))
    env.reset(options={"sample_index": [0, 1]})
    *_, infos = env.step([env.tokenizer.end_id] * 2)
    ended = mmenv.finished(infos)
    assert ended.gold_parts == {}
    assert ended.family == ["", ""]
    assert np.isnan(ended.gold).tolist() == [False, True]


def test_strange_words_cost_grammar_and_long_answers_brevity():
    task = VQA()
    sample = task.sample("test", 0)
    answer = sample.references[0]
    assert task.gold_parts(sample, Response(f"It is {answer}.")) == {"correct": 1.0, "brevity": 1.0, "grammar": 1.0}
    wordy = f"in this picture it is {answer} and i think that it is just {answer} as i see it ."
    parts = task.gold_parts(sample, Response(wordy))
    assert (parts["correct"], parts["brevity"]) == (1.0, 12 / len(wordy.removesuffix(" .").split()))
    assert task.gold_parts(sample, Response(f"{answer} zzz"))["grammar"] == 0.9
    assert task.gold_parts(sample, Response("nothing at all"))["correct"] == 0.0
    caption = Captioning().sample("test", 0)
    assert Captioning().gold_parts(caption, Response(caption.references[0] + " zzz zzz"))["grammar"] == 0.8


def test_an_evaluation_has_the_means_of_parts_and_the_gold_of_families():
    def yes(observations, state, starts):
        words = observations["response"]
        return np.where((words != 0).any(1), tokenizer.end_id, tokenizer.encode("yes")[0])

    tokenizer = VQA().tokenizer
    result = mmenv.evaluate(yes, "mmenv/VQA-v0", reward="gold", episodes=60, num_envs=16)
    families = {row.sample.family for row in result.rows}
    assert set(result.families) == families
    assert list(result.families) == sorted(families)
    assert len(families) > 5
    for family in families:
        assert result.families[family] == np.mean([r.gold for r in result.rows if r.sample.family == family])
    assert result.gold_parts == {"brevity": 1.0, "correct": pytest.approx(result.gold), "grammar": 1.0}
    assert result.families["count"] == 0.0 < result.families["existence"]
