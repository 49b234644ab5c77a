"""stable-baselines3 through the cache: the same numbers as token by token, and no cache that is out of date."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import mmenv
from mmenv.models.checkpoints import save_network
from mmenv.models.transformer import Network, NetworkConfig

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor

from mmenv.integrations.sb3 import MaskableTokenPolicy, TokenPolicy, TokenVecEnv
from mmenv.integrations.sb3_fast import (
    FastMaskableTokenPolicy,
    FastTokenPolicy,
    MaskableSequenceBuffer,
    SequenceBuffer,
)

TASKS = ("mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0")
# Nine steps cut responses of up to four tokens in the middle.
SMALL = {A2C: {"n_steps": 9}, PPO: {"n_steps": 9, "batch_size": 12, "n_epochs": 2}}
SMALL[MaskablePPO] = SMALL[PPO]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Path of a tiny network with random weights, a critic that says something, and ends that come early."""
    torch.manual_seed(0)
    vocab = gym.make(TASKS[0], reward="gold").action_space.n
    network = Network(NetworkConfig(vocab_size=int(vocab), width=32, layers=2, heads=2))
    torch.nn.init.normal_(network.value_head.weight)
    with torch.no_grad():
        network.embed.weight *= 2
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(network, path)
    return str(path)


def vec_env(env_id=TASKS[0], num_envs=4, **arguments):
    return TokenVecEnv(env_id, num_envs, **{"reward": "gold", "max_response_tokens": 4, **arguments})


def fast(algorithm, env, start, policy_kwargs=None, **arguments):
    masked = algorithm is MaskablePPO
    return algorithm(
        FastMaskableTokenPolicy if masked else FastTokenPolicy,
        env,
        rollout_buffer_class=MaskableSequenceBuffer if masked else SequenceBuffer,
        policy_kwargs={"start": start, **(policy_kwargs or {})},
        device="cpu",
        seed=0,
        **{**SMALL[algorithm], **arguments},
    )


def plain(algorithm, env, start, policy_kwargs=None, **arguments):
    policy = MaskableTokenPolicy if algorithm is MaskablePPO else TokenPolicy
    return algorithm(
        policy,
        env,
        policy_kwargs={"start": start, **(policy_kwargs or {})},
        device="cpu",
        seed=0,
        **{**SMALL[algorithm], **arguments},
    )


class Shared:
    """Plain buffers that hand over the minibatches of a fast one, transition by transition."""

    def get(self, batch_size=None):
        if not self.generator_ready:
            next(super().get(1))  # lays the transitions lane by lane
        state = torch.get_rng_state()
        for indices in self.twin._minibatches(batch_size or self.buffer_size * self.n_envs):
            yield self._get_samples(indices)
        self.after = state


class SharedDict(Shared, DictRolloutBuffer):
    pass


class SharedMasked(Shared, MaskableDictRolloutBuffer):
    pass


def tee(model, twin_of):
    """Write everything that the fast model's buffer takes into a plain one too."""
    ours, theirs = model.rollout_buffer, twin_of.rollout_buffer
    theirs.twin = ours

    def add(obs, *args, _add=ours.add, **kwargs):
        theirs.add(obs, *args, **kwargs)
        _add(obs, *args, **kwargs)

    def reset(_reset=ours.reset):
        theirs.reset()
        _reset()

    def compute(last_values, dones, _compute=ours.compute_returns_and_advantage):
        theirs.compute_returns_and_advantage(last_values, dones)
        _compute(last_values, dones)

    ours.add, ours.reset, ours.compute_returns_and_advantage = add, reset, compute


def pair(algorithm, env_id, start, **arguments):
    """A fast model and a plain one that learns from what the fast one collects."""
    env = VecMonitor(vec_env(env_id))
    ours = fast(algorithm, env, start, **arguments)
    buffer = SharedMasked if algorithm is MaskablePPO else SharedDict
    theirs = plain(algorithm, env, start, rollout_buffer_class=buffer, **arguments)
    tee(ours, theirs)
    ours._setup_learn(1000)
    theirs._logger = ours.logger
    return ours, theirs


def collect(model):
    callback = ConvertCallback(None)
    callback.init_callback(model)
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def train_both(ours, theirs):
    """One ``train()`` of each on the same minibatches in the same order."""
    torch.manual_seed(1)
    ours.train()
    torch.manual_seed(1)
    theirs.train()


