"""Rewards that run torch work in forked children of a process whose torch has several threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import exact, pictured

import mmenv
from mmenv.data.sample import Response
from mmenv.rewards.loading import load_reward

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
SECONDS = 30  # a child that hangs does so for ever
SAMPLES = [pictured(i) for i in range(4)]
RESPONSES = [Response(t, (5, 1)) for t in ("a dog", "two", "red cat", "")]
CONVOLUTION = torch.nn.Conv2d(3, 64, 3).requires_grad_(False)
WIDE = torch.ones(32, 3, 64, 64)


def convolved(samples, responses):
    """A user's function that runs torch in as many threads as there are."""
    return CONVOLUTION(WIDE).mean().expand(len(samples)).numpy()


@pytest.fixture(scope="module", autouse=True)
def busy_parent():
    """Torch has computed with two threads here, also where the tests are given one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    convolved(SAMPLES, RESPONSES)
    yield
    torch.set_num_threads(threads)


def in_fork(function, *arguments):
    """What a function returns in a child made by ``os.fork``; a child that hangs is killed."""
    here, there = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            there.send(function(*arguments))
        finally:
            os._exit(0)
    there.close()
    try:
        assert here.poll(SECONDS), "the child hangs"
        return here.recv()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture(scope="module")
def preference():
    return load_reward("weak-vqa")


@pytest.fixture(params=["preference", "function"])
def reward(request, preference):
    return preference if request.param == "preference" else convolved


def test_a_reward_scores_in_a_forked_child_as_in_its_parent(reward):
    samples = [mmenv.Sample(s.id, s.index, s.prompt, np.zeros((48, 48, 3), np.uint8)) for s in SAMPLES]
    wanted = reward(samples, RESPONSES)
    np.testing.assert_allclose(in_fork(reward, samples, RESPONSES), wanted, atol=1e-5)


def test_a_child_can_fork_again_and_have_threads_of_its_own():
    def child():
        with ThreadPoolExecutor(2) as threads:
            first = list(threads.map(lambda _: convolved(SAMPLES, RESPONSES)[0], range(2)))
        return [*first, in_fork(convolved, SAMPLES, RESPONSES)[0]]

    np.testing.assert_allclose(in_fork(child), [convolved(SAMPLES, RESPONSES)[0]] * 3, rtol=1e-5)


def paid(env):
    """The reward of a response that ends at once, in two lanes."""
    try:
        env.reset(seed=0)
        env.step_async(np.array([1, 1]))
        return env.step_wait(timeout=SECONDS)[1]
    finally:
        env.close(terminate=True)


@pytest.mark.parametrize("given", ["preference-weak", convolved])
def test_forked_environments_are_paid_like_the_vector_environment(given):
    native = gym.make_vec("mmenv/VQA-v0", num_envs=2, reward=given)
    native.reset(seed=0)
    forked = gym.make_vec(
        "mmenv/VQA-v0", num_envs=2, reward=given, vectorization_mode="async", vector_kwargs={"context": "fork"}
    )
    np.testing.assert_allclose(paid(forked), native.step(np.array([1, 1]))[1], atol=1e-5)


def test_the_default_reward_is_paid_in_a_spawned_environment():
    env = gym.make("mmenv/VQA-v0")
    env.reset(seed=0)
    spawned = gym.make_vec("mmenv/VQA-v0", num_envs=1, vectorization_mode="async", vector_kwargs={"context": "spawn"})
    try:
        spawned.reset(seed=0)
        spawned.step_async(np.array([1]))
        assert spawned.step_wait(timeout=2 * SECONDS)[1][0] == pytest.approx(env.step(1)[1], abs=1e-5)
    finally:
        spawned.close(terminate=True)


def test_stable_baselines3_pays_in_forked_environments(preference):
    vec_env = pytest.importorskip(
        "stable_baselines3.common.vec_env", reason='pip install -c constraints.txt -e ".[sb3]"'
    )
    makers = [lambda: gym.make("mmenv/VQA-v0", reward=preference)] * 2
    env = vec_env.SubprocVecEnv(makers, start_method="fork")
    try:
        env.seed(0)
        env.reset()
        env.step_async(np.array([1, 1]))
        assert all(remote.poll(SECONDS) for remote in env.remotes), "a child hangs"
        assert np.isfinite(env.step_wait()[1]).all()
    finally:
        for process in env.processes:
            process.terminate()


class Scored(torch.utils.data.Dataset):
    """Responses with their rewards, as a worker of a loader makes them."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return convolved(SAMPLES[index : index + 1], RESPONSES[index : index + 1])[0]


def test_workers_of_a_data_loader_score():
    loader = torch.utils.data.DataLoader(Scored(), batch_size=2, num_workers=1, timeout=SECONDS)
    assert torch.isfinite(torch.cat(list(loader))).all()


def test_a_client_of_a_server_asks_over_a_connection_of_its_own_in_a_forked_child():
    pytest.importorskip("httpx", reason='reward servers: pip install -c constraints.txt -e ".[serve]"')
    from reward_servers import Scripted

    from mmenv.rewards.remote.client import RemoteReward
    from mmenv.rewards.remote.endpoints import ChatJudge
    from mmenv.rewards.remote.messages import decode_request, encode_reply

    def script(number, body):
        if body.startswith(b"{"):
            return 200, b'{"choices": [{"message": {"content": "4"}}]}'
        request, samples, responses = decode_request(body)
        return 200, encode_reply(request, body, samples, exact(samples, responses))

    with Scripted(script) as server:
        for reward in (RemoteReward(server.url), ChatJudge(server.url, model="m")):
            wanted = reward(SAMPLES, RESPONSES)
            np.testing.assert_array_equal(in_fork(reward, SAMPLES, RESPONSES), wanted)
            np.testing.assert_array_equal(reward(SAMPLES, RESPONSES), wanted)
