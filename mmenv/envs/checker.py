"""Conformance checks of environments with token responses, for any id, also of other packages."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from mmenv.data.sample import Response
from mmenv.envs.infos import finished
from mmenv.envs.task_arguments import VOCABULARY_REMEDY, few_samples, unknown_words
from mmenv.rewards.tokens import pays_tokens, token_rewards

SEED = 7
MEDIA = {"image": np.uint8, "audio": np.float32}
# What a fault of a task, a reward or an environment raises during a check. RewardError is a RuntimeError.
FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    gym.error.Error,
)  # fmt: skip


class ConformanceError(AssertionError):
    """An environment breaks the contract; the message names the check, the fault and the remedy."""


@dataclass(frozen=True)
class Passed:
    """A check that passed: its name and its claim."""

    name: str
    claim: str


def check_env(env_or_id: gym.Env | str) -> list[Passed]:
    """Check an environment against the contract of mmenv's environments.

    Args:
        env_or_id: an id, made with its default arguments, or a scalar environment. An environment from ``gym.make`` is
            compared with its vector environment too.

    Returns:
        all checks; each passed.

    Raises:
        ConformanceError: at the first failed check; names the check, the fault and the remedy.
    """
    env = gym.make(env_or_id) if isinstance(env_or_id, str) else env_or_id
    return [run_check(check, env) for check in checks_of(env)]


def checks_of(env: gym.Env) -> list[Callable[[gym.Env], None]]:
    """The checks of an environment; the comparison with its vector environment needs one from ``gym.make``."""
    return [*CHECKS, vector_lane_is_the_scalar_env] if env.spec is not None else list(CHECKS)


def run_check(check: Callable[[gym.Env], None], env: gym.Env) -> Passed:
    """Run one check, without the warnings that its wrong actions cause.

    Raises:
        ConformanceError: it fails, or the environment, its task or its reward raises an error; names the check.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(env)
        except ConformanceError as error:
            raise ConformanceError(f"{check.__name__}: {error}") from error
        except FAULTS as error:
            cause = f"{type(error).__name__}: {error}"
            raise ConformanceError(f"{check.__name__}: {cause}; let the environment not raise it") from error
    return Passed(check.__name__, str(check.__doc__).strip().replace("``", ""))


def _demand(holds: bool, fault: str, remedy: str) -> None:
    if not holds:
        raise ConformanceError(f"{fault}; {remedy}")


def _attribute(env: gym.Env, name: str) -> Any:
    exists = env.has_wrapper_attr(name)
    _demand(exists, f"no attribute {name!r}", f"the environment must have {name}")
    return env.get_wrapper_attr(name)


def public_attributes(env: gym.Env) -> None:
    """``tokenizer``, ``task``, ``reward_function`` and ``action_masks`` are there."""
    for name in ("tokenizer", "task", "reward_function", "action_masks"):
        _attribute(env, name)


def spaces_are_tokens_and_media(env: gym.Env) -> None:
    """Observations are a Dict of media and token boxes; actions are Discrete over the vocabulary."""
    space, n = env.observation_space, _attribute(env, "tokenizer").vocab_size
    _demand(isinstance(space, spaces.Dict), f"observation space {space}", "make it a Dict")
    assert isinstance(space, spaces.Dict)
    expected = {*_attribute(env, "task").modalities, "prompt", "response"}
    _demand(set(space) == expected, f"keys {sorted(space)}", f"give {sorted(expected)}")
    for key, part in space.items():
        dtype = MEDIA.get(key, np.int64)
        right = isinstance(part, spaces.Box) and part.dtype == dtype
        _demand(right, f"{key!r} is {part}", f"make it a Box of {np.dtype(dtype)}")
        if key not in MEDIA:
            inside = bool((part.low == 0).all() and (part.high == n - 1).all())  # type: ignore[attr-defined]
            _demand(inside, f"{key!r} is {part}", f"let tokens go from 0 to {n - 1}")
    right = isinstance(env.action_space, spaces.Discrete) and env.action_space.n == n
    _demand(right, f"action space {env.action_space}", f"make it Discrete({n})")


def words_are_in_the_vocabulary(env: gym.Env) -> None:
    """Of a task with samples of its own, the tokenizer has the words of prompts and references."""
    task = _attribute(env, "task")
    unknown = unknown_words(task, "train") if task.dataset is None else []
    _demand(not unknown, f"the vocabulary lacks {', '.join(map(repr, unknown[:10]))}", VOCABULARY_REMEDY)


def no_split_is_empty(env: gym.Env) -> None:
    """A task with samples of its own has some in each of its splits."""
    task = _attribute(env, "task")
    for split in task.splits if task.dataset is None else ():
        size = task.size(split)
        _demand(size > 0, f"size({split!r}) is {size}", "give each split a sample: training ends with the test split")