@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.parametrize("algorithm", [PPO, A2C, MaskablePPO])
@pytest.mark.parametrize("env_id", TASKS)
def test_gradients_are_those_of_plain_sb3_on_the_same_transitions(env_id, algorithm, train_encoder, start):
    arguments = {"ent_coef": 0.1, "policy_kwargs": {"train_encoder": train_encoder}}
    if algorithm is not A2C:
        arguments |= {"n_epochs": 1, "batch_size": 36}
    ours, theirs = pair(algorithm, env_id, start, **arguments)
    collect(ours)
    collect(ours)  # the second begins in the middle of responses
    train_both(ours, theirs)
    mine, other = (dict(m.policy.named_parameters()) for m in (ours, theirs))
    learned = [n for n, p in other.items() if p.grad is not None]
    assert learned == [n for n, p in mine.items() if p.grad is not None]
    assert any("encoders" in n for n in learned) == train_encoder
    assert max(float(other[n].grad.abs().max()) for n in learned) > 1e-3
    for name in learned:
        scale = float(other[name].grad.abs().max())
        torch.testing.assert_close(mine[name].grad, other[name].grad, rtol=1e-4, atol=1e-4 * scale + 1e-7, msg=name)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_several_updates_lead_to_the_weights_of_plain_sb3(algorithm, start):
    ours, theirs = pair(algorithm, TASKS[0], start, learning_rate=1e-3)
    for _ in range(3):
        collect(ours)
        train_both(ours, theirs)
    first = dict(mmenv.load_pretrained(start).named_parameters())
    mine, other = (dict(m.policy.features_extractor.network.named_parameters()) for m in (ours, theirs))
    with torch.no_grad():
        moved = max(float((other[n] - first[n]).abs().max()) for n in first)
        apart = max(float((other[n] - mine[n]).abs().max()) for n in first)
    assert moved > 1e-3
    assert apart < 0.02 * moved


class Recorder(BaseCallback):
    """Asks a plain policy of the same weights at every step of a rollout."""

    def __init__(self, start):
        super().__init__()
        self.start, self.lengths, self.bootstrapped = start, set(), 0

    def _on_training_start(self):
        ask = self.model.policy.predict_values

        def predict_values(obs):
            values = ask(obs)
            torch.testing.assert_close(values.clone(), self.other.predict_values(obs), **CLOSE)
            self.bootstrapped += 1
            return values

        self.model.policy.predict_values = predict_values

    def _on_rollout_start(self):
        self.other = plain(type(self.model), self.model.env, self.start).policy
        self.other.load_state_dict(self.model.policy.state_dict())

    def _on_step(self):
        given, actions = self.locals["obs_tensor"], self.locals["actions"]
        masks = self.locals.get("action_masks")
        more = {} if masks is None else {"action_masks": masks}
        with torch.no_grad():
            values, logp, _ = self.other.evaluate_actions(given, torch.as_tensor(actions), **more)
        torch.testing.assert_close(self.locals["values"].clone(), values, **CLOSE)
        torch.testing.assert_close(self.locals["log_probs"].clone(), logp, **CLOSE)
        self.lengths |= set((given["response"] != 0).sum(1).tolist())
        return True


@pytest.mark.parametrize("algorithm", [PPO, A2C, MaskablePPO])
@pytest.mark.parametrize("env_id", TASKS)
def test_rollouts_have_the_log_probabilities_and_values_of_the_plain_policy(env_id, algorithm, start):
    recorder = Recorder(start)
    fast(algorithm, VecMonitor(vec_env(env_id)), start, learning_rate=1e-2).learn(120, callback=recorder)
    assert recorder.lengths == {0, 1, 2, 3}
    assert recorder.bootstrapped == 4


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_limit_inside_a_response_is_bootstrapped_as_in_plain_sb3(num_envs, start):
    recorder = Recorder(start)
    fast(PPO, vec_env(num_envs=num_envs, max_episode_steps=2), start).learn(9 * num_envs, callback=recorder)
    assert recorder.lengths == {0, 1}
    assert recorder.bootstrapped > 2


def follow_both(ours, theirs, observations):
    """Hidden states of the fast policy, compared with the plain one's."""
    given = obs_as_tensor(observations, "cpu")
    with torch.no_grad():
        found, expected = ours.extract_features(given), theirs.extract_features(given)
    torch.testing.assert_close(found.clone(), expected, **CLOSE)


