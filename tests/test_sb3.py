"""stable-baselines3: its checker, its VecEnv contract, and its algorithms around the same network."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import RED, Colours

import mmenv
from agents.policies.token_policy import TokenPolicy as OwnPolicy
from mmenv.models.checkpoints import WeightsError, save_network
from mmenv.models.transformer import Network, NetworkConfig
from mmenv.registration import TABLE

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from mmenv.integrations.sb3 import MaskableTokenPolicy, TokenPolicy, TokenVecEnv

TASKS = ("mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogue-v0")
WORD, END = 5, 1


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Path of a tiny network with random weights and a critic that says something."""
    torch.manual_seed(0)
    vocab = gym.make(TASKS[0], reward="gold").action_space.n
    network = Network(NetworkConfig(vocab_size=int(vocab), width=32, layers=1, heads=2))
    torch.nn.init.normal_(network.value_head.weight)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(network, path)
    return str(path)


def vec_env(env_id=TASKS[0], num_envs=4, **arguments):
    return TokenVecEnv(env_id, num_envs, reward="gold", max_response_tokens=4, **arguments)


def model_of(algorithm, env, start, **arguments):
    policy = MaskableTokenPolicy if algorithm is MaskablePPO else TokenPolicy
    return algorithm(policy, env, policy_kwargs={"start": start}, device="cpu", seed=0, **arguments)


SMALL = {A2C: {"n_steps": 8}, PPO: {"n_steps": 8, "batch_size": 16, "n_epochs": 2}}
SMALL[MaskablePPO] = SMALL[PPO]


@pytest.mark.parametrize("env_id", TABLE)
def test_sb3s_checker_has_no_complaint(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, reward="gold").unwrapped, warn=True)


@pytest.mark.parametrize("env_id", TASKS)
def test_lanes_go_as_in_a_dummy_vec_env_of_scalar_envs(env_id):
    ours = vec_env(env_id)
    theirs = DummyVecEnv([lambda: gym.make(env_id, reward="gold", max_response_tokens=4) for _ in range(4)])
    assert ours.seed(3) == theirs.seed(3)
    a, b = ours.reset(), theirs.reset()
    assert ours.reset_infos == theirs.reset_infos
    words = np.random.default_rng(0).integers(1, 12, (30, 4))
    for action in words:
        for key in b:
            np.testing.assert_array_equal(a[key], b[key])
        (a, rewards, dones, infos), (b, r, d, i) = ours.step(action), theirs.step(action)
        np.testing.assert_allclose(rewards, r, atol=1e-6)
        assert rewards.dtype == r.dtype == np.float32
        np.testing.assert_array_equal(dones, d)
        for lane in range(4):
            x, y = infos[lane].pop("terminal_observation", {}), i[lane].pop("terminal_observation", {})
            assert x.keys() == y.keys()
            assert all(np.array_equal(x[k], y[k]) for k in y)
            assert infos[lane] == i[lane]
        assert ours.reset_infos == theirs.reset_infos


def test_the_infos_of_an_ended_episode_tell_response_stop_and_gold():
    env = vec_env()
    env.reset()
    _, rewards, dones, infos = env.step(np.array([END, WORD, END, WORD]))
    assert dones.tolist() == [True, False, True, False]
    assert infos[0]["stop"] == "eos"
    assert infos[0]["response"] == ""
    assert infos[0]["gold"] == rewards[0]
    assert infos[0]["terminal_observation"]["response"].tolist() == [END, 0, 0, 0]
    assert infos[1] == {"TimeLimit.truncated": False}


def test_a_reply_inside_a_dialogue_is_told_and_ends_no_episode():
    env = vec_env(TASKS[2])
    env.reset()
    _, _, dones, infos = env.step(np.full(4, END))
    assert not dones.any()
    assert all(i["stop"] == "eos" and "gold" in i and "terminal_observation" not in i for i in infos)


def test_an_outer_limit_is_told_as_truncation():
    env = vec_env(max_episode_steps=2)
    env.reset()
    env.step(np.full(4, WORD))
    _, _, dones, infos = env.step(np.array([WORD, END, WORD, WORD]))
    assert dones.all()
    assert [i["TimeLimit.truncated"] for i in infos] == [True, False, True, True]
    assert infos[0]["terminal_observation"]["response"].tolist() == [WORD, WORD, 0, 0]


def test_options_pick_the_samples_of_the_next_reset_alone():
    env = vec_env()
    env.set_options([{"sample_index": i} for i in (7, 8, 9, 10)])
    env.reset()
    assert [i["sample_index"] for i in env.reset_infos] == [7, 8, 9, 10]
    env.seed(1)
    env.reset()
    assert [i["sample_index"] for i in env.reset_infos] != [7, 8, 9, 10]
    env.set_options([{"sample_index": 1}, {}, {}, {}])
    with pytest.raises(mmenv.ArgumentError, match="lane 1"):
        env.reset()