def a_reference_fits_and_is_right(env: gym.Env) -> None:
    """Of a task with samples of its own, a reference fits into the budget, and gold of it is above 0 if known."""
    task, tokenizer = _attribute(env, "task"), _attribute(env, "tokenizer")
    budget = env.observation_space["response"].shape[0]  # type: ignore[index]
    for sample in few_samples(task, "train") if task.dataset is None else ():
        if not sample.references:
            continue
        encoded = [[*tokenizer.encode(text), tokenizer.end_id] for text in sample.references]
        fitting = [tokens for tokens in encoded if len(tokens) <= budget]
        shortest = min(map(len, encoded))
        fault = f"the shortest reference of {sample.id!r} has {shortest} tokens, its end included, of {budget}"
        _demand(bool(fitting), fault, f"give max_response_tokens={shortest} or more")
        gold = [task.gold(sample, Response(tokenizer.decode(t), tuple(t), "eos")) for t in fitting]
        right = any(value is None or value > 0 for value in gold)
        _demand(right, f"gold of every reference of {sample.id!r} is 0", "let gold accept a reference as it is decoded")


def gymnasium_has_no_complaint(env: gym.Env) -> None:
    """Gymnasium's own checker passes without a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gymnasium_check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except AssertionError as error:
            remedy = "do as it says; a sample is a function of (split, index) alone, without random numbers"
            raise ConformanceError(f"Gymnasium's checker says: {error}; {remedy}") from error
    messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    _demand(not messages, f"it warns: {messages[:1]}", "do as it says")


def masks_allow_all_but_padding(env: gym.Env) -> None:
    """Masks are bool over the vocabulary; padding is masked and an end token allowed."""
    env.reset(seed=SEED)
    tokenizer, mask = _attribute(env, "tokenizer"), _attribute(env, "action_masks")()
    right = mask.shape == (tokenizer.vocab_size,) and mask.dtype == bool
    _demand(right, f"{mask.dtype} of shape {mask.shape}", f"give bool ({tokenizer.vocab_size},)")
    _demand(not mask[tokenizer.pad_id], "padding may be taken", "mask tokenizer.pad_id")
    _demand(bool(mask[list(tokenizer.eos_ids)].any()), "no end token may be taken", "allow one of eos_ids")


def reset_tells_the_sample(env: gym.Env) -> None:
    """Reset gives ``sample_index`` and ``sample_id``, an empty response, and the sample asked for."""
    observation, info = env.reset(seed=SEED)
    for key in ("sample_index", "sample_id"):
        _demand(key in info, f"info has no {key!r}", "put it there")
    pad = _attribute(env, "tokenizer").pad_id
    _demand(bool((observation["response"] == pad).all()), "the response is not empty", f"fill it with {pad}")
    _, again = env.reset(options={"sample_index": info["sample_index"]})
    same = again["sample_id"] == info["sample_id"]
    _demand(same, f"sample_index gave {again['sample_id']!r}", f"give {info['sample_id']!r}")


def an_end_token_ends_and_pays(env: gym.Env) -> None:
    """A token is written and earns nothing; an end token ends the response, which is paid and reported in info."""
    _, info = env.reset(seed=SEED)
    tokenizer = _attribute(env, "tokenizer")
    word, end = _word(env), tokenizer.end_id
    if env.observation_space["response"].shape[0] > 1:  # type: ignore[index]
        observation, reward, terminated, truncated, info = env.step(word)
        early = 0 if pays_tokens(_attribute(env, "reward_function")) else reward
        quiet = early == 0 and not terminated and not truncated and "response" not in info
        _demand(quiet, f"a first token gave {(reward, terminated, truncated, info)}", "pay at the end alone")
        written = observation["response"][0] == word and (observation["response"] != tokenizer.pad_id).sum() == 1
        _demand(bool(written), f"response {observation['response']}", f"write token {word} at its start")
    _, reward, _, _, info = env.step(end)
    _demand(type(reward) is float, f"reward {reward!r} is {type(reward)}", "give a Python float")
    _demand(info.get("stop") == "eos", f"info {info}", "say stop='eos'")
    _demand(isinstance(info.get("response"), str), f"info {info}", "give the text as 'response'")
    if "gold" in info:
        _demand(0 <= info["gold"] <= 1, f"gold {info['gold']}", "keep it in [0, 1]")


def the_budget_ends_and_is_termination(env: gym.Env) -> None:
    """A full response ends with stop "budget", is terminated and not truncated; after the last, step refuses."""
    env.reset(seed=SEED)
    at_end = _attribute(env, "task").pays_at_end
    budget, word = env.observation_space["response"].shape[0], _word(env)  # type: ignore[index]
    for _ in range(1000):
        for _ in range(budget):
            _, reward, terminated, truncated, info = env.step(word)
        right = info.get("stop") == "budget" and not truncated
        _demand(right, f"truncated={truncated}, info {info}", "end with stop='budget', not truncated")
        quiet = terminated or not at_end or (reward == 0 and "gold" not in info)
        _demand(quiet, f"an earlier reply gave {reward} and {info}", "pay the last reply only: task.pays_at_end")
        if terminated:
            break
    _demand(bool(terminated), "1000 replies and no end", "terminate after the last reply")
    _refuses(env, word, ResetNeeded, "a step after the end")


def a_prefix_is_as_if_played(env: gym.Env) -> None:
    """A reset with a response prefix gives the episode that has played it; a prefix that is none is refused."""
    budget, word = env.observation_space["response"].shape[0], _word(env)  # type: ignore[index]
    tokenizer = _attribute(env, "tokenizer")
    observation, info = env.reset(seed=SEED)
    options = {"sample_index": info["sample_index"], "response": [word] * (budget - 1)}
    for token in options["response"]:
        observation = env.step(token)[0]
    played = env.step(tokenizer.end_id)
    branched, _ = env.reset(options=options)
    remedy = "reset to the sample and write options['response'] as step would"
    _demand(_equal(branched, observation), "the observation is not that of the replayed episode", remedy)
    _demand(_equal(env.step(tokenizer.end_id), played), "the end is not that of the replayed one", remedy)
    for prefix in ([tokenizer.pad_id], [tokenizer.end_id], [tokenizer.vocab_size], [word] * budget, "word"):
        try:
            env.reset(options={"response": prefix})
        except (ValueError, TypeError):
            continue
        raise ConformanceError(f"{prefix!r} was accepted; raise an error that names it")


def token_rewards_are_causal(env: gym.Env) -> None:
    """What a reward pays at a token depends on nothing behind it, is finite, and is what the step pays."""
    reward = _attribute(env, "reward_function")
    if not pays_tokens(reward):
        return
    env.reset(seed=SEED)
    tokenizer, sample = _attribute(env, "tokenizer"), _attribute(env, "sample")
    budget = env.observation_space["response"].shape[0]  # type: ignore[index]
    words = _tokens(env, (budget,)).tolist()
    words = [_word(env) if word in tokenizer.eos_ids else word for word in words]
    written = [words[: t + 1] for t in range(budget)]
    stops = [*[""] * (budget - 1), "budget"]
    responses = [Response(tokenizer.decode(w), tuple(w), stop) for w, stop in zip(written, stops, strict=True)]
    rows = token_rewards(reward, [sample] * budget, responses).rows  # (R, R), the first t + 1 tokens in row t
    remedy = "let what per_token pays at token t depend on the sample and on tokens 0 .. t alone"
    for t, row in enumerate(rows):
        same = bool(np.allclose(row[: t + 1], rows[-1, : t + 1], rtol=0, atol=1e-4))
        _demand(same, f"{t + 1} tokens are paid {row[: t + 1]}, and {rows[-1, : t + 1]} when more follow", remedy)
        paid = env.step(words[t])[1] if t + 1 < budget else row[t]
        _demand(abs(paid - row[t]) < 1e-4, f"step {t} paid {paid}, not {row[t]}", "pay what per_token returns")


def strangers_and_padding_are_refused(env: gym.Env) -> None:
    """An action that is not a token of the vocabulary raises, and so does padding, which is masked."""
    tokenizer = _attribute(env, "tokenizer")
    for action in (-1, tokenizer.vocab_size, tokenizer.pad_id, 0.5, float("nan"), np.array([1, 2]), None, "word"):
        env.reset(seed=SEED)
        _refuses(env, action, (InvalidAction, ValueError, TypeError), f"action {action!r}")


def same_seed_same_episode(env: gym.Env) -> None:
    """Equal seeds give equal episodes, and observations are copies."""
    first, second = _play(env), _play(env)
    _demand(_equal(first, second), "two runs from one seed differ", "draw from self.np_random alone")


def pickled_mid_episode_it_goes_on(env: gym.Env) -> None:
    """A pickled environment keeps its generator and its episode."""
    env.unwrapped.reset(seed=SEED)
    env.unwrapped.step(_word(env))
    try:
        twin = pickle.loads(pickle.dumps(env.unwrapped))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        remedy = "use tasks and rewards that a module defines, no lambdas and nothing inside a function"
        raise ConformanceError(f"{error}; {remedy}") from error
    one, two = (_play(e, reset=False) for e in (env.unwrapped, twin))
    _demand(_equal(one, two), "the copy goes on differently", "keep generator and episode in the state")


def vector_lane_is_the_scalar_env(env: gym.Env) -> None:
    """Lane i of a vector environment seeded s is the scalar one seeded s + i."""
    assert env.spec is not None
    venv = gym.make_vec(gym.spec(env.spec.id), num_envs=2, **env.spec.kwargs)
    observations, infos = venv.reset(seed=SEED)
    lanes = [_Lane(env.unwrapped, SEED + i) for i in range(2)]
    # One scalar environment plays the lanes one after the other, so its episodes are recorded first.
    words = _tokens(env, (40, 2))
    recorded = [lane.play(words[:, i]) for i, lane in enumerate(lanes)]
    steps = [(observations, np.zeros(2), np.zeros(2, bool), infos)]
    for action in words:
        observations, rewards, terminated, _, infos = venv.step(action)
        steps.append((observations, rewards, terminated, infos))
    for t, (observations, rewards, terminated, infos) in enumerate(steps):
        ended = finished(infos)
        for i in range(2):
            observation, reward, over, gold = recorded[i][t]
            lane_observation = {k: v[i] for k, v in observations.items()}
            same = _equal(observation, lane_observation)
            _demand(same, f"observations of lane {i} differ at step {t}", "see dynamics")
            close = abs(reward - rewards[i]) < 1e-4 and over == terminated[i]
            _demand(close, f"lane {i} was paid {rewards[i]}, not {reward}, at step {t}", "see dynamics")
            lane_gold = ended.gold[ended.lanes == i]
            same = np.array_equal(lane_gold, gold, equal_nan=True)
            _demand(same, f"lane {i} has gold {lane_gold}, not {gold}, at step {t}", "see dynamics")
    venv.close()


class _Lane:
    """The scalar environment played as a lane under SAME_STEP."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        self.env, self.seed = env, seed

    def play(self, words: np.ndarray) -> list[tuple[Any, float, bool, np.ndarray]]:
        """Observation, reward, terminated, and the gold of the response that ended, if any, for each step."""
        observation, _ = self.env.reset(seed=self.seed)
        record: list[tuple[Any, float, bool, np.ndarray]] = [(observation, 0.0, False, np.zeros(0))]
        for word in words.tolist():
            observation, reward, terminated, _, info = self.env.step(word)
            gold = np.array([info.get("gold", np.nan)]) if "response" in info else np.zeros(0)
            if terminated:
                observation, _ = self.env.reset()
            record.append((observation, float(reward), terminated, gold))
        return record