def policies(start, env_id=TASKS[2], **arguments):
    """A fast and a plain policy, and a rollout that is two tokens into its responses."""
    env = vec_env(env_id, **arguments)
    ours, theirs = fast(PPO, env, start), plain(PPO, env, start)
    env = ours.env
    observations = env.reset()
    for _ in range(2):
        follow_both(ours.policy, theirs.policy, observations)
        observations = env.step(np.array([5, 6, 7, 8]))[0]
    return ours, theirs, observations


def count_reads(policy):
    """How many lanes the cache reads anew, call by call."""
    reads, read = [], policy._lanes._read

    def counted(observations, response):
        reads.append(len(response))
        return read(observations, response)

    policy._lanes._read = counted
    return reads


def test_a_response_that_goes_on_is_never_read_again(start):
    ours, theirs, observations = policies(start)
    reads = count_reads(ours.policy)
    follow_both(ours.policy, theirs.policy, observations)
    assert reads == []


@pytest.mark.parametrize("name", ["image", "audio", "prompt", "response", "rewound", "same"])
def test_a_lane_that_is_not_as_the_cache_left_it_is_read_anew(name, start):
    env_id = TASKS[0] if name == "image" else TASKS[2]
    ours, theirs, observations = policies(start, env_id)
    reads = count_reads(ours.policy)
    changed = {k: v.copy() for k, v in observations.items()}
    if name == "rewound":
        changed["response"][1] = 0
    elif name == "same":
        follow_both(ours.policy, theirs.policy, observations)  # and once more, below
    elif name == "response":
        changed[name][1, 0] = 9
    else:
        changed[name][1].reshape(-1)[0] += 1
    follow_both(ours.policy, theirs.policy, changed)
    assert reads == ([4] if name == "same" else [1])


@pytest.mark.parametrize("change", ["step", "load", "vector"])
def test_weights_that_changed_make_the_cache_worthless(change, start):
    ours, theirs, observations = policies(start)
    trained = dict(theirs.policy.named_parameters())  # buffers are not changed by training
    state = {k: v + 0.1 if k in trained else v for k, v in theirs.policy.state_dict().items()}
    theirs.policy.load_state_dict(state)
    if change == "step":
        with torch.no_grad():
            for p, q in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
                p.copy_(q)
    elif change == "load":
        ours.set_parameters({**ours.get_parameters(), "policy": state})
    else:
        ours.policy.load_from_vector(theirs.policy.parameters_to_vector())
    follow_both(ours.policy, theirs.policy, observations)


def test_another_number_of_lanes_and_full_responses_are_answered_as_plain(start):
    ours, theirs, observations = policies(start)
    full = {k: v.copy() for k, v in observations.items()}
    full["response"][:] = 7
    follow_both(ours.policy, theirs.policy, full)
    follow_both(ours.policy, theirs.policy, {k: v[:2] for k, v in observations.items()})


def test_predict_keeps_no_cache_and_disturbs_none(start):
    ours, theirs, observations = policies(start)
    reads = count_reads(ours.policy)
    one, two = (m.predict(observations, deterministic=True)[0] for m in (ours, theirs))
    np.testing.assert_array_equal(one, two)
    follow_both(ours.policy, theirs.policy, observations)
    assert reads == []


def rollout_of(start, env_id=TASKS[2], **arguments):
    model = fast(PPO, vec_env(env_id), start, **arguments)
    model._setup_learn(1000)
    collect(model)
    return model


def test_media_are_kept_once_a_context_and_encoded_once_a_rollout(start):
    model = rollout_of(start)
    buffer = model.rollout_buffer
    contexts = buffer.contexts.observations
    # Each lane's nine steps hold at least two replies of at most four tokens.
    assert 8 < len(contexts["audio"]) < 36
    assert buffer.observations == {}
    encoded = []
    read = model.policy.features_extractor.network.encode
    model.policy.features_extractor.network.encode = lambda x: encoded.append(len(x["prompt"])) or read(x)
    model.train()
    assert encoded == [len(contexts["audio"])]


