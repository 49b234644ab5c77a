"""Branching: a reset with a response prefix gives the episode that has played it, in every environment and rollout."""

from __future__ import annotations

import copy
import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import BLUE, END, GREEN, NAMES, PAD, RED, Colours, Talk

import mmenv
from agents.algorithms.ppo import PPO, PPOConfig
from agents.policies.nucleus import NucleusPolicy
from agents.policies.token_policy import TokenPolicy
from agents.rollouts.batch import to_responses
from agents.rollouts.rollout import rollout
from mmenv.envs.checker import ConformanceError
from mmenv.integrations.sb3 import TokenVecEnv
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.registration import TABLE
from mmenv.wrappers import ReferenceLogProb, VectorReferenceLogProb

ID, TALK = "toy/Colours-v0", "toy/Talk-v0"
SILENT = "toy/SilentTalk-v0"
IDS = [*TABLE, ID, TALK, "toy/Unknown-v0"]


class SilentTalk(Talk):
    """A dialogue without sound, which a tiny network can read."""

    modalities = ("image",)

    def turn(self, index, turn, prompt):
        return dataclasses.replace(super().turn(index, turn, prompt), audio=None)


mmenv.register(SILENT, SilentTalk, reward="gold")


def words_of(env, n: int, seed: int = 0) -> list[int]:
    """Tokens that neither end nor pad."""
    tokenizer = env.get_wrapper_attr("tokenizer")
    plain = [t for t in range(tokenizer.vocab_size) if t != tokenizer.pad_id and t not in tokenizer.eos_ids]
    return np.random.default_rng(seed).choice(plain, n).tolist()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all((a[k] == b[k]).all() and a[k].dtype == b[k].dtype for k in a)


def vector(env_id=ID, num_envs=3, mode="Disabled", **arguments):
    return gym.make_vec(env_id, num_envs=num_envs, autoreset_mode=mode, **arguments)


