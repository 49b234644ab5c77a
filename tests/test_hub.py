"""Objects of the package datasets as data: any columns, splits, sounds, faults."""

from __future__ import annotations

import io

import datasets
import gymnasium as gym
import numpy as np
import pytest
import soundfile
from PIL import Image
from toys import characters

import mmenv


def table(**columns) -> datasets.Dataset:
    """Three red pictures with captions, and further columns."""
    pictures = [Image.new("RGB", (20, 10), (200, 0, 0)) for _ in range(3)]
    features = {"img": datasets.Image(), "words": datasets.Value("string")}
    rows = {"img": pictures, "words": [f"picture {i}" for i in range(3)]}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


def test_columns_of_any_name_are_mapped():
    dataset = mmenv.from_datasets(table(q=["a ?", "b ?", "c ?"]), image="img", prompt="q", references="words")
    assert len(dataset) == 3
    assert (dataset[1].prompt, dataset[1].references) == ("b ?", ("picture 1",))
    assert dataset[1].image.shape == (96, 96, 3)
    assert np.abs(dataset[1].image[24, 24].astype(int) - (200, 0, 0)).max() < 4


def test_a_table_is_a_dataset_for_gym_make_where_its_columns_have_usual_names():
    given = table().rename_column("words", "caption")
    env = gym.make("mmenv/Captioning-v0", dataset=given, image_size=24, reward=characters)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (24, 24, 3)
    assert "picture" in env.get_wrapper_attr("tokenizer").words


def test_lists_of_references_and_ids_are_read():
    given = table(answers=[["x", "y"], ["z"], []], id=[7, 8, 9])
    dataset = mmenv.from_datasets(given, references="answers")
    assert dataset[0].references == ("x", "y")
    assert dataset[2].references == ()
    assert dataset[0].id == "7"


def test_a_column_id_that_names_no_row_is_left_alone_but_not_where_it_was_asked_for():
    given = table(id=[7, 7, 8])
    assert [s.id for s in mmenv.from_datasets(given)] == ["row/0", "row/1", "row/2"]
    with pytest.raises(mmenv.DatasetError, match="row 1: id '7' is that of row 0"):
        mmenv.from_datasets(given, id="id")


def test_ids_that_begin_anew_in_every_split_name_no_row():
    given = datasets.DatasetDict({"train": table(id=[0, 1, 2]), "test": table(id=[0, 1, 2])})
    dataset = mmenv.from_datasets(given, references="words")
    assert len(dataset) == 6
    assert [s.id for s in dataset.split("test")] == ["test/0", "test/1", "test/2"]


def test_the_keys_of_a_dictionary_are_splits():
    given = datasets.DatasetDict(train=table(), test=table().select([0]))
    env = gym.make("mmenv/Captioning-v0", dataset=given.rename_column("words", "text"), split="test", reward=characters)
    task = env.get_wrapper_attr("task")
    assert (task.size("train"), task.size("test")) == (3, 1)


def test_a_picture_that_a_table_names_is_decoded_again_when_it_has_changed(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20), (200, 0, 0)).save(path)
    given = datasets.Dataset.from_dict({"image": [str(path)], "text": ["x"]}).cast_column("image", datasets.Image())
    assert mmenv.from_datasets(given)[0].image[24, 24].tolist() == [200, 0, 0]
    Image.new("RGB", (30, 30), (0, 0, 200)).save(path)
    assert mmenv.from_datasets(given)[0].image[24, 24].tolist() == [0, 0, 200]


def test_sounds_are_read_from_their_bytes():
    wave = 0.3 * np.sin(np.arange(8000) / 5)
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="WAV")
    given = table().add_column("speech", [{"bytes": file.getvalue(), "path": None}] * 3)
    given = given.cast_column("speech", datasets.Audio(decode=False))
    sample = mmenv.from_datasets(given, references="words")[0]
    np.testing.assert_allclose(sample.audio, wave, atol=1e-3)
    assert sample.prompt == ""
    assert mmenv.from_datasets(given, references="words").longest() == (8000, 1)


def test_a_broken_row_is_refused_when_used_and_skipped_on_request():
    pictures = [{"bytes": b"nonsense", "path": None}, {"bytes": None, "path": "/nowhere.png"}]
    good = io.BytesIO()
    Image.new("RGB", (9, 9)).save(good, "PNG")
    rows = {"image": [*pictures, {"bytes": good.getvalue(), "path": None}], "caption": ["a", "b", "c"]}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    given = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(mmenv.DatasetError, match="row 0: row 0 is no image"):
        mmenv.from_datasets(given)[0]
    with pytest.warns(mmenv.DatasetWarning, match="nowhere.png"):
        assert [s.references for s in mmenv.from_datasets(given, broken="skip")] == [("c",)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"image": "picture"}, "image='picture' is no column"),
        ({"image": "n"}, "cast_column"),
        ({"prompt": "n"}, "no text"),
    ],
)
def test_a_wrong_column_is_named(arguments, expected):
    with pytest.raises(mmenv.DatasetError, match=expected):
        mmenv.from_datasets(table(n=[1, 2, 3]), **arguments)


def test_a_stream_is_refused():
    with pytest.raises(mmenv.DatasetError, match="streaming"):
        mmenv.from_datasets(table().to_iterable_dataset())
