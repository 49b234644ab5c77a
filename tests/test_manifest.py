"""Datasets of one's own: every kind of image and sound is read, every fault names file, line and remedy."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import soundfile
from PIL import Image
from toys import characters

import mmenv  # noqa: F401
from mmenv.data.media import RATE, DatasetError, resample
from mmenv.data.readers.by_path import read_dataset
from mmenv.data.sample import CAPTION_PROMPT

RED, WHITE = (255, 0, 0), (255, 255, 255)


def write(folder: Path, *entries: Any) -> Path:
    """A manifest of these entries; a string is written as it is."""
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def picture(folder: Path, image: Image.Image | None = None, name: str = "1.png", **options: Any) -> Path:
    """A folder with one picture and a question about it."""
    (image or Image.new("RGB", (20, 20), RED)).save(folder / name, **options)
    return write(folder, {"file_name": name, "prompt": "what is it ?", "answer": "dog"})


def sound(folder: Path, wave: np.ndarray, rate: int = RATE, name: str = "1.wav", subtype: str = "PCM_16") -> Path:
    """A folder with one sound."""
    soundfile.write(folder / name, wave, rate, subtype=subtype)
    return write(folder, {"audio": name})


def tone(rate: int = RATE, seconds: float = 0.5, hertz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def image_of(folder: Path, side: int = 12) -> np.ndarray:
    found = read_dataset(folder, side)[0].image
    assert found is not None
    assert found.shape == (side, side, 3)
    assert found.dtype == np.uint8
    return found


def complaint(folder: Path | str, use: bool = True) -> str:
    """What reading a dataset complains of, or its first sample where ``use`` is true."""
    if use:
        dataset = read_dataset(folder, 12)  # finds nothing yet
    with pytest.raises(DatasetError) as caught:
        dataset[0] if use else read_dataset(folder, 12)
    return str(caught.value)


def test_a_folder_is_a_dataset_for_gym_make(tmp_path):
    env = gym.make("mmenv/Captioning-v0", dataset=str(picture(tmp_path)), image_size=24, reward=characters)
    observation, info = env.reset(seed=0)
    assert observation["image"].shape == (24, 24, 3)
    assert (observation["image"] == RED).all()
    assert info["sample_id"] == f"{tmp_path.name}/1"
    _, reward, terminated, _, info = env.step(1)
    assert terminated
    assert reward == 0.0
    assert "gold" not in info


def test_a_folder_is_a_dataset_for_gym_make_vec(tmp_path):
    venv = gym.make_vec("mmenv/Captioning-v0", num_envs=3, dataset=picture(tmp_path), reward=characters)
    observations, _ = venv.reset(seed=0)
    assert observations["image"].shape == (3, 96, 96, 3)


def test_sounds_are_a_dataset_for_a_spoken_task(tmp_path):
    Image.new("RGB", (9, 9), RED).save(tmp_path / "1.png")
    soundfile.write(tmp_path / "1.wav", tone(), RATE)
    write(tmp_path, {"image": "1.png", "audio": "1.wav", "references": ["a dog", "dog"]})
    env = gym.make("mmenv/SpokenDialogue-v0", dataset=tmp_path, reward=characters)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation["audio"][: RATE // 2], tone(), atol=1e-3)
    assert env.step(1)[2]


def test_a_jsonl_file_is_a_dataset_and_its_columns_are_read(tmp_path):
    picture(tmp_path)
    write(
        tmp_path,
        {"image": "1.png", "question": "what ?", "answers": ["a", "b"], "id": "first"},
        "",
        {"file_name": "1.png", "text": "a red square ."},
    )
    first, second = read_dataset(tmp_path / "metadata.jsonl")
    assert (first.id, first.index, first.prompt, first.references) == ("first", 0, "what ?", ("a", "b"))
    assert (second.id, second.index, second.prompt) == (f"{tmp_path.name}/3", 1, CAPTION_PROMPT)
    assert second.truth is None


def test_a_dataset_is_read_once_and_again_when_it_changed(tmp_path):
    first = read_dataset(picture(tmp_path))
    assert read_dataset(tmp_path) is first
    write(tmp_path, {"file_name": "1.png", "prompt": "and now ?"})
    os.utime(tmp_path / "metadata.jsonl", ns=(1, 1))
    assert read_dataset(tmp_path)[0].prompt == "and now ?"


def test_only_the_last_samples_are_kept_and_none_are_pickled(tmp_path):
    picture(tmp_path)
    dataset = read_dataset(write(tmp_path, *[{"file_name": "1.png", "prompt": f"{i} ?"} for i in range(4)]))
    dataset.kept = 2
    first = dataset[0]
    assert dataset[0] is first
    dataset[1], dataset[0], dataset[2]
    assert list(dataset._recent) == [0, 2]
    twin = pickle.loads(pickle.dumps(dataset))
    assert not twin._recent
    assert [s.prompt for s in twin[-2:]] == ["2 ?", "3 ?"]


def test_images_are_read_only_because_they_are_shared(tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        image_of(picture(tmp_path))[0] = 0


@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = Image.new("RGB", (20, 20), WHITE if mode in ("L", "1") else RED).convert(mode)
    name = "1.tif" if mode in ("CMYK", "YCbCr") else "1.png"
    found = image_of(picture(tmp_path, image, name)).astype(int)
    assert np.abs(found - (WHITE if mode in ("L", "1") else RED)).max() <= 2


def test_transparency_lies_over_white(tmp_path):
    assert (image_of(picture(tmp_path, Image.new("RGBA", (20, 20), (255, 0, 0, 0)))) == WHITE).all()


def test_a_transparent_palette_lies_over_white(tmp_path):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0])
    assert (image_of(picture(tmp_path, image, transparency=0)) == WHITE).all()


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    image = Image.fromarray(np.full((20, 20), 0x80FF, np.uint16))
    assert (image_of(picture(tmp_path, image)) == 0x80).all()


def test_a_photo_is_turned_upright(tmp_path):
    image = Image.new("RGB", (16, 16), WHITE)
    image.paste(RED, (0, 0, 16, 8))  # red on top
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    found = image_of(picture(tmp_path, image, exif=exif), 16)
    assert (found[12:] == RED).all()
    assert (found[:4] == WHITE).all()


@pytest.mark.parametrize("size", [(40, 10), (4000, 1)])
def test_a_wide_image_keeps_its_shape_between_white_bars(tmp_path, size):
    found = image_of(picture(tmp_path, Image.new("RGB", size, RED)))
    assert (found[[0, -1]] == WHITE).all()
    assert (found[6] == RED).all() or (found[5] == RED).all()


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 2), (44_100, 1), (8_000, 2), (48_000, 1)])
def test_other_rates_and_stereo_come_out_as_one_channel_at_16_khz(tmp_path, rate, channels):
    wave = np.repeat(tone(rate)[:, None], channels, 1)
    found = read_dataset(sound(tmp_path, wave, rate))[0].audio
    assert found is not None
    assert found.dtype == np.float32
    assert found.shape == (RATE // 2,)
    # The ends ring a little where a wave does not repeat.
    np.testing.assert_allclose(found[200:-200], tone()[200:-200], atol=0.01)


def test_resampling_leaves_out_what_16_khz_cannot_hold():
    assert np.abs(resample(tone(48_000, hertz=12_000), 48_000)[200:-200]).max() < 1e-3


def test_a_missing_folder_is_named():
    assert "/nowhere" in complaint("/nowhere", use=False)
    assert "does not exist" in complaint("/nowhere/metadata.jsonl", use=False)


def test_a_folder_without_a_manifest_is_told_what_to_write(tmp_path):
    assert "metadata.jsonl" in complaint(tmp_path, use=False)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_manifest_is_refused(tmp_path, text):
    assert "is empty" in complaint(write(tmp_path, text), use=False)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{not json", "invalid JSON"),
        ("[1, 2]", "is no object"),
        ({"prompt": "what ?"}, "no column file_name, image or audio"),
        ({"file_name": "1.png"}, "no column prompt"),
        ({"file_name": "1.png", "prompt": 3}, "prompt 3 is no text"),
        ({"file_name": "1.png", "prompt": "?", "answer": 3}, "answer 3 is no text"),
        ({"file_name": "1.png", "prompt": "?", "id": []}, "id [] is no text"),
        ({"file_name": "2.png", "prompt": "?"}, "is no file"),
        ({"file_name": ".", "prompt": "?"}, "is no file"),
        ({"file_name": None, "prompt": "?"}, "no column file_name, image or audio"),
        ({"file_name": "a\0b", "prompt": "?"}, "is no path"),
        ({"file_name": "../1.png", "prompt": "?"}, "leaves the folder"),
        ({"file_name": "/etc/hostname", "prompt": "?"}, "leaves the folder"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path, entry, expected):
    picture(tmp_path)
    said = complaint(write(tmp_path, {"file_name": "1.png", "prompt": "?"}, entry), use=False)
    assert "metadata.jsonl, line 2: " in said
    assert expected in said


def test_an_id_given_twice_is_refused(tmp_path):
    picture(tmp_path)
    entry = {"file_name": "1.png", "prompt": "?", "id": "a"}
    assert "line 2: id 'a' is that of line 1" in complaint(write(tmp_path, entry, entry), use=False)


def test_text_that_is_no_utf8_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(b'{"prompt": "\xff"}')
    assert "line 1: no UTF-8" in complaint(tmp_path, use=False)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "out.png")
    picture(inside)
    (inside / "2.png").symlink_to(inside / "1.png")
    read_dataset(write(inside, {"file_name": "2.png", "prompt": "?"}))[0]
    (inside / "3.png").symlink_to(tmp_path / "out.png")
    write(inside, {"file_name": "3.png", "prompt": "??"})
    assert "leaves the folder" in complaint(inside / ".." / "data", use=False)


def test_a_truncated_image_is_named(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8))
    path = picture(tmp_path, noise) / "1.png"
    path.write_bytes(path.read_bytes()[:-3000])
    said = complaint(tmp_path, use=False)
    assert "line 1: 1.png is broken" in said
    assert "replace the file" in said


def test_what_is_no_image_is_refused_when_the_dataset_is_read(tmp_path):
    (picture(tmp_path) / "1.png").write_text("hello")
    assert "1.png is no image" in complaint(tmp_path, use=False)


def test_an_image_bomb_is_refused_when_the_dataset_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("mmenv.data.media.MOST_PIXELS", 399)
    assert "1.png is too large" in complaint(picture(tmp_path), use=False)


def test_pixels_of_floating_point_are_refused(tmp_path):
    said = complaint(picture(tmp_path, Image.fromarray(np.zeros((9, 9), np.float32)), "1.tif"))
    assert "8 bits" in said


def test_what_is_no_sound_is_refused_when_the_dataset_is_read(tmp_path):
    (sound(tmp_path, tone()) / "1.wav").write_text("hello")
    assert "1.wav is no sound" in complaint(tmp_path, use=False)


@pytest.mark.parametrize(("n", "expected"), [(0, "is empty"), (RATE * 61, "lasts 61 s")])
def test_an_empty_and_an_endless_sound_are_refused_when_the_dataset_is_read(tmp_path, n, expected):
    assert expected in complaint(sound(tmp_path, np.full(n, 0.1)), use=False)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_silence_and_values_that_are_not_finite_are_refused(tmp_path, value):
    said = complaint(sound(tmp_path, np.full(999, value, np.float32), subtype="FLOAT"))
    assert ("silent" if value == 0 else "not finite") in said


def test_a_fault_reaches_who_makes_the_environment(tmp_path):
    with pytest.raises(DatasetError, match="leaves the folder"):
        gym.make("mmenv/Captioning-v0", dataset=write(tmp_path, {"file_name": "/x.png"}), reward=characters)
