"""Data without splits is divided by a hash of the ids, and says so."""

from __future__ import annotations

import json
import pickle
import threading
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from toys import characters

import mmenv
from mmenv.data.sample import ALL, SPLITS, divided


def sample(i: int) -> mmenv.Sample:
    return mmenv.Sample(f"s{i}", i, "is it red ?", image=np.full((96, 96, 3), i % 250, np.uint8), references=("red",))


def captions(folder: Path, n: int) -> Path:
    """One picture with ``n`` captions."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(folder / "1.png")
    lines = (json.dumps({"file_name": "1.png", "caption": "red", "id": f"s{i}"}) for i in range(n))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_eight_in_ten_train_and_no_sample_is_in_two_splits():
    parts = divided([f"s{i}" for i in range(5000)])
    assert sorted(i for places in parts.values() for i in places) == list(range(5000))
    assert [len(parts[name]) / 5000 for name in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_a_sample_stays_in_its_split_whatever_is_added_and_in_whatever_order():
    ids = [f"s{i}" for i in range(400)]
    before, after = divided(ids[:300]), divided(ids[::-1])
    for name in SPLITS:
        assert {ids[i] for i in before[name]} <= {ids[::-1][i] for i in after[name]}


@pytest.mark.parametrize("n", range(3, 40))
def test_of_few_samples_no_split_is_empty(n):
    parts = divided([f"s{i}" for i in range(n)])
    assert all(parts.values())
    assert sum(map(len, parts.values())) == n
    assert len(parts["train"]) >= n / 3


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_samples_are_in_every_split(n):
    assert divided(["a", "b"][:n]) == {name: list(range(n)) for name in SPLITS}


def test_a_folder_and_a_list_are_divided_alike(tmp_path):
    folder = captions(tmp_path, 60)
    listed = [sample(i) for i in range(60)]
    ids = {}
    for kind, dataset in (("folder", folder), ("list", listed)):
        with pytest.warns(mmenv.DatasetWarning, match=r"has no splits and is divided.*for train.*split='all'"):
            task = gym.make("mmenv/Captioning-v0", dataset=dataset, reward=characters).get_wrapper_attr("task")
        ids[kind] = [[task.sample(name, i).id for i in range(task.size(name))] for name in SPLITS]
        for name in SPLITS:
            assert [task.sample(name, i).index for i in range(task.size(name))] == list(range(task.size(name)))
    assert ids["folder"] == ids["list"]


def test_a_part_is_not_divided_again(tmp_path):
    part = mmenv.read_dataset(captions(tmp_path, 60)).split("train")
    assert part.split("train").rows == part.rows
    assert part.split(ALL).rows == part.rows
    with pytest.raises(mmenv.DatasetError, match="no split 'test', only train"):
        part.split("test")


def test_all_is_everything_without_a_word(tmp_path):
    for dataset in (captions(tmp_path, 20), [sample(i) for i in range(20)]):
        with warnings.catch_warnings():
            warnings.simplefilter("error", mmenv.DatasetWarning)
            env = gym.make("mmenv/Captioning-v0", dataset=dataset, split=ALL, reward=characters)
        assert env.get_wrapper_attr("task").size(ALL) == 20
        env.reset(options={"sample_index": 19})


def test_samples_that_have_to_be_loaded_are_divided_by_their_place_without_loading_any():
    class Lazy:
        loaded = 0

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> mmenv.Sample:
            Lazy.loaded += 1
            return sample(index)

    env = gym.make("mmenv/Captioning-v0", dataset=Lazy(), reward=characters)
    task = env.get_wrapper_attr("task")
    sizes = [task.size(name) for name in SPLITS]
    assert (Lazy.loaded, sum(sizes)) == (0, 100)
    assert len({task.sample(name, i).id for name in SPLITS for i in range(task.size(name))}) == 100


def test_the_embedded_world_has_no_split_of_everything():
    with pytest.raises(mmenv.ArgumentError, match="split='all' is unknown"):
        gym.make("mmenv/VQA-v0", reward="gold", split=ALL)


def test_threads_may_share_a_dataset(tmp_path):
    dataset = mmenv.read_dataset(captions(tmp_path, 40))
    dataset.kept, errors = 3, []

    def read(seed: int) -> None:
        try:
            for i in np.random.default_rng(seed).integers(0, 40, 300).tolist():
                assert dataset[i].id == f"s{i}"
        except (KeyError, RuntimeError, StopIteration, AssertionError) as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(dataset._recent) <= 3
    assert pickle.loads(pickle.dumps(dataset))[1].id == "s1"
