"""The wheel is whole: environments, weights and integration work from it, and it brings no ``agents``."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from mmenv.registration import TABLE

ROOT = Path(__file__).parent.parent
USE = """
import importlib.util, sys
import gymnasium as gym
import mmenv
from mmenv.registration import TABLE
assert mmenv.__file__.startswith(sys.argv[1]), mmenv.__file__
for env_id in TABLE:
    env = gym.make(env_id)
    env.reset(seed=0)
    env.step(3)
    vector = gym.make_vec(env_id, num_envs=2)
    vector.reset(seed=0)
    ended = mmenv.finished(vector.step([3, 1])[4])
    assert ended.lanes.tolist() == [1], ended
    print(env_id)
"""
SB3 = """
assert importlib.util.find_spec("agents") is None
from stable_baselines3 import PPO
from mmenv.integrations.sb3 import TokenPolicy, TokenVecEnv
env = TokenVecEnv("mmenv/VQA-v0", num_envs=16)
model = PPO(TokenPolicy, env, policy_kwargs={"start": "start"}, n_steps=4, batch_size=32, n_epochs=1).learn(64)
print("trained", model.num_timesteps)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def run(python, code, folder):
    # Of the caller's settings nothing may lead back to the checkout.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run(
        [str(python), "-c", code, str(folder)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_the_wheel_has_less_than_thirty_megabytes(wheel):
    assert wheel.stat().st_size < 30e6


def test_the_wheel_holds_mmenv_alone_and_all_of_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"mmenv"}
    listed = subprocess.run(["git", "ls-files", "mmenv"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(listed.split()) <= names
    assert sum(i.file_size for i in zipfile.ZipFile(wheel).infolist()) < 40e6


def test_every_id_works_from_an_unpacked_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    # The folder of the code comes before site-packages, where a checkout may be installed.
    said = run(sys.executable, f"import sys; sys.path.insert(0, sys.argv[1])\n{USE}", tmp_path)
    assert said.split() == list(TABLE)


@pytest.mark.slow
def test_a_new_environment_with_the_sb3_extra_trains_and_has_no_agents(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, f"{wheel}[sb3]"], check=True)
    said = run(python, USE + SB3, tmp_path).split()
    assert said == [*TABLE, "trained", "64"]