@pytest.mark.parametrize("env_id", IDS)
def test_a_branched_episode_is_the_replayed_one_to_its_end(env_id):
    arguments = {"reward": "gold"} if env_id in TABLE else {}
    played, branched = gym.make(env_id, **arguments), gym.make(env_id, **arguments)
    budget = played.observation_space["response"].shape[0]
    for length in (1, budget // 2, budget - 1):
        prefix = words_of(played, length, seed=length)
        _, info = played.reset(seed=length)
        for token in prefix:
            observation, *_ = played.step(token)
        start, start_info = branched.reset(options={"sample_index": info["sample_index"], "response": prefix})
        assert same(start, observation)
        assert start_info == info
        terminated, more = False, iter([*words_of(played, 3, seed=99), *[END] * 999])
        while not terminated:
            token = next(more)
            (one, *rest), (two, *others) = played.step(token), branched.step(token)
            assert same(one, two)
            assert rest == others
            terminated = rest[1]


@pytest.mark.parametrize("env_id", [ID, TALK, "toy/Unknown-v0", "mmenv/SpokenDialogue-v0"])
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_a_branched_lane_is_the_branched_scalar_env_with_prefixes_of_any_length(env_id, mode):
    arguments = {"reward": "gold"} if env_id in TABLE else {}
    env, scalar = vector(env_id, 4, mode, **arguments), gym.make(env_id, **arguments)
    prefixes = [words_of(scalar, n, seed=n) for n in (0, 3, 1, 2)]
    options = {"sample_index": [4, 5, 6, 6], "response": prefixes}
    observations, _ = env.reset(seed=0, options=options)
    words = [*words_of(scalar, 2, seed=7), END]
    steps = [env.step([word] * 4) for word in words]
    for lane, prefix in enumerate(prefixes):
        observation, _ = scalar.reset(options={"sample_index": options["sample_index"][lane], "response": prefix})
        assert same(observation, {k: v[lane] for k, v in observations.items()})
        for word, (_, rewards, terminated, _, infos) in zip(words, steps, strict=True):
            _, reward, over, _, info = scalar.step(word)
            assert (reward, over) == (rewards[lane], terminated[lane])
            ended = mmenv.finished(infos)
            responses = dict(zip(ended.lanes.tolist(), ended.response, strict=True))
            assert responses.get(lane) == info.get("response")
            if over:
                break


def test_score_gold_and_response_are_of_the_full_response():
    env = gym.make(ID)
    observation, _ = env.reset(options={"sample_index": 0, "response": [RED, GREEN]})
    assert observation["response"].tolist() == [RED, GREEN, PAD, PAD]
    _, reward, terminated, _, info = env.step(END)
    assert (reward, terminated) == (0.5, True)
    assert info == {"response": "red green", "stop": "eos", "gold": 0.5}


def test_the_prefix_counts_against_the_budget_and_not_against_the_step_limit():
    env = vector(max_episode_steps=2)
    env.reset(options={"sample_index": [0, 1, 2], "response": [[RED, RED, RED], [RED, RED], []]})
    assert env.lengths.tolist() == [3, 2, 0]
    _, _, terminated, truncated, infos = env.step([RED, RED, RED])
    assert (terminated.tolist(), truncated.tolist()) == ([True, False, False], [False, False, False])
    assert infos["stop"][0] == "budget"
    _, _, terminated, truncated, _ = env.step([RED, RED, RED])
    assert (terminated.tolist(), truncated.tolist()) == ([True, True, False], [False, False, True])


def test_in_a_dialogue_the_prefix_is_of_the_first_reply_alone():
    env = gym.make(TALK)
    env.reset(options={"sample_index": 2, "response": [BLUE]})
    observation, _, terminated, _, info = env.step(END)
    assert (terminated, info["response"]) == (False, "blue")
    assert observation["response"].tolist() == [PAD] * 4
    assert observation["prompt"][:3].tolist() == [11, 12, BLUE]


def test_the_next_episode_of_a_lane_begins_with_an_empty_response():
    env = vector(mode="SameStep")
    env.reset(seed=0, options={"response": [[RED]] * 3})
    observations, *_ = env.step([END, END, RED])
    assert observations["response"].tolist() == [[PAD] * 4, [PAD] * 4, [RED, RED, PAD, PAD]]


def test_a_prefix_without_an_index_leaves_the_draw_of_samples_as_it_is():
    plain, branched = gym.make(ID), gym.make(ID)
    assert plain.reset(seed=3)[1] == branched.reset(seed=3, options={"response": [RED]})[1]
    assert plain.reset()[1] == branched.reset()[1]


def test_a_masked_reset_branches_its_lanes_and_ignores_the_others_prefixes():
    env = vector()
    env.reset(options={"sample_index": [0, 1, 2]})
    env.step([END, GREEN, GREEN])
    mask = np.array([True, False, False])
    options = {"reset_mask": mask, "sample_index": [5, 0, 0], "response": [[RED, RED], None, "what"]}
    observations, _ = env.reset(options=options)
    assert observations["response"].tolist() == [[RED, RED, PAD, PAD], [GREEN, PAD, PAD, PAD], [GREEN, PAD, PAD, PAD]]
    assert env.lengths.tolist() == [2, 1, 1]


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda p: np.array(p, np.uint8), lambda p: np.array(p)[:0]])
def test_integers_of_every_kind_are_a_prefix(kind):
    prefix, lanes = kind([RED, GREEN]), kind([RED, GREEN])
    observation, _ = gym.make(ID).reset(options={"response": prefix})
    assert observation["response"][: len(prefix)].tolist() == list(lanes)
    observations, _ = vector(num_envs=2).reset(options={"response": [prefix, prefix]})
    assert observations["response"][1].tolist() == observation["response"].tolist()


WRONG = [
    ([RED, PAD], r"response.*\[3, 0\].*padding \(0\).*before it"),
    ([RED, END], r"response.*\[3, 1\].*end token 1.*before it"),
    ([RED, 14], r"response.* 14, outside \[0, 14\).*tokenizer"),
    ([-1], r"response.* -1, outside"),
    ([RED] * 4, r"response.* 4 tokens.*budget is 4.*at most 3"),
    ([RED] * 9, "at most 3"),
    ("red", r"response.*'red'.*tokenizer\.encode"),
    ([3.0], "not a sequence of tokens"),
    ([True], "not a sequence of tokens"),
    ([[RED]], "not a sequence of tokens"),
    (np.array([[RED]]), "not a sequence of tokens"),
    (np.array([3.0]), "not a sequence of tokens"),
    (np.array(3), "not a sequence of tokens"),
    (RED, "not a sequence of tokens"),
    (None, "not a sequence of tokens"),
    ({RED: 1}, "not a sequence of tokens"),
]