def test_attributes_and_methods_answer_for_lanes():
    env = vec_env(render_mode="rgb_array")
    env.reset()
    masks = env.env_method("action_masks", indices=[0, 2])
    assert len(masks) == 2
    assert masks[0].shape == (env.action_space.n,)
    assert not masks[0][0]
    assert masks[0][1:].all()
    assert env.has_attr("action_masks")
    assert not env.has_attr("nonsense")
    assert env.get_attr("tokenizer", 0) == [env.env.tokenizer]
    assert env.get_attr("action_space") == [env.action_space] * 4
    assert env.env_is_wrapped(gym.Wrapper, [0, 1]) == [False, False]
    assert env.render().ndim == 3
    with pytest.raises(AttributeError, match="action_masks"):
        env.env_method("reset")


def test_an_attribute_is_set_for_all_lanes_or_none():
    env = vec_env()
    env.set_attr("note", 3)
    assert env.get_attr("note") == [3] * 4
    with pytest.raises(ValueError, match="share one env"):
        env.set_attr("note", 4, indices=[1])


@pytest.mark.parametrize("argument", [{"copy": False}, {"autoreset_mode": "Disabled"}])
def test_what_sb3_cannot_use_is_refused(argument):
    with pytest.raises(mmenv.ArgumentError, match=next(iter(argument))):
        vec_env(**argument)


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
@pytest.mark.parametrize("env_id", TASKS)
def test_sb3_samples_with_the_log_probabilities_and_values_of_our_policy(env_id, algorithm, start):
    env = TokenVecEnv(env_id, 6, reward="gold")
    policy = model_of(algorithm, env, start, **SMALL[algorithm]).policy
    own = OwnPolicy(mmenv.load_pretrained(start), env.observation_space["response"].shape[0])
    observations, state, starts = env.reset(), None, np.ones(6, bool)
    for _ in range(5):
        _, _, _, state = own.act(observations, state, starts)
        logp = own.log_probs(state.hidden)  # (6, vocab)
        tensors, _ = policy.obs_to_tensor(observations)
        actions = torch.arange(2, 8) if starts.all() else state.last
        with torch.no_grad():
            values, taken, entropy = policy.evaluate_actions(tensors, actions)
        torch.testing.assert_close(taken, logp.gather(1, actions[:, None])[:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(values[:, 0], own.network.value(state.hidden), atol=1e-4, rtol=0)
        assert torch.isfinite(entropy).all()
        observations, _, _, infos = env.step(state.last.numpy())
        starts = np.array(["response" in info for info in infos])


def test_padding_is_never_sampled_and_the_whole_distribution_is_ours(start):
    policy = model_of(PPO, vec_env(), start, **SMALL[PPO]).policy
    tensors, _ = policy.obs_to_tensor(vec_env().reset())
    with torch.no_grad():
        probs = policy.get_distribution(tensors).distribution.probs
    assert (probs[:, 0] == 0).all()
    torch.testing.assert_close(probs.sum(1), torch.ones(4))


@pytest.mark.parametrize("algorithm", [PPO, A2C, MaskablePPO])
@pytest.mark.parametrize("env_id", TASKS)
def test_learning_moves_the_decoder_and_leaves_the_encoders(env_id, algorithm, start):
    model = model_of(algorithm, VecMonitor(vec_env(env_id)), start, **SMALL[algorithm]).learn(200)
    before, after = mmenv.load_pretrained(start), model.policy.features_extractor.network
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    frozen = {n for n in new if n.startswith(("encoders.", "media_position."))}
    assert frozen
    assert all(torch.equal(old[n], new[n]) for n in frozen)
    assert not torch.equal(old["embed.weight"], new["embed.weight"])
    assert not torch.equal(old["value_head.weight"], new["value_head.weight"])
    assert all(torch.isfinite(p).all() for p in new.values())
    assert len(model.ep_info_buffer) > 0


def test_the_encoder_learns_where_it_is_asked_to(start):
    policy_kwargs = {"start": start, "train_encoder": True}
    model = PPO(TokenPolicy, vec_env(), policy_kwargs=policy_kwargs, device="cpu", seed=0, **SMALL[PPO]).learn(64)
    before, after = mmenv.load_pretrained(start), model.policy.features_extractor.network
    old, new = before.encoders["image"], after.encoders["image"]
    assert not torch.equal(old.out.weight, new.out.weight)


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
def test_a_saved_model_answers_the_same_after_loading(algorithm, start, tmp_path):
    env = vec_env()
    model = model_of(algorithm, env, start, **SMALL[algorithm]).learn(64)
    model.save(tmp_path / "model.zip")
    again = algorithm.load(tmp_path / "model.zip", env=env, device="cpu")
    observations = env.reset()
    tensors, _ = model.policy.obs_to_tensor(observations)
    with torch.no_grad():
        torch.testing.assert_close(again.policy.predict_values(tensors), model.policy.predict_values(tensors))
    one, two = (m.predict(observations, deterministic=True)[0] for m in (model, again))
    np.testing.assert_array_equal(one, two)
    again.learn(32)


def test_a_saved_model_loads_where_its_start_has_moved(start, tmp_path):
    first, moved = tmp_path / "first.safetensors", tmp_path / "moved.safetensors"
    first.write_bytes(Path(start).read_bytes())
    env = vec_env()
    model = model_of(PPO, env, str(first), **SMALL[PPO]).learn(32)
    model.save(tmp_path / "model.zip")
    first.rename(moved)
    with pytest.raises(WeightsError, match="first"):
        PPO.load(tmp_path / "model.zip", device="cpu")
    again = PPO.load(tmp_path / "model.zip", device="cpu", custom_objects={"policy_kwargs": {"start": str(moved)}})
    observations = env.reset()
    one, two = (m.predict(observations, deterministic=True)[0] for m in (model, again))
    np.testing.assert_array_equal(one, two)


def test_a_saved_policy_answers_the_same_after_loading(start, tmp_path):
    env = vec_env()
    policy = model_of(PPO, env, start, **SMALL[PPO]).policy
    policy.save(tmp_path / "policy.pt")
    observations = env.reset()
    one, two = (
        p.predict(observations, deterministic=True)[0] for p in (policy, TokenPolicy.load(tmp_path / "policy.pt"))
    )
    np.testing.assert_array_equal(one, two)


def test_scalar_envs_in_processes_learn_too(start):
    make = [lambda: gym.make(TASKS[0], reward="gold", max_response_tokens=4) for _ in range(2)]
    env = SubprocVecEnv(make, start_method="fork")
    model_of(PPO, env, start, **SMALL[PPO]).learn(32)
    assert all(m.shape == (env.action_space.n,) for m in env.env_method("action_masks"))
    env.close()


def test_sb3s_and_our_evaluation_take_the_model(start):
    model = model_of(PPO, vec_env(), start, **SMALL[PPO])
    mean, _ = evaluate_policy(model, vec_env(), n_eval_episodes=4, warn=False)
    result = mmenv.evaluate(
        lambda observations, state, starts: model.predict(observations)[0],
        TASKS[0],
        episodes=8,
        reward="gold",
        max_response_tokens=4,
    )
    assert 0 <= mean <= 1
    assert result.episodes == 8


def test_other_vocabularies_and_budgets_are_refused(start):
    with pytest.raises(ValueError, match="same tokenizer"):
        model_of(PPO, TokenVecEnv("toy/Colours-v0", 2), start)
    with pytest.raises(ValueError, match="max_response_tokens=99"):
        model_of(PPO, TokenVecEnv(TASKS[0], 2, reward="gold", max_response_tokens=99), start)


def test_without_the_extra_the_error_names_the_command():
    code = (
        "import sys; sys.modules['stable_baselines3.common.policies'] = None\n"
        "try:\n    import mmenv.integrations.sb3\nexcept ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install -c constraints.txt -e ".[sb3]"' in said


def test_the_code_of_the_page_on_agents_trains_with_few_tokens(start):
    page = (Path(__file__).parent.parent / "docs" / "plug_in_your_agent.md").read_text(encoding="utf-8")
    section = page.split("## With stable-baselines3")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 2
    few = {
        "num_envs=64": "num_envs=4",
        "256": "16",
        "20_000": "64",
        ': "start"': f": {start!r}",
        "verbose=1": "verbose=0",
    }
    names: dict = {}
    for block in blocks:
        for long, short in few.items():
            block = block.replace(long, short)
        exec(block, names)
        assert names["model"].num_timesteps == 64


def test_the_page_on_agents_has_the_settings_of_the_example():
    root = Path(__file__).parent.parent
    page = (root / "docs" / "plug_in_your_agent.md").read_text(encoding="utf-8")
    example = (root / "examples" / "sb3_ppo.py").read_text(encoding="utf-8").replace("4 * args.num_envs", "256")
    for setting in ("learning_rate=1e-4", "n_steps=16", "batch_size=256", "n_epochs=2", "gamma=1.0", "vf_coef=0.1"):
        assert setting in example
        assert page.count(setting) == 2


def test_an_id_that_waits_for_a_reset_by_itself_restarts_its_lanes_for_sb3(start):
    mmenv.register("me/Waiting-v0", Colours, reward="gold", autoreset_mode="Disabled", copy=False)
    env = TokenVecEnv("me/Waiting-v0", 2)
    first = env.reset()
    kept = first["response"].copy()
    for action in (RED, END, RED):
        env.step_async(np.array([action] * 2))
        observations, _, dones, _ = env.step_wait()
        assert dones.all() == (action == END)
    assert (first["response"] == kept).all()
    assert (observations["response"][:, 0] == RED).all()
