"""A prepared dataset holds exactly what was put into it, and says so where it does not."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard

from theseus_core.data.clip import Clip
from theseus_core.data.shards import Dataset, content_key, decode_frames, encode_frames
from theseus_core.data.writer import PARTIAL, ChunkWriter, write_dataset
from theseus_core.errors import TheseusError


def some_clips(count: int = 7) -> list[Clip]:
    random = np.random.default_rng(0)
    shapes = [(random.integers(1, 9), 8, 16, 3) for _ in range(count)]
    return [Clip(random.integers(0, 256, shape).astype(np.uint8), 10.0, f"clip {n}") for n, shape in enumerate(shapes)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "dataset", some_clips(), {"made": "up"}, chunk_size=3)


def test_frames_are_exact_and_the_delta_is_the_wrapped_one() -> None:
    for clip in some_clips():
        data = encode_frames(clip.frames)
        np.testing.assert_array_equal(decode_frames(data, *clip.frames.shape[:3]), clip.frames)
        delta = np.frombuffer(zstandard.decompress(data), np.uint8).reshape(clip.frames.shape).astype(int)
        np.testing.assert_array_equal(np.cumsum(delta, 0) % 256, clip.frames)


def test_the_key_is_of_shape_and_bytes() -> None:
    frames = some_clips(1)[0].frames
    assert content_key(frames) == content_key(np.asfortranarray(frames))
    assert content_key(frames) != content_key(frames.swapaxes(1, 2).reshape(frames.shape))
    assert content_key(frames.reshape(frames.shape[0], 16, 8, 3)) != content_key(frames)


def test_any_clip_is_read_at_random_from_any_thread(dataset: Dataset) -> None:
    clips = some_clips()
    with ThreadPoolExecutor(4) as pool:
        order = [n % len(dataset) for n in range(0, 200, 3)]
        for number, clip in zip(order, pool.map(dataset.read, order), strict=True):
            np.testing.assert_array_equal(clip.frames, clips[number].frames)
            assert (clip.fps, clip.caption) == (clips[number].fps, clips[number].caption)


def test_chunks_are_bounded_and_plain_zstd_files(dataset: Dataset) -> None:
    chunks = sorted((dataset.path / "chunks").iterdir())
    assert [path.name for path in chunks] == ["00000.zst", "00001.zst", "00002.zst"]
    assert [(record.chunk, record.index) for record in dataset.records] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(chunks[0].read_bytes()), read_across_frames=True)
    assert len(reader.read()) == sum(clip.frames.size for clip in some_clips()[:3])
    assert not (dataset.path / PARTIAL).exists()


def test_the_description_adds_up(dataset: Dataset) -> None:
    described = json.loads((dataset.path / "dataset.json").read_text())
    assert described["clips"] == 7
    assert described["frames"] == sum(len(clip.frames) for clip in some_clips())
    assert described["bytes"] == sum(path.stat().st_size for path in (dataset.path / "chunks").iterdir())
    assert dataset.settings == {"made": "up"}


def test_the_fingerprint_is_of_pictures_and_captions(tmp_path: Path, dataset: Dataset) -> None:
    same = write_dataset(tmp_path / "same", some_clips(), {"made": "otherwise"})
    assert same.fingerprint == dataset.fingerprint
    renamed = [Clip(clip.frames, clip.fps, "x" + clip.caption) for clip in some_clips()]
    assert write_dataset(tmp_path / "renamed", renamed, {}).fingerprint != dataset.fingerprint


def test_a_clip_seen_before_is_left_out(tmp_path: Path) -> None:
    assert len(write_dataset(tmp_path / "dataset", some_clips() + some_clips(), {})) == 7


@pytest.mark.parametrize("flip", [0, 5, 40, -1])
def test_a_damaged_clip_is_named_and_the_others_are_read(dataset: Dataset, flip: int) -> None:
    record = dataset.records[4]
    path = dataset.path / "chunks" / "00001.zst"
    data = bytearray(path.read_bytes())
    data[record.offset + flip % record.bytes] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(TheseusError, match=r"damaged clip 4 \(000004\)"):
        dataset.read(4)
    assert dataset.read(3).caption == "clip 3"
    assert dataset.read(5).caption == "clip 5"


def test_a_lost_chunk_is_an_error(dataset: Dataset) -> None:
    (dataset.path / "chunks" / "00000.zst").unlink()
    with pytest.raises(TheseusError, match="damaged clip 0"):
        dataset.read(0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dataset.json", None, "no prepared dataset"),
        ("dataset.json", "{", "damaged dataset"),
        ("dataset.json", '{"format": 99}', "another format than 1: 99"),
        ("dataset.json", "[]", "another format"),
        ("clips.jsonl", None, "cannot read"),
        ("clips.jsonl", "{}\n", "damaged dataset"),
        ("clips.jsonl", "", "does not fit"),
    ],
)
def test_what_cannot_be_opened_is_said_with_the_way_out(dataset: Dataset, name: str, text: str | None, message: str) -> None:
    path = dataset.path / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(TheseusError, match=message) as caught:
        Dataset.open(dataset.path)
    assert "theseus prep" in (caught.value.hint or "")


def test_nothing_is_overwritten_and_nothing_is_no_dataset(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(TheseusError, match="there is a dataset already"):
        write_dataset(dataset.path, some_clips(), {})
    with pytest.raises(TheseusError, match="no clips"):
        write_dataset(tmp_path / "empty", [], {})


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TheseusError, match="cannot write to"):
        write_dataset(tmp_path / "file" / "dataset", some_clips(), {})


def test_a_name_may_hold_what_unicode_calls_a_line_break(tmp_path: Path) -> None:
    clips = [Clip(clip.frames, clip.fps, f"one\u2028two\x85{n}") for n, clip in enumerate(some_clips())]
    write_dataset(tmp_path / "dataset", clips, {})
    captions = [record.captions for record in Dataset.open(tmp_path / "dataset").records]
    assert captions == [(clip.caption,) for clip in clips]


def test_what_was_never_recorded_is_cut_off(tmp_path: Path) -> None:
    with ChunkWriter(tmp_path, 2) as writer:
        for data in (b"one", b"two", b"three", b"four", b"five"):
            writer.append(data)
            if data == b"three":
                recorded = writer.place
    with ChunkWriter(tmp_path, 2, recorded) as writer:
        writer.append(b"FOUR")
    assert {path.name: path.read_bytes() for path in (tmp_path / "chunks").iterdir()} == {
        "00000.zst": b"onetwo",
        "00001.zst": b"threeFOUR",
    }