@pytest.mark.parametrize(("prefix", "message"), WRONG)
def test_a_wrong_prefix_is_refused_with_its_value_and_a_remedy_and_changes_nothing(prefix, message):
    env = gym.make(ID)
    env.reset(seed=0)
    env.step(BLUE)
    with pytest.raises(mmenv.ArgumentError, match=message):
        env.reset(options={"response": prefix})
    assert env.step(RED)[0]["response"].tolist() == [BLUE, RED, PAD, PAD]
    lanes = vector(num_envs=2)
    lanes.reset(seed=0)
    lanes.step([BLUE, BLUE])
    with pytest.raises(mmenv.ArgumentError, match=message) as error:
        lanes.reset(options={"response": [[RED], prefix]})
    assert "response[1]" in str(error.value)
    assert lanes.step([RED, RED])[0]["response"].tolist() == [[BLUE, RED, PAD, PAD]] * 2


@pytest.mark.parametrize("prefixes", [[], [[RED]], [[RED]] * 3, "ab", None, 7, np.array(7), np.zeros((3, 0), int)])
def test_prefixes_are_one_a_lane(prefixes):
    with pytest.raises(mmenv.ArgumentError, match=r"response=.* must be 2 sequences of tokens.*\[\]"):
        vector(num_envs=2).reset(options={"response": prefixes})


def values_of(env, sample: int, prefixes: list[list[int]], k: int, policy) -> np.ndarray:
    """Monte Carlo values of the states behind some prefixes, as VinePPO estimates them: k continuations of each.

    Args:
        env: a vector env under DISABLED autoreset, with a lane for each continuation.
        sample: index of the sample.
        prefixes: beginnings of responses to it.
        k: continuations of each.
        policy: observations -> actions.

    Returns:
        mean returns, (number of prefixes,)
    """
    lanes = [prefix for prefix in prefixes for _ in range(k)]
    observations, _ = env.reset(options={"sample_index": [sample] * len(lanes), "response": lanes})
    returns, over = np.zeros(len(lanes)), np.zeros(len(lanes), bool)
    while not over.all():
        observations, rewards, terminated, truncated, _ = env.step(policy(observations))
        returns += rewards
        over = terminated | truncated
    return returns.reshape(-1, k).mean(1)


def test_continuations_of_a_prefix_estimate_its_value_as_vineppo_does():
    """A policy that ends or says the right colour, each half of the time, has values that are known exactly."""
    rng, k = np.random.default_rng(0), 2000
    prefixes: list[list[int]] = [[RED], [GREEN], [GREEN, GREEN], [RED, GREEN, GREEN]]

    def policy(observations):
        return np.where(rng.random(len(observations["response"])) < 0.5, END, RED)

    def exact(right: int, words: int) -> float:
        """Value of a response of so many words: gold is the share of right ones, also of a full response."""
        if words == 4:
            return right / 4
        return 0.5 * right / words + 0.5 * exact(right + 1, words + 1)

    values = values_of(vector(num_envs=len(prefixes) * k), 0, prefixes, k, policy)
    assert values == pytest.approx([exact(p.count(RED), len(p)) for p in prefixes], abs=0.02)
    advantages = values[1:3] - values[[0, 1]]  # not of one path, but each word's effect shows
    assert values[0] == 1.0
    assert (advantages < 0).all()


def policy_of(env, kind=TokenPolicy, budget=4):
    torch.manual_seed(0)
    config = NetworkConfig(env.tokenizer.vocab_size, modalities=env.task.modalities, width=32, layers=2, heads=2)
    arguments = (0.9,) if kind is NucleusPolicy else ()
    return kind(*arguments, Network(config), budget, 1.0, False, torch.Generator().manual_seed(0))


PREFIXES = [[], [RED], [RED, GREEN, BLUE], [GREEN], [], [GREEN, GREEN], [RED], [BLUE, RED]]
OPTIONS = {"sample_index": [1, 1, 1, 2, 2, 3, 3, 4], "response": PREFIXES}


