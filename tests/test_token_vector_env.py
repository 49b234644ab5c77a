"""The native vector environment keeps the contract, and each of its lanes is the scalar one."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from toys import BLUE, END, GREEN, NAMES, PAD, RED, Colours, Counted

import mmenv
from mmenv.rewards.base import RewardError

ID, TALK = "toy/Colours-v0", "toy/Talk-v0"


def make(env_id=ID, num_envs=3, mode="SameStep", **arguments):
    return gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode, **arguments)


def tokens(seed=0, steps=60, lanes=3, vocabulary=14):
    """Random tokens in which every one of the vocabulary but padding comes, ends too."""
    return np.random.default_rng(seed).integers(1, vocabulary, (steps, lanes))


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[k] == b[k]).all() and a[k].dtype == b[k].dtype for k in a)


def row(observations: dict, lane: int) -> dict:
    return {k: v[lane] for k, v in observations.items()}


def test_make_vec_gives_the_native_env_with_its_autoreset_mode():
    env = gym.make_vec(ID, num_envs=2)
    assert type(env) is mmenv.TokenVectorEnv
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert make(mode=AutoresetMode.DISABLED).metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert mmenv.TokenVectorEnv.metadata.get("autoreset_mode") is None


@pytest.mark.parametrize("mode", ["NextStep", "next_step", AutoresetMode.NEXT_STEP])
def test_next_step_is_refused_by_name(mode):
    with pytest.raises(ValueError, match=r"NEXT_STEP.*SAME_STEP"):
        make(mode=mode)


def test_observations_lie_in_the_batched_space():
    env = make(TALK)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for action in tokens():
        assert env.observation_space.contains(env.step(action)[0])


@pytest.mark.parametrize("env_id", [ID, TALK, "toy/Unknown-v0"])
def test_a_lane_under_same_step_is_the_scalar_env_step_by_step(env_id):
    env, scalars = make(env_id), [gym.make(env_id).unwrapped for _ in range(3)]
    observations, infos = env.reset(seed=40)
    for lane, scalar in enumerate(scalars):
        observation, info = scalar.reset(seed=40 + lane)
        assert same(observation, row(observations, lane))
        assert info == {"sample_index": infos["sample_index"][lane], "sample_id": infos["sample_id"][lane]}
    for action in tokens():
        observations, rewards, terminated, truncated, infos = env.step(action)
        for lane, scalar in enumerate(scalars):
            observation, reward, over, cut, info = scalar.step(action[lane])
            assert (reward, over, cut) == (rewards[lane], terminated[lane], truncated[lane])
            source = infos["final_info"] if over else infos
            for key in ("response", "stop", "gold"):
                given = bool(key in source and source[f"_{key}"][lane])
                assert given == (key in info)
                assert not given or source[key][lane] == info[key]
            if over:
                assert same(observation, infos["final_obs"][lane])
                observation, info = scalar.reset()
                assert info == {"sample_index": infos["sample_index"][lane], "sample_id": infos["sample_id"][lane]}
            assert same(observation, row(observations, lane))


@pytest.mark.parametrize("env_id", [ID, TALK, "toy/Unknown-v0"])
@pytest.mark.parametrize("masking", [False, True])
def test_native_env_agrees_with_gymnasiums_sync_vector_env(env_id, masking):
    reward = mmenv.WeightedSum((Counted(), 1.0), (mmenv.LengthPenalty(0.1), 1.0))
    arguments = {"reward": reward, "action_masking": masking}
    native = make(env_id, **arguments)
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    sync = gym.make_vec(env_id, num_envs=3, vectorization_mode="sync", vector_kwargs=same_step, **arguments)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    (one, info), (two, other) = native.reset(seed=8), sync.reset(seed=8)
    assert same(one, two)
    for action in [None, *tokens()]:
        if action is not None:
            (one, *numbers, info), (two, *others, other) = native.step(action), sync.step(action)
            assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(numbers, others, strict=True))
        assert same(one, two)
        assert_infos(info, other)


def assert_infos(info: dict, other: dict) -> None:
    """The same keys, masks, types, and values under the masks."""
    assert info.keys() == other.keys()
    for key in (k for k in info if not k.startswith("_")):
        mask = info[f"_{key}"]
        assert (mask == other[f"_{key}"]).all()
        if key == "final_info":
            assert_infos(info[key], other[key])
        elif key == "final_obs":
            assert all(same(info[key][i], other[key][i]) for i in np.flatnonzero(mask))
        else:
            assert info[key].dtype == other[key].dtype
            assert (info[key][mask] == other[key][mask]).all()


def test_async_vector_env_agrees_too():
    native = make(TALK, 2)
    spread = gym.make_vec(
        TALK, num_envs=2, vectorization_mode="async", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    try:
        assert same(native.reset(seed=1)[0], spread.reset(seed=1)[0])
        for action in tokens(lanes=2, steps=20):
            (one, *numbers, info), (two, *others, other) = native.step(action), spread.step(action)
            assert same(one, two)
            assert all((a == b).all() for a, b in zip(numbers, others, strict=True))
            assert_infos(info, other)
    finally:
        spread.close()


def test_the_lanes_that_finish_in_a_step_are_scored_in_one_call():
    counted = Counted()
    env = make(num_envs=4, reward=counted)
    env.reset(seed=0)
    env.step([RED, RED, RED, RED])
    env.step([END, RED, END, END])
    env.step([RED, END, RED, RED])
    assert counted.calls == [3, 1]


def test_parts_of_a_composed_reward_are_reported_with_masks_and_computed_once():
    counted = Counted()
    env = make(reward=mmenv.WeightedSum((counted, 1.0), (mmenv.LengthPenalty(0.5), 2.0)), mode="Disabled")
    env.reset(options={"sample_index": [0, 4, 8]})
    _, rewards, _, _, infos = env.step([END, RED, END])
    assert infos["_rewards/counted"].tolist() == [True, False, True]
    assert infos["rewards/counted"][[0, 2]].tolist() == [1.0, 3.0]
    assert rewards.tolist() == [0.0, 0.0, 2.0]
    assert counted.calls == [2]
    assert mmenv.finished(infos).parts["length"].tolist() == [-0.5, -0.5]


def test_ended_lanes_wait_under_disabled_and_ignore_their_actions():
    env = make(mode="Disabled")
    env.reset(options={"sample_index": [0, 1, 2]})
    first = env.step([END, RED, RED])
    assert first[2].tolist() == [True, False, False]
    assert first[4]["_response"].tolist() == [True, False, False]
    second = env.step([-77, GREEN, END])
    assert same(row(second[0], 0), row(first[0], 0))
    assert second[1].tolist() == [0.0, 0.0, 0.0]
    assert second[2].tolist() == [True, False, True]
    assert second[4]["_response"].tolist() == [False, False, True]
    assert "final_obs" not in second[4]
    env.step([0, END, 0])
    with pytest.raises(ResetNeeded):
        env.step([RED, RED, RED])


def test_reset_mask_restarts_some_lanes_and_leaves_the_others():
    env = make(mode="Disabled")
    before, _ = env.reset(options={"sample_index": [0, 1, 2]})
    env.step([END, GREEN, GREEN])
    options = {"reset_mask": np.array([True, False, False]), "sample_index": [5, 0, 0]}
    after, infos = env.reset(options=options)
    assert infos["sample_index"][0] == 5
    assert infos["_sample_index"].tolist() == [True, False, False]
    assert after["response"].tolist() == [[PAD] * 4, [GREEN, PAD, PAD, PAD], [GREEN, PAD, PAD, PAD]]
    assert (after["image"][1:] == before["image"][1:]).all()
    assert list(options) == ["reset_mask", "sample_index"], "the caller's options were changed"
    assert env.step([BLUE, END, END])[2].tolist() == [False, True, True]


def test_reset_mask_seeds_the_masked_lanes_alone():
    env = make(mode="Disabled")
    env.reset(seed=0)
    other = make(mode="Disabled")
    other.reset(seed=0)
    env.reset(seed=9, options={"reset_mask": np.array([False, True, False])})
    here, there = env.reset()[1]["sample_index"], other.reset()[1]["sample_index"]
    assert here[[0, 2]].tolist() == there[[0, 2]].tolist()
    lane = gym.make(ID)
    lane.reset(seed=10)
    assert here[1] == lane.reset()[1]["sample_index"]


@pytest.mark.parametrize(
    ("mode", "mask", "message"),
    [
        ("SameStep", np.array([True, False, False]), "Disabled"),
        ("Disabled", np.array([True, False]), "3 bools"),
        ("Disabled", np.array([1, 0, 0]), "3 bools"),
        ("Disabled", np.zeros(3, bool), "no lane"),
    ],
)
def test_a_wrong_reset_mask_is_refused(mode, mask, message):
    env = make(mode=mode)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"reset_mask": mask})


def test_the_first_reset_is_of_all_lanes():
    with pytest.raises(ResetNeeded):
        make(mode="Disabled").reset(options={"reset_mask": np.array([True, False, False])})


def test_seeds_may_be_a_number_a_list_or_none():
    drawn = [make().reset(seed=s)[1]["sample_index"].tolist() for s in (3, [3, 4, 5])]
    assert drawn[0] == drawn[1]
    env = make()
    drawn = env.reset(seed=[3, None, 5])[1]["sample_index"]
    assert drawn[[0, 2]].tolist() == make().reset(seed=3)[1]["sample_index"][[0, 2]].tolist()
    with pytest.raises(ValueError, match="2 numbers for 3 lanes"):
        env.reset(seed=[1, 2])


def test_sample_index_gives_groups_of_one_sample():
    _, infos = make().reset(options={"sample_index": np.array([7, 7, 7])})
    assert infos["sample_id"].tolist() == ["colours/7"] * 3


def test_copied_observations_never_change_later_and_may_be_written_to():
    env, other = make(copy=True), make(copy=True)
    given, other_given = [env.reset(seed=0)[0]], [other.reset(seed=0)[0]]
    kept = copy.deepcopy(given)
    for action in tokens(steps=20):
        given.append(env.step(action)[0])
        kept.append(copy.deepcopy(given[-1]))
        other_given = other.step(action)[0]
        assert same(given[-1], other_given)
        for array in other_given.values():
            array[...] = 1
    assert all(same(a, b) for a, b in zip(given, kept, strict=True))


def test_final_observations_never_change_later():
    env = make()
    env.reset(seed=0)
    final = env.step([END, RED, RED])[4]["final_obs"][0]
    before = copy.deepcopy(final)
    for action in tokens(steps=10):
        env.step(action)
    assert same(final, before)


def test_uncopied_observations_are_the_same_arrays():
    env = make(copy=False)
    first, _ = env.reset(seed=0)
    second = env.step([RED, RED, RED])[0]
    assert np.shares_memory(first["image"], second["image"])
    assert first["response"][:, 0].tolist() == [RED] * 3


def test_max_episode_steps_truncates_unpaid_under_same_step():
    env = make(max_episode_steps=2)
    env.reset(seed=0)
    env.step([RED, END, RED])
    _, rewards, terminated, truncated, infos = env.step([RED, RED, END])
    assert terminated.tolist() == [False, False, True]
    assert truncated.tolist() == [True, False, False]
    assert rewards[0] == 0.0
    assert infos["_final_obs"].tolist() == [True, False, True]
    assert infos["final_info"]["_response"].tolist() == [False, False, True]
    assert infos["final_obs"][0]["response"].tolist() == [RED, RED, PAD, PAD]


def test_truncated_lanes_wait_under_disabled():
    env = make(max_episode_steps=2, mode="Disabled")
    env.reset(seed=0)
    env.step([RED, END, RED])
    _, _, terminated, truncated, _ = env.step([RED, RED, RED])
    assert (terminated.tolist(), truncated.tolist()) == ([False, True, False], [True, False, True])
    with pytest.raises(ResetNeeded):
        env.step([RED, RED, RED])


def test_a_reply_inside_a_dialogue_is_reported_at_the_top_level():
    env = make(TALK, 2)
    env.reset(options={"sample_index": [2, 3]})  # two and three replies
    env.step([END, END])
    observations, _, terminated, _, infos = env.step([RED, END])
    assert terminated.tolist() == [False, False]
    assert infos["_response"].tolist() == [False, True]
    assert "final_info" not in infos
    assert observations["prompt"][1, :4].tolist() == [11, 12, 11, 12]
    _, _, terminated, _, infos = env.step([END, END])
    assert terminated.tolist() == [True, True]
    assert infos["final_info"]["_response"].tolist() == [True, True]
    assert "response" not in infos


def test_replies_and_ends_in_one_step_go_to_their_places():
    env = make(TALK, 2)
    env.reset(options={"sample_index": [2, 3]})
    env.step([END, RED])
    _, rewards, terminated, _, infos = env.step([BLUE, RED])
    _, rewards, terminated, _, infos = env.step([END, END])
    assert terminated.tolist() == [True, False]
    assert infos["_response"].tolist() == [False, True]
    assert infos["final_info"]["_response"].tolist() == [True, False]
    ended = mmenv.finished(infos)
    assert ended.lanes.tolist() == [0, 1]
    assert ended.response == ["blue", "red red"]
    assert ended.gold.tolist() == [1.0, 1.0]
    assert rewards.tolist() == [1.0, 1.0]


def test_finished_finds_nothing_where_nothing_ended():
    env = make()
    _, infos = env.reset(seed=0)
    assert mmenv.finished(infos).lanes.tolist() == []
    assert mmenv.finished(env.step([RED] * 3)[4]).gold.shape == (0,)


def test_finished_marks_unknown_gold_as_nan():
    env = make("toy/Unknown-v0", mode="Disabled")
    env.reset(options={"sample_index": [0, 1, 2]})
    ended = mmenv.finished(env.step([END, END, RED])[4])
    assert ended.lanes.tolist() == [0, 1]
    assert np.isnan(ended.gold).tolist() == [False, True]
    assert ended.stop == ["eos", "eos"]


def test_masks_forbid_padding_in_every_lane():
    env = make(action_masking=True)
    _, infos = env.reset(seed=0)
    masks = env.unwrapped.action_masks()
    assert masks.shape == (3, 14)
    assert masks.dtype == bool
    assert (np.flatnonzero(~masks.all(0)) == PAD).all()
    assert (infos["action_mask"] == masks).all()
    assert env.step([RED, END, RED])[4]["_action_mask"].all()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([RED, RED, 14], "action 14 of lane 2"),
        ([RED, -1, RED], "action -1 of lane 1"),
        ([RED, RED], "shape"),
        ([[RED], [RED], [RED]], "shape"),
        ([3.0, 3.0, 3.0], "float64"),
        ([3, float("nan"), 3], "nan"),
        (["red", "red", "red"], "red"),
        ([True, False, True], "bool"),
        (None, "None"),
        (RED, "3"),
    ],
)
def test_anything_outside_the_vocabulary_raises_and_names_it(actions, message):
    env = make()
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        env.step(actions)
    assert not env.lengths.any(), "the refused actions left a trace"


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda a: np.array(a, np.int32), lambda a: np.array(a, np.uint8)]
)
def test_integers_of_every_kind_are_actions(kind):
    env = make()
    env.reset(seed=0)
    assert env.step(kind([RED, GREEN, BLUE]))[0]["response"][:, 0].tolist() == [RED, GREEN, BLUE]


def test_step_before_reset_needs_one():
    with pytest.raises(ResetNeeded):
        make().step([RED, RED, RED])


def test_the_callers_actions_are_left_alone():
    env, actions = make(), np.array([RED, GREEN, END])
    env.reset(seed=0)
    env.step(actions)
    assert actions.tolist() == [RED, GREEN, END]


def test_a_reward_that_raises_stops_the_episodes():
    env = make(reward=lambda samples, responses: [float("inf")] * len(samples))
    env.reset(seed=0)
    with pytest.raises(RewardError, match="colours/"):
        env.step([END, RED, RED])
    with pytest.raises(ResetNeeded):
        env.step([RED, RED, RED])


def test_lengths_and_samples_follow_the_lanes():
    env = make(mode="Disabled")
    env.reset(options={"sample_index": [3, 4, 5]})
    env.step([RED, BLUE, END])
    env.step([RED, END, END])
    assert env.lengths.tolist() == [2, 2, 1]
    assert [s.index for s in env.samples] == [3, 4, 5]


def test_a_pickle_goes_on_as_the_original_does():
    env = make(TALK)
    env.reset(seed=0)
    env.step([RED, END, BLUE])
    twin = pickle.loads(pickle.dumps(env))
    for action in tokens(steps=20):
        (one, *numbers, info), (two, *others, other) = env.step(action), twin.step(action)
        assert same(one, two)
        assert all((a == b).all() for a, b in zip(numbers, others, strict=True))
        assert_infos(info, other)


def test_gymnasiums_statistics_wrapper_counts_episodes():
    env = RecordEpisodeStatistics(make())
    env.reset(options={"sample_index": [0, 1, 2]})
    infos = env.step([END, END, END])[4]
    assert infos["episode"]["l"].tolist() == [1, 1, 1]


def test_a_lane_is_viewed_with_its_earlier_replies():
    env = make(TALK, 2, "Disabled", render_mode="ansi")
    env.reset(options={"sample_index": [2, 3]})
    env.step([RED, RED])
    env.step([END, END])
    assert [r.response for r in env.view(1).history] == ["red"]
    env.step([END, RED])
    assert (env.view(0).stop, env.view(0).response, env.view(0).gold) == ("eos", "", 0.0)
    assert [r.response for r in env.view(0).history] == [NAMES[0]]
    assert env.view(1).tokens_used == 1


class BreaksLater(Colours):
    """Samples can be made until ``broken``."""

    broken = False

    def sample(self, split, index):
        if self.broken:
            raise ValueError("a broken picture")
        return super().sample(split, index)


def test_a_failed_autoreset_asks_for_a_reset_and_nothing_is_half_begun():
    env = mmenv.TokenVectorEnv(BreaksLater, 3, reward="gold")
    env.reset(options={"sample_index": [0, 1, 2]})
    env.task.broken = True
    for _ in range(3):
        env.step([RED] * 3)
    with pytest.raises(ValueError, match="a broken picture"):
        env.step([RED] * 3)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step([RED] * 3)
    env.task.broken = False
    observations, _ = env.reset(options={"sample_index": [0, 1, 2]})
    assert (observations["response"] == PAD).all()
    assert env.step([END] * 3)[2].all()


def test_a_failed_reset_of_some_lanes_asks_for_a_reset_of_all():
    env = mmenv.TokenVectorEnv(BreaksLater, 3, autoreset_mode="Disabled", reward="gold")
    env.reset(options={"sample_index": [0, 1, 2]})
    env.task.broken = True
    mask = np.array([True, False, False])
    with pytest.raises(ValueError, match="a broken picture"):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(ResetNeeded):
        env.step([RED] * 3)
    env.task.broken = False
    with pytest.raises(ResetNeeded, match="all"):
        env.reset(options={"reset_mask": mask})
    env.reset()


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_padding_raises_names_its_lane_and_leaves_no_trace(mode):
    env = make(mode=mode)
    env.reset(seed=0)
    env.step([RED] * 3)
    with pytest.raises(InvalidAction, match=r"action 0 of lane 1 is padding.*mask it"):
        env.step([END, PAD, RED])
    assert env.lengths.tolist() == [1, 1, 1]
    assert mmenv.finished(env.step([END, END, RED])[4]).lanes.tolist() == [0, 1]


def test_lanes_that_wait_for_their_reset_may_be_given_padding():
    env = make(mode="Disabled")
    env.reset(seed=0)
    env.step([END, RED, RED])
    env.step([PAD, END, RED])
    with pytest.raises(InvalidAction, match="of lane 2 is padding"):
        env.step([PAD, PAD, PAD])


def test_actions_drawn_at_random_are_never_padding_also_in_gymnasiums_vector_env():
    sync = gym.make_vec(ID, num_envs=64, vectorization_mode="sync")
    for env in (make(num_envs=64), sync):
        env.action_space.seed(0)
        env.reset(seed=0)
        drawn = np.concatenate([env.action_space.sample() for _ in range(20)])
        assert drawn.dtype == np.int64
        assert np.unique(drawn).tolist() == [t for t in range(14) if t != PAD]
        env.step(env.action_space.sample())
