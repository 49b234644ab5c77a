"""Decoded pictures are kept on disk, and never believed where they are not what they should be."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from datafiles import captioned
from PIL import Image

import mmenv
from mmenv.data import dataset as module
from mmenv.data.cache import ImageCache, cache_folder, clear_cache
from mmenv.data.dataset import MediaDataset


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """Files that are decoded from here on."""
    files: list[Path] = []
    read = module.read_image

    def counted(source, side, where):
        files.append(source)
        return read(source, side, where)

    monkeypatch.setattr(module, "read_image", counted)
    return files


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MMENV_CACHE", str(tmp_path / "cache"))
    return captioned(tmp_path / "pictures", 9)


def again(folder: Path) -> MediaDataset:
    """The dataset as another process would read it."""
    dataset = mmenv.read_dataset(folder)
    return MediaDataset(dataset.name, dataset.rows, dataset.image_size)


def cache_file(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache").glob("*.images")
    return found


def test_a_second_run_decodes_nothing_and_sees_the_same(folder, decoded):
    first = [again(folder)[i].image for i in range(9)]
    assert len(decoded) == 9
    second = [again(folder)[i].image for i in range(9)]
    assert len(decoded) == 9
    np.testing.assert_array_equal(first, second)
    assert not second[0].flags.writeable


def test_a_changed_picture_is_decoded_again_and_no_other(folder, decoded):
    list(again(folder))
    Image.new("RGB", (20, 20), (1, 2, 3)).save(folder / "0.png")
    assert (again(folder)[0].image == (1, 2, 3)).all()
    list(again(folder))
    assert len(decoded) == 10


def test_another_size_has_a_cache_of_its_own(folder, decoded):
    list(again(folder))
    assert mmenv.read_dataset(folder, 24)[0].image.shape == (24, 24, 3)
    assert len(decoded) == 10


@pytest.mark.parametrize("damage", ["cut", "scribbled", "emptied"])
def test_a_damaged_cache_is_made_anew(folder, decoded, tmp_path, damage):
    right = [again(folder)[i].image for i in range(9)]
    path = cache_file(tmp_path)
    raw = path.read_bytes()
    half = len(raw) // 2
    path.write_bytes({"cut": raw[:half], "scribbled": raw[:half] + b"\x07" * (len(raw) - half), "emptied": b""}[damage])
    np.testing.assert_array_equal([again(folder)[i].image for i in range(9)], right)
    assert len(decoded) > 9
    decoded.clear()
    list(again(folder))
    assert not decoded


def test_where_nothing_can_be_written_everything_works_without(folder, monkeypatch, decoded, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMENV_CACHE", str(tmp_path / "file" / "cache"))
    list(again(folder))
    list(again(folder))
    assert len(decoded) == 18


def test_off_keeps_nothing(folder, monkeypatch, decoded, tmp_path):
    monkeypatch.setenv("MMENV_CACHE", "off")
    list(again(folder))
    assert cache_folder() is None
    assert not (tmp_path / "cache").exists()


def test_without_the_variable_the_users_own_cache_is_taken(monkeypatch):
    monkeypatch.delenv("MMENV_CACHE")
    found = cache_folder()
    assert found is not None
    assert "mmenv" in found.parts


def test_a_dataset_with_its_cache_goes_to_other_processes(folder):
    dataset = again(folder)
    dataset[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[0].image, dataset[0].image)


def test_nothing_temporary_is_left(folder, tmp_path):
    list(again(folder))
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".images"]
    assert os.path.getsize(cache_file(tmp_path)) == 9 * (4 + 96 * 96 * 3)


def test_an_empty_cache_file_holds_nothing(tmp_path):
    picture = tmp_path / "1.png"
    Image.new("RGB", (9, 9)).save(picture)
    cache = ImageCache("name", [picture], 8, tmp_path)
    assert cache.get(picture) is None
    cache.put(picture, np.ones((8, 8, 3), np.uint8))
    assert (ImageCache("name", [picture], 8, tmp_path).get(picture) == 1).all()


def kept_pictures(folder: Path, name: str, n: int = 40) -> Path:
    """The file of a dataset of n pictures, all of them decoded."""
    picture = folder / "1.png"
    Image.new("RGB", (9, 9)).save(picture)
    cache = ImageCache(name, [picture, *(folder / f"{name}-{i}" for i in range(n - 1))], 64, folder)
    for source in list(cache.slots):
        cache.put(Path(source[0]), np.ones((64, 64, 3), np.uint8))
    return cache.path


def test_the_dataset_that_was_unused_for_longest_is_evicted_first(tmp_path, monkeypatch):
    first, second = kept_pictures(tmp_path, "first"), kept_pictures(tmp_path, "second")
    os.utime(second, ns=(1, 1))
    size = first.stat().st_size
    monkeypatch.setenv("MMENV_CACHE_GB", str(2.5 * size / 1e9))
    third = kept_pictures(tmp_path, "third")
    assert sorted(tmp_path.glob("*.images")) == sorted([first, third])
    os.utime(first, ns=(1, 1))
    kept_pictures(tmp_path, "first")  # used again
    kept_pictures(tmp_path, "fourth")
    assert first.exists()
    assert not third.exists()


def test_a_dataset_larger_than_the_limit_is_not_kept_and_evicts_nothing(tmp_path, monkeypatch):
    first = kept_pictures(tmp_path, "first")
    monkeypatch.setenv("MMENV_CACHE_GB", str(first.stat().st_size / 1e9))
    assert not kept_pictures(tmp_path, "large", n=41).exists()
    assert first.exists()


def test_clearing_deletes_every_file_of_the_cache_and_no_other(tmp_path):
    kept_pictures(tmp_path, "first")
    clear_cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]