@pytest.mark.parametrize("kind", [TokenPolicy, NucleusPolicy])
@pytest.mark.parametrize("env_id", [ID, SILENT])
def test_a_rollout_goes_on_behind_prefixes_and_scores_what_it_sampled(kind, env_id):
    env = vector(env_id, 8, copy=False).unwrapped
    policy = policy_of(env, kind)
    batch = rollout(policy, env, OPTIONS)
    for i, (prefix, response) in enumerate(zip(PREFIXES, to_responses(batch)[:8], strict=True)):
        assert list(response.tokens[: len(prefix)]) == prefix
        assert len(response.tokens) > len(prefix)
        assert response.text == env.tokenizer.decode(response.tokens)
        sampled = batch.mask[i].nonzero()[:, 0].tolist()
        assert sampled == list(range(len(prefix), len(response.tokens)))
    assert batch.num_tokens == sum(len(r.tokens) for r in to_responses(batch)) - sum(map(len, PREFIXES))
    with torch.no_grad():
        logp, values, _ = policy.evaluate(batch.responses())
        some, *_ = policy.evaluate(batch.responses().select(torch.tensor([2, 1])))
    torch.testing.assert_close(logp, batch.logp, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values * batch.mask, batch.values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(some, logp[[2, 1], : some.shape[1]], atol=1e-5, rtol=1e-4)


def test_only_what_was_sampled_behind_a_prefix_is_learned_from():
    env = vector(num_envs=8, copy=False).unwrapped
    policy = policy_of(env)
    batch = rollout(policy, env, OPTIONS)
    config = PPOConfig(num_envs=8, eval_episodes=0, kl_coef=0.1)
    learner = PPO(config, policy, copy.deepcopy(policy).requires_grad_(False), np.random.default_rng(0))
    data = learner.data(batch, batch.logp - 1.0)
    assert (data.advantages[batch.mask == 0] == 0).all()
    assert (data.returns[batch.mask == 0] == 0).all()
    logs = learner.update(batch, 0.0)
    assert logs["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert logs["kl_k1"] == pytest.approx(0.0, abs=1e-5)


def test_act_reads_the_prefix_that_a_rollout_reads():
    env = vector(num_envs=8, copy=False).unwrapped
    policy = policy_of(env)
    batch = rollout(policy, env, OPTIONS)
    policy.generator.manual_seed(0)
    observations, _ = env.reset(options=OPTIONS)
    actions, logp, values, _ = policy.act(observations, None, np.ones(8, bool))
    first = torch.tensor([len(p) for p in PREFIXES])
    lanes = torch.arange(8)
    assert actions.tolist() == batch.tokens[lanes, first].tolist()
    np.testing.assert_allclose(logp, batch.logp[lanes, first], atol=1e-5)
    np.testing.assert_allclose(values, batch.values[lanes, first], atol=1e-5)


def test_a_reference_reads_the_prefix_and_pays_for_what_follows_alone():
    network = policy_of(vector().unwrapped).network
    lanes = VectorReferenceLogProb(vector(num_envs=4), network, 0.5)
    prefixes = [[RED, GREEN], [], [BLUE], [RED, BLUE]]
    lanes.reset(options={"sample_index": [1, 2, 3, 4], "response": prefixes})
    paid = [lanes.step([GREEN] * 4)[1], lanes.step([END] * 4)[1]]
    for lane, prefix in enumerate(prefixes):
        played, branched = (ReferenceLogProb(gym.make(ID), network, 0.5) for _ in range(2))
        played.reset(options={"sample_index": lane + 1})
        for token in prefix:
            played.step(token)
        branched.reset(options={"sample_index": lane + 1, "response": prefix})
        for token, rewards in zip((GREEN, END), paid, strict=True):
            reward = played.step(token)[1]
            assert branched.step(token)[1] == pytest.approx(reward, abs=1e-5)
            assert rewards[lane] == pytest.approx(reward, abs=1e-5)


def test_lanes_of_stable_baselines3_branch_by_their_options():
    env = TokenVecEnv(ID, 2)
    env.set_options([{"sample_index": 0, "response": [RED]}, {"sample_index": 1, "response": []}])
    observations = env.reset()
    assert observations["response"].tolist() == [[RED, PAD, PAD, PAD], [PAD] * 4]
    _, rewards, dones, infos = env.step(np.array([END, END]))
    assert (rewards.tolist(), dones.tolist()) == ([1.0, 0.0], [True, True])
    assert [info["response"] for info in infos] == [NAMES[0], ""]


class Ignores(mmenv.TokenEnv):
    """Takes the prefix and forgets it."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options={k: v for k, v in (options or {}).items() if k != "response"})


def test_the_checker_finds_an_environment_that_forgets_its_prefix():
    with pytest.raises(ConformanceError, match="a_prefix_is_as_if_played: "):
        mmenv.check_env(Ignores(Colours, reward="gold"))