def test_minibatches_hold_every_transition_once_and_cut_no_response(start):
    buffer = rollout_of(start).rollout_buffer
    sequence = buffer.sequence.T.reshape(-1)
    for size in (2, 5, 12, 36):
        groups = buffer._minibatches(size)
        assert sorted(np.concatenate(groups)) == list(range(36))
        assert sum(len(set(sequence[g])) for g in groups) == len(set(sequence))
        assert all(len(g) > 1 for g in groups)
        assert len(groups) <= -(-36 // size)
    assert len(buffer._minibatches(12)) == 3
    orders = [np.concatenate(buffer._minibatches(12)).tolist() for _ in range(2)]
    assert orders[0] != orders[1]


def test_a_response_of_one_token_is_no_minibatch_of_its_own(start):
    buffer = rollout_of(start).rollout_buffer
    buffer.sequence = np.array([[0, 0, 0, 1, 2, 2, 2, 3]]).T
    for _ in range(20):
        assert all(len(g) > 1 for g in buffer._minibatches(3))


def test_the_penalty_is_beta_times_k1_under_the_reference(start, tmp_path):
    other = mmenv.load_pretrained(start)
    with torch.no_grad():
        other.embed.weight += 0.1 * torch.randn(other.embed.weight.shape, generator=torch.Generator().manual_seed(0))
    save_network(other, tmp_path / "other.safetensors")
    kwargs = {"reference": str(tmp_path / "other.safetensors"), "kl_coef": 0.5}
    env = VecMonitor(vec_env(TASKS[2]))
    ours = fast(PPO, env, start, rollout_buffer_kwargs=kwargs)
    theirs = plain(PPO, env, str(tmp_path / "other.safetensors"), rollout_buffer_class=SharedDict)
    tee(ours, theirs)
    ours._setup_learn(1000)
    collect(ours)
    a, b = ours.rollout_buffer, theirs.rollout_buffer
    observations = {k: torch.as_tensor(v).flatten(0, 1) for k, v in b.observations.items()}
    with torch.no_grad():
        _, ref, _ = theirs.policy.evaluate_actions(observations, torch.as_tensor(b.actions).flatten())
    np.testing.assert_allclose(a.ref_log_probs, ref.reshape(9, 4), atol=1e-4)
    np.testing.assert_allclose(a.rewards, b.rewards - 0.5 * (b.log_probs - ref.reshape(9, 4).numpy()), atol=1e-4)
    assert np.abs(a.advantages - b.advantages).max() > 1e-3


def test_the_start_itself_costs_no_penalty(start):
    buffer = rollout_of(start, rollout_buffer_kwargs={"reference": start, "kl_coef": 1.0}).rollout_buffer
    np.testing.assert_allclose(buffer.ref_log_probs, buffer.log_probs, atol=1e-4)


def test_wrong_arguments_are_refused_with_the_remedy(start):
    with pytest.raises(ValueError, match="reference"):
        fast(PPO, vec_env(), start, rollout_buffer_kwargs={"kl_coef": 0.1})
    with pytest.raises(ValueError, match="pad_id"):
        rollout_of(start, rollout_buffer_kwargs={"pad_id": 3})
    with pytest.raises(ValueError, match="0 of 9 steps"):
        next(fast(PPO, vec_env(), start).rollout_buffer.get())


@pytest.mark.parametrize("algorithm", [PPO, A2C, MaskablePPO])
def test_a_saved_model_goes_on_where_it_was(algorithm, start, tmp_path):
    env = vec_env()
    kwargs = {"reference": start, "kl_coef": 0.1}
    model = fast(algorithm, env, start, rollout_buffer_kwargs=kwargs).learn(64)
    model.save(tmp_path / "model.zip")
    again = algorithm.load(tmp_path / "model.zip", env=env, device="cpu")
    assert isinstance(again.rollout_buffer, SequenceBuffer)
    assert again.rollout_buffer.kl_coef == 0.1
    observations = env.reset()
    one, two = (m.predict(observations, deterministic=True)[0] for m in (model, again))
    np.testing.assert_array_equal(one, two)
    again.learn(64)


def test_the_fast_policy_learns_from_sb3s_own_buffer_too(start):
    before = mmenv.load_pretrained(start).embed.weight
    model = PPO(FastTokenPolicy, vec_env(), policy_kwargs={"start": start}, device="cpu", **SMALL[PPO]).learn(64)
    assert not torch.equal(model.policy.features_extractor.network.embed.weight, before)


def test_scalar_envs_in_processes_learn_too(start):
    make = [lambda: gym.make(TASKS[0], reward="gold", max_response_tokens=4) for _ in range(2)]
    env = SubprocVecEnv(make, start_method="fork")
    recorder = Recorder(start)
    fast(PPO, env, start).learn(40, callback=recorder)
    assert recorder.lengths
    env.close()
