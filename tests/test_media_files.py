"""Files of pictures and sounds that were cut off, damaged, blown up or are of another kind than their name says."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmenv.data import media
from mmenv.data.media import DatasetError, check_image, check_sound, read_audio, read_image, resample

SIDE = 96
_RNG = np.random.default_rng(0)


def noise() -> Image.Image:
    """A picture with a part that no format makes small, so that there is something to cut."""
    pixels = np.full((64, SIDE, 3), (30, 90, 200), np.uint8)
    pixels[20:50] = _RNG.integers(0, 256, (30, SIDE, 3))
    return Image.fromarray(pixels)


def encoded(form: str, **options) -> bytes:
    file = io.BytesIO()
    image = noise()
    (image.quantize(64) if form == "GIF" else image).save(file, form, **options)
    return file.getvalue()


PICTURES = {
    "PNG": encoded("PNG"),
    "JPEG": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "restarts": encoded("JPEG", restart_marker_rows=1),
    "WEBP": encoded("WEBP"),
    "lossless": encoded("WEBP", lossless=True),
    "GIF": encoded("GIF"),
    "animated": encoded("GIF", save_all=True, append_images=[noise().quantize(64)]),
    "BMP": encoded("BMP"),
    "TIFF": encoded("TIFF"),
    "LZW": encoded("TIFF", compression="tiff_lzw"),
}


def wave(rate: int = 44_100, seconds: float = 1.0) -> np.ndarray:
    """A glide with some noise, in two channels."""
    time = np.arange(int(rate * seconds)) / rate
    one = 0.3 * np.sin(3000 * time * (1 + time)) + 0.02 * _RNG.normal(size=len(time))
    return np.stack([one, one[::-1]], 1)


def sounded(form: str, subtype: str | None = None, rate: int = 44_100, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave(rate), rate, format=form, subtype=subtype, **options)
    return file.getvalue()


SOUNDS = {
    "wav": sounded("WAV"),
    "float.wav": sounded("WAV", "FLOAT"),
    "adpcm.wav": sounded("WAV", "IMA_ADPCM"),
    "rf64.wav": sounded("RF64"),
    "flac": sounded("FLAC"),
    "ogg": sounded("OGG", "VORBIS"),
    "opus": sounded("OGG", "OPUS", 48_000),
    "aiff": sounded("AIFF"),
    "mp3": sounded("MP3", bitrate_mode="VARIABLE"),
    "constant.mp3": sounded("MP3", bitrate_mode="CONSTANT"),
    "22.mp3": sounded("MP3", rate=22_050),
}


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refusal(read, *arguments) -> str:
    with pytest.raises(DatasetError) as caught:
        read(*arguments, "line 1")
    assert str(caught.value).startswith("line 1: ")
    return str(caught.value)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_was_cut_anywhere_is_refused(tmp_path, name):
    data = PICTURES[name]
    assert read_image(put(tmp_path, "whole", data), SIDE, "").shape == (SIDE, SIDE, 3)
    check_image(tmp_path / "whole", "")
    for end in (2, 30, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1):
        assert "replace the file" in refusal(read_image, put(tmp_path, "cut", data[:end]), SIDE)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "progressive", "WEBP", "GIF", "BMP"])
def test_what_was_cut_is_refused_though_somebody_told_pillow_to_load_it(tmp_path, monkeypatch, name):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    data = PICTURES[name]
    refusal(read_image, put(tmp_path, "cut", data[: len(data) * 2 // 3]), SIDE)


def test_a_jpeg_of_several_pictures_or_with_a_film_behind_it_is_read(tmp_path):
    noise().save(tmp_path / "1.jpg", "MPO", save_all=True, append_images=[noise()])
    for path in (tmp_path / "1.jpg", put(tmp_path, "2.jpg", PICTURES["JPEG"] + bytes(range(250)) * 40)):
        assert check_image(path, "") == (SIDE, 64)
        assert read_image(path, SIDE, "").shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("name", [n for n in PICTURES if n not in ("BMP", "TIFF")])  # where zeros are black pixels
def test_a_download_that_was_not_finished_is_refused_though_its_size_is_right(tmp_path, name):
    data = PICTURES[name]
    for share in (0.4, 0.7):
        end = int(len(data) * share)
        refusal(read_image, put(tmp_path, "half", data[:end] + bytes(len(data) - end)), SIDE)


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_picture_that_is_damaged_inside_is_refused(tmp_path, name):
    data, middle = PICTURES[name], len(PICTURES[name]) // 2
    refusal(read_image, put(tmp_path, "zeroed", data[:middle] + bytes(96) + data[middle + 96 :]), SIDE)


def test_a_jpeg_that_was_cut_and_closed_again_is_refused(tmp_path):
    for name in ("JPEG", "progressive"):
        data = PICTURES[name]
        cut = data[: len(data) * 2 // 3] + b"\xff\xd9"
        assert "broken" in refusal(read_image, put(tmp_path, "closed", cut), SIDE)


def test_what_follows_the_end_of_a_picture_does_no_harm(tmp_path):
    for name in ("PNG", "JPEG", "GIF"):
        whole = read_image(put(tmp_path, "whole", PICTURES[name]), SIDE, "")
        more = put(tmp_path, "more", PICTURES[name] + bytes(200))
        check_image(more, "")
        np.testing.assert_array_equal(read_image(more, SIDE, ""), whole)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1", b"\xc5\xd0\xd3\xc6"]
)
def test_other_kinds_of_pictures_are_never_opened_whatever_their_name(tmp_path, monkeypatch, content):
    monkeypatch.setattr("subprocess.Popen", None)  # Ghostscript could not be begun
    path = put(tmp_path, "1.png", content + bytes(4000))
    for read in (lambda where: check_image(path, where), lambda where: read_image(path, SIDE, where)):
        assert "no PNG, JPEG, WEBP, GIF, BMP or TIFF" in refusal(read)


@pytest.mark.parametrize("form", ["ICO", "PPM", "TGA", "ICNS", "PCX", "JPEG2000"])
def test_formats_that_are_not_read_are_refused(tmp_path, form):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, form)
    assert "no PNG" in refusal(check_image, put(tmp_path, "1.png", file.getvalue()))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, form, monkeypatch):
    monkeypatch.setattr(media, "MOST_PIXELS", 64 * SIDE - 1)
    monkeypatch.setattr("PIL.Image.Image.load", None)
    path = put(tmp_path, "1", PICTURES[form])
    for read in (lambda where: check_image(path, where), lambda where: read_image(path, SIDE, where)):
        assert "is too large (96 x 64 pixels" in refusal(read)


def test_a_header_of_millions_of_pixels_is_refused_by_its_numbers(tmp_path):
    png = bytearray(PICTURES["PNG"])
    png[16:24] = struct.pack(">2I", 6000, 6000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    assert "6000 x 6000 pixels, more than 30 million" in refusal(check_image, put(tmp_path, "1.png", bytes(png)))


@pytest.mark.parametrize("name", SOUNDS)
def test_a_whole_sound_is_read_whole(tmp_path, name):
    path = put(tmp_path, name, SOUNDS[name])
    n = check_sound(path, "")
    assert len(read_audio(path, "")) == n
    assert 16_000 <= n < 16_000 * 1.2


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_that_was_cut_anywhere_is_refused(tmp_path, name):
    data = SOUNDS[name]
    for end in (1, 40, len(data) // 3, len(data) // 2, len(data) - 300, len(data) - 4):
        path = put(tmp_path, name, data[:end])
        assert "replace the file" in refusal(read_audio, path)


@pytest.mark.parametrize("name", [n for n in SOUNDS if n.endswith((".mp3", "ogg", "opus", "flac"))])
def test_a_hole_in_a_compressed_sound_is_refused(tmp_path, name):
    data, middle = SOUNDS[name], len(SOUNDS[name]) // 2
    refusal(read_audio, put(tmp_path, name, data[:middle] + data[middle + 1500 :]))
    refusal(read_audio, put(tmp_path, name, data[:middle] + bytes(1500) + data[middle + 1500 :]))


@pytest.mark.parametrize("name", ["ogg", "opus", "flac"])
def test_a_flipped_bit_is_found_where_the_format_has_checksums(tmp_path, name):
    data = bytearray(SOUNDS[name])
    data[len(data) * 2 // 3] ^= 4
    refusal(read_audio, put(tmp_path, name, bytes(data)))


def mp3_frames(data: bytes) -> list[bytes]:
    """The frames of an MP3 at 44.1 kHz; the first holds the Xing header and no sound."""
    rates = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    frames, at = [], 0
    while at + 4 <= len(data):
        length = 144_000 * rates[(data[at + 2] >> 4) - 1] // 44_100 + (data[at + 2] >> 1 & 1)
        frames.append(data[at : at + length])
        at += length
    return frames


def loud_then_quiet() -> bytes:
    """An MP3 of variable bit rate whose first frames say nothing of the others."""
    file = io.BytesIO()
    quiet = 0.01 * np.sin(np.arange(44_100 * 4) / 50)
    both = np.concatenate([_RNG.normal(0, 0.3, 44_100).clip(-1, 1), quiet])
    soundfile.write(file, both, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)
    return file.getvalue()


def test_an_mp3_without_a_header_is_read_to_its_end(tmp_path):
    frames = mp3_frames(loud_then_quiet())[1:]
    seconds = len(frames) * 1152 / 44_100
    path = put(tmp_path, "1.mp3", b"".join(frames))
    assert len(read_audio(path, "")) == pytest.approx(16_000 * seconds, rel=0.01)
    assert check_sound(path, "") == len(read_audio(path, ""))


def test_zeros_in_the_place_of_the_last_frames_of_an_mp3_without_a_header_are_missing_sound(tmp_path):
    frames = mp3_frames(loud_then_quiet())[1:]
    data, lost = b"".join(frames[:-5]), sum(map(len, frames[-5:]))
    assert lost < 4096
    assert "it ends in" in refusal(check_sound, put(tmp_path, "1.mp3", data + bytes(lost)))
    assert check_sound(put(tmp_path, "2.mp3", data + bytes(99)), "") == check_sound(put(tmp_path, "3.mp3", data), "")


def test_two_mp3_files_in_a_row_are_read_to_their_end(tmp_path):
    data = SOUNDS["mp3"]
    assert len(read_audio(put(tmp_path, "1.mp3", data + data), "")) > 1.9 * 16_000


def test_tags_before_and_behind_an_mp3_are_no_sound_and_no_damage(tmp_path):
    data = SOUNDS["mp3"]
    whole = read_audio(put(tmp_path, "1.mp3", data), "")
    before = b"ID3\x04\0\0" + bytes([0, 0, 1, 72]) + b"\xff\xfb" * 100  # 200 bytes that look like frames
    behind = b"TAG" + b"title".ljust(125)
    ape = b"APETAGEX" + struct.pack("<4I8x", 2000, 36, 0, 0)
    for more in (
        before + data,
        data + behind,
        data + bytes(99),
        data + b"\1" * 4 + ape + behind,
        before + data + behind,
    ):
        np.testing.assert_array_equal(read_audio(put(tmp_path, "1.mp3", more), ""), whole)


def test_a_tag_before_a_flac_is_no_damage(tmp_path):
    tagged = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + SOUNDS["flac"]
    assert len(read_audio(put(tmp_path, "1.flac", tagged), "")) == 16_000


def test_an_mp3_whose_header_promises_more_frames_is_refused(tmp_path):
    frames = mp3_frames(SOUNDS["mp3"])
    assert "frames are there" in refusal(read_audio, put(tmp_path, "1.mp3", b"".join(frames[:-2])))


def test_a_sound_that_changes_its_rate_in_the_middle_is_refused(tmp_path):
    path = put(tmp_path, "1.mp3", SOUNDS["mp3"] + SOUNDS["22.mp3"])
    assert "rate or channels change" in refusal(read_audio, path)


def test_a_wav_from_a_pipe_has_no_length_and_is_read_to_its_end(tmp_path):
    data = bytearray(SOUNDS["wav"])
    data[4:8] = data[40:44] = b"\xff" * 4
    assert len(read_audio(put(tmp_path, "1.wav", bytes(data)), "")) == 16_000


@pytest.mark.parametrize("form", ["AU", "CAF", "W64"])
def test_other_kinds_of_sounds_are_refused(tmp_path, form):
    assert "no WAV, FLAC, Ogg, MP3 or AIFF" in refusal(check_sound, put(tmp_path, "1.wav", sounded(form)))


@pytest.mark.parametrize(("rate", "channels"), [(655_350, 2), (1_000_000, 1), (16_000, 9)])
def test_rates_and_channels_have_limits(tmp_path, rate, channels):
    soundfile.write(tmp_path / "1.wav", np.full((100, channels), 0.1), rate)
    for read in (check_sound, read_audio):
        assert "at most 8 at 192,000 Hz" in refusal(read, tmp_path / "1.wav")


def test_a_sound_is_decoded_in_blocks_and_no_further_than_the_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "LONGEST_SECONDS", 0.5)
    for read in (check_sound, read_audio):
        assert "longer than 0.5 s" in refusal(read, put(tmp_path, "1.wav", SOUNDS["wav"]))
    monkeypatch.setattr(media, "LONGEST_SECONDS", 60)
    monkeypatch.setattr(media, "_BLOCK", 1000)
    assert len(read_audio(tmp_path / "1.wav", "")) == 16_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = put(tmp_path, "1.wav", SOUNDS["wav"])
    path.chmod(0)
    assert "cannot be read" in refusal(read_audio, path)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_is_that_of_scipy_but_for_the_last_tenth_of_the_spectrum(rate):
    scipy = pytest.importorskip("scipy.signal")
    time = np.arange(rate // 4) / rate
    tones = sum(np.sin(2 * np.pi * hertz * time + hertz) for hertz in (200, 1000, 3100)) / 3
    divisor = np.gcd(rate, 16_000)
    expected = scipy.resample_poly(tones, 16_000 // divisor, rate // divisor, window=("kaiser", 8.0))
    np.testing.assert_allclose(resample(tones, rate)[40:-40], expected[40 : len(resample(tones, rate)) - 40], atol=0.01)


def test_the_end_of_a_wave_does_not_reach_its_beginning():
    step = np.concatenate([np.zeros(4000), np.ones(4000)])  # at 8 kHz; a transform that wraps puts 0.32 at the start
    found = resample(step, 8000)
    assert np.abs(found[:4000]).max() < 1e-3
    assert np.abs(found[9000:15_000] - 1).max() < 1e-3


def test_the_highest_frequency_is_not_doubled_by_resampling():
    highest = np.cos(np.pi * np.arange(800))  # at 8 kHz
    assert np.abs(resample(highest, 8000)[200:-200]).max() < 0.6


@pytest.mark.parametrize("options", [{}, {"quality": 5}, {"optimize": True}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_whole_jpeg_is_never_taken_for_a_damaged_one(tmp_path, mode, options):
    grey = np.full((200, 300, 3), 128, np.uint8)
    for part in (slice(0), slice(0, 80), slice(120, 200), slice(None)):  # one colour, and busy above, below, everywhere
        pixels = grey.copy()
        pixels[part] = _RNG.integers(0, 256, pixels[part].shape)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "1.jpg", **options)
        for side in (24, 224):
            read_image(tmp_path / "1.jpg", side, "")