def _word(env: gym.Env) -> int:
    """The first token that neither ends nor pads."""
    tokenizer = _attribute(env, "tokenizer")
    return next(i for i in range(tokenizer.vocab_size) if i != tokenizer.pad_id and i not in tokenizer.eos_ids)


def _tokens(env: gym.Env, shape: tuple[int, ...]) -> np.ndarray:
    """Tokens of the vocabulary, ends among them, without padding; always the same ones."""
    tokenizer = _attribute(env, "tokenizer")
    drawn = np.random.default_rng(SEED).integers(tokenizer.vocab_size - 1, size=shape)
    return drawn + (drawn >= tokenizer.pad_id)


def _play(env: gym.Env, steps: int = 40, reset: bool = True) -> list[Any]:
    """Results of reset and step for a fixed sequence of tokens."""
    record: list[Any] = [env.reset(seed=SEED)] if reset else []
    for word in _tokens(env, (steps,)).tolist():
        record.append(env.step(word))
        if record[-1][2]:
            record.append(env.reset())
    return record


def _equal(a: Any, b: Any) -> bool:
    """Whether nested results are the same, arrays value by value."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return abs(a - b) < 1e-4
    return bool(np.array_equal(a, b))


def _refuses(env: gym.Env, action: Any, errors: Any, what: str) -> None:
    try:
        env.step(action)
    except errors:
        return
    raise ConformanceError(f"{what} was accepted; raise one of {errors}")


# The other checks need what these check.
FIRST_CHECKS = (public_attributes, spaces_are_tokens_and_media)
CHECKS: tuple[Callable[[gym.Env], None], ...] = (
    public_attributes,
    spaces_are_tokens_and_media,
    words_are_in_the_vocabulary,
    no_split_is_empty,
    a_reference_fits_and_is_right,
    gymnasium_has_no_complaint,
    masks_allow_all_but_padding,
    reset_tells_the_sample,
    an_end_token_ends_and_pays,
    the_budget_ends_and_is_termination,
    a_prefix_is_as_if_played,
    token_rewards_are_causal,
    strangers_and_padding_are_refused,
    same_seed_same_episode,
    pickled_mid_episode_it_goes_on,
)
