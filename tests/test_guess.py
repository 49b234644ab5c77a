"""The guessing game as an environment: what is paid, when it ends, what is observed, and how well one can play."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_examples import gain, run
from test_rollout import setting
from toys import Counted, Talk

import mmenv
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.demonstrations import demonstrations
from agents.rollouts.rollout import rollout
from agents.settings.ids import shipped_start
from mmenv.arguments import ArgumentError
from mmenv.data.sample import Response
from mmenv.envs.checker import ConformanceError, check_env
from mmenv.models.checkpoints import save_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.rewards.base import LengthPenalty, WeightedSum
from mmenv.tasks.guess import OPENING, TURNS, Guess
from mmenv.worlds.guessing import UNREAD, answer, read_query
from mmenv.worlds.questioner import Questioner, random_question
from mmenv.worlds.speech import speakable
from mmenv.worlds.vocabulary import world_tokenizer

ENV_ID = "mmenv/Guess-v0"
SPLITS = ("train", "validation", "test", "comp")


def named(sample):
    return f"it is the {sample.truth.target.name} ."


def other(sample):
    """A wrong guess."""
    thing = next(t for t in sample.truth.scene.things if t is not sample.truth.target)
    return f"it is the {thing.name} ."


def say(env, text):
    """The last step of a reply."""
    for token in [*env.unwrapped.tokenizer.encode(text), env.unwrapped.tokenizer.end_id]:
        step = env.step(token)
    return step


def game(task, split, index, reply=lambda sample: sample.references[0]):
    """The turns of a game, and the response to each."""
    sample = task.sample(split, index)
    while sample is not None:
        response = Response(reply(sample))
        yield sample, response
        sample = task.follow_up(sample, response)


@pytest.mark.parametrize("right", [True, False])
def test_a_question_pays_nothing_and_a_guess_ends_the_game(right):
    env = gym.make(ENV_ID)
    env.reset(seed=0)
    _, reward, over, _, info = say(env, "is it an animal ?")
    assert (reward, over) == (0.0, False)
    assert {key for key in info if "gold" in key or "reward" in key} == set()
    assert info["family"].endswith("things")
    sample = env.unwrapped.sample
    assert sample.said in ("yes", "no")
    _, reward, over, truncated, info = say(env, named(sample) if right else other(sample))
    assert (reward, over, truncated) == (float(right), True, False)
    assert info["gold"] == info["gold/correct"] == float(right)


@pytest.mark.parametrize("level", TURNS)
@pytest.mark.parametrize("last", ["is it an animal ?", "", "guess"])
def test_the_last_turn_has_to_be_the_guess(level, last):
    env = gym.make(ENV_ID, level=level)
    env.reset(seed=1)
    for _ in range(TURNS[level] - 1):
        _, reward, over, _, info = say(env, "where is it ?")
        assert (reward, over, "gold" in info) == (0.0, False, False)
    _, reward, over, _, info = say(env, named(env.unwrapped.sample) if last == "guess" else last)
    assert over
    assert reward == info["gold"] == float(last == "guess")


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_lanes_report_gold_and_components_with_the_last_reply_alone(mode):
    reward = WeightedSum((Counted(), 1.0), (LengthPenalty(), 1.0))
    env = gym.make_vec(ENV_ID, num_envs=2, reward=reward, autoreset_mode=mode).unwrapped
    env.reset(seed=0)
    texts = [named(env.samples[0]), "is it the animal"]  # as many tokens in both lanes
    rows = np.array([env.tokenizer.encode(text)[:4] + [env.tokenizer.end_id] for text in ("is it large ?", texts[1])])
    rows[0] = [*env.tokenizer.encode(texts[0])[:4], env.tokenizer.end_id]
    for actions in rows.T:
        _, rewards, terminated, _, infos = env.step(actions)
    ended = mmenv.finished(infos)
    assert terminated.tolist() == [True, False]
    assert ended.lanes.tolist() == [0, 1]
    assert ended.gold[0] == ended.gold_parts["correct"][0] == 1.0
    assert np.isnan([ended.gold[1], ended.gold_parts["correct"][1], ended.parts["counted"][1]]).all()
    assert rewards[1] == 0.0 != rewards[0]
    assert reward.parts[0][0].calls == [1]  # the question was not scored


def test_a_reward_that_pays_at_tokens_is_refused():
    class Early(Counted):
        def per_token(self, samples, responses):
            return np.zeros((len(samples), 12), np.float32)

    with pytest.raises(ArgumentError, match="guess pays at the end of an episode only"):
        gym.make(ENV_ID, reward=Early())


def test_an_evaluation_has_one_gold_an_episode():
    class Player:
        """Asks once, then guesses right."""

        def __init__(self):
            self.env = gym.make_vec(ENV_ID, num_envs=4, split="test").unwrapped
            self.task, self.encode = self.env.task, self.env.tokenizer.encode
            self.index = np.arange(4)

        def act(self, observations, state, starts):
            written = (observations["response"] != 0).sum(1)
            asked = (observations["prompt"] != 0).any(1)
            actions = np.ones(4, int)
            for lane in range(4):
                target = self.task.sample("test", lane).truth.target
                text = f"it is the {target.name} ." if asked[lane] else "where is it ?"
                tokens = [*self.encode(text), 1]
                actions[lane] = tokens[min(written[lane], len(tokens) - 1)]
            return actions

    result = mmenv.evaluate(Player().act, ENV_ID, episodes=4, num_envs=4)
    assert (result.gold, result.reward, result.gold_interval) == (1.0, 1.0, (1.0, 1.0))
    assert len(result.rows) == 8
    assert [np.isnan(row.gold) for row in result.rows] == [row.sample.turn == 0 for row in result.rows]
    assert result.gold_parts == {"correct": 1.0}


@pytest.mark.parametrize("level", TURNS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_utterance_is_recorded_and_everything_fits(level, split):
    task, tokenizer = Guess(level=level), world_tokenizer()
    plays = [lambda s: s.references[0], lambda s: "what color is the plate under it ?", lambda s: "it " * 11]
    for index in range(12):
        for play in plays:
            for sample, _ in game(task, split, index, play):
                assert speakable(sample.said)
                assert sample.prompt == tokenizer.decode(tokenizer.encode(sample.prompt))
                assert len(tokenizer.encode(sample.prompt)) <= task.max_prompt_tokens
                assert len(sample.audio) <= task.max_audio_samples
                assert len(tokenizer.encode(sample.references[0])) < task.max_response_tokens


def test_earlier_answers_are_in_the_prompt_and_the_last_one_is_heard_alone():
    task = Guess()
    texts = iter(["is it large ?", "where is it ?", "is there a dog ?", "it is the dog ."])
    turns = [sample for sample, _ in game(task, "test", 3, lambda sample: next(texts))]
    assert (turns[0].prompt, turns[0].said) == ("", OPENING)
    assert turns[1].prompt == "is it large ?"
    assert turns[2].prompt == f"is it large ? {turns[1].said} where is it ?"
    assert turns[3].prompt == f"{turns[2].prompt} {turns[2].said} is there a dog ?"
    assert turns[3].said == UNREAD
    assert turns[3].truth.candidates == turns[2].truth.candidates


def test_the_answer_is_heard_though_the_prompt_is_the_same():
    task = Guess()
    heard = {}
    for index in range(30):
        first = task.sample("train", index)
        second = task.follow_up(first, Response("is it large ?"))
        heard.setdefault(second.said, []).append(second)
    assert set(heard) == {"yes", "no"}
    assert {sample.prompt for some in heard.values() for sample in some} == {"is it large ?"}


@pytest.mark.parametrize("level", TURNS)
def test_right_play_asks_what_tells_candidates_apart_and_guesses_one_of_them(level):
    task = Guess(level=level)
    won = []
    for index in range(150):
        for sample, response in game(task, "train", index):
            truth, query = sample.truth, read_query(response.text)
            assert truth.target in truth.candidates
            if query.kind == "name":
                assert query.name in {thing.name for thing in truth.candidates}
                assert len(truth.candidates) == 1 or sample.turn == TURNS[level] - 1
            else:
                assert len({answer(truth.scene, thing, query) for thing in truth.candidates}) > 1
        won.append(task.gold(sample, response))
    # Not the best questions, so that there is something to learn.
    assert 0.6 < np.mean(won) < 0.97


def test_questions_drawn_at_random_are_of_every_kind():
    import random

    task, rng = Guess(), random.Random(0)
    kinds = set()
    for index in range(40):
        scene = task.sample("train", index).truth.scene
        query = random_question(scene, scene.things, rng)
        kinds.add((query.kind, query.value is None))
    assert {kind for kind, _ in kinds} == {"category", "size", "plate", "mark", "place", "relation"}
    assert {asks for _, asks in kinds} == {True, False}
    twins = scene.things[:1] * 2
    assert random_question(scene, twins, rng) is None


def test_the_optimum_is_what_the_best_questioner_of_each_game_reaches():
    task = Guess()
    scenes = [task.sample("test", index).truth.scene for index in range(4)]
    assert task.optimal_success("test", 4) == np.mean([Questioner(scene).success(3) for scene in scenes])
    assert task.optimal_success("test", 4) == 1.0


@pytest.mark.parametrize("level", TURNS)
def test_the_same_index_is_the_same_game(level):
    for one, two in zip(game(Guess(level=level), "comp", 5), game(Guess(level=level), "comp", 5), strict=True):
        assert one[0].id == two[0].id
        assert one[1] == two[1]
        assert (one[0].image == two[0].image).all()
        assert (one[0].audio == two[0].audio).all()


def test_shift_changes_how_a_game_looks_and_sounds_and_not_what_is_right():
    plain, shifted = Guess().sample("test", 2), Guess(shift=1.0).sample("test", 2)
    assert (plain.image != shifted.image).any()
    assert plain.truth.target.name == shifted.truth.target.name
    assert plain.references == shifted.references
    assert plain.id != shifted.id
    assert Guess(shift=1.0).sample("validation", 2).id == Guess().sample("validation", 2).id


def test_games_of_comp_show_held_out_plates_alone():
    from mmenv.worlds.scenes import held_out

    things = [t for index in range(20) for t in Guess().sample("comp", index).truth.scene.things]
    assert all(held_out(t.concept, t.colour) for t in things if t.colour is not None)


def test_demonstrations_are_questions_and_guesses_with_their_history():
    env = gym.make_vec(ENV_ID, num_envs=1).unwrapped
    torch.manual_seed(0)
    network = Network(NetworkConfig(world_tokenizer().vocab_size, width=16, layers=1, heads=2))
    batch = demonstrations(TokenPolicy(network, 12), env, 16, *np.random.default_rng(0).spawn(2))
    assert {sample.turn for sample in batch.samples} >= {0, 1, 2}
    assert [sample.references[0] for sample in batch.samples] == batch.texts


def test_in_a_rollout_every_reply_has_the_score_of_its_game():
    """Else an algorithm that learns reply by reply would never learn to ask."""
    env = gym.make_vec(ENV_ID, num_envs=6, autoreset_mode="Disabled", reward=Counted()).unwrapped
    torch.manual_seed(0)
    network = Network(NetworkConfig(world_tokenizer().vocab_size, width=16, layers=1, heads=2))
    batch = rollout(TokenPolicy(network, 12, generator=torch.Generator().manual_seed(0)), env)
    scores = {}
    for sample, score in zip(batch.samples, batch.scores.tolist(), strict=True):
        scores.setdefault(sample.index, set()).add(score)
    assert len(batch.samples) > 6
    assert all(len(values) == 1 and min(values) > 0 for values in scores.values())


def test_in_other_dialogues_every_reply_has_a_score_of_its_own():
    env, policy = setting(num_envs=4, reward=Counted())
    assert not env.task.pays_at_end
    batch = rollout(policy, env)
    expected = [int(n) + 0.25 * s.index for n, s in zip(batch.mask.sum(1), batch.samples, strict=True)]
    assert batch.scores.tolist() == expected


def test_policies_on_every_id_of_the_game_begin_as_its_own_start():
    for variant in ("", "Hard", "Shifted"):
        assert shipped_start(f"mmenv/Guess{variant}-v0") == "start-guess"
    assert shipped_start("mmenv/VQA-v0") == "start"


@pytest.mark.slow
def test_the_example_trains_plays_and_prints_the_optimum(tmp_path):
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "heads": 2}
    save_network(Network(NetworkConfig(world_tokenizer().vocab_size, **sizes)), tmp_path / "tiny.safetensors")
    few = ("--total-tokens", "600", "--num-envs", "8", "--episodes", "4")
    said = run("guess.py", *few, "--start", str(tmp_path / "tiny.safetensors"), "--out", str(tmp_path / "run"))
    assert -1 <= gain(said) <= 1
    assert "optimum: 1.000" in said
    assert said.count(f"user: {OPENING}") == 2 * 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 2


class Late(Talk):
    """A dialogue of which the last reply alone is paid."""

    pays_at_end = True


def generous_step(self, action):
    observation, reward, *over, info = mmenv.TokenEnv.step(self, action)
    return observation, reward + float("response" in info), *over, info


def test_a_task_of_ones_own_is_paid_at_the_end_too_and_the_checker_sees_to_it():
    assert check_env(mmenv.TokenEnv(Late, reward="gold"))
    generous = type("Generous", (mmenv.TokenEnv,), {"step": generous_step})(Late, reward="gold")
    with pytest.raises(ConformanceError, match=r"an earlier reply gave 1\.0"):
        check_env(generous)
    env = mmenv.TokenEnv(Late, reward="gold", render_mode="ansi")
    env.reset(options={"sample_index": 0})
    _, reward, over, _, info = say(env, "red")
    assert (reward, over, "gold" in info) == (0.0, False, False)
    _, reward, over, _, info = say(env, "red")
    assert (reward, over, info["gold"]) == (1.0, True, 1.0)
    assert "gold 1.00" in env.render()
    assert env.render().count("gold") == 1
