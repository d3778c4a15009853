"""Bytes and text: compression by ending, lines by "\\n", nothing lost silently."""

import bz2
import gzip
import io
import lzma

import pytest
import zstandard

from portable.core.errors import DataError
from portable.data.format.stream import decode, iter_lines, open_bytes, read_whole

PLAIN = "héllo\nworld\n".encode()
PACKED = {
    "a.txt": PLAIN,
    "a.txt.gz": gzip.compress(PLAIN),
    "a.txt.bz2": bz2.compress(PLAIN),
    "a.txt.XZ": lzma.compress(PLAIN),
    "a.txt.zst": zstandard.compress(PLAIN),
    "two.txt.zst": zstandard.compress(PLAIN[:5]) + zstandard.compress(PLAIN[5:]),
}


@pytest.mark.parametrize("name", PACKED)
def test_every_compression_gives_the_same_bytes(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    with open_bytes(str(tmp_path / name)) as stream:
        assert stream.read() == PLAIN


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.bz2", "a.txt.XZ", "a.txt.zst"])
def test_damaged_compression_names_the_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no archive at all")
    with (
        pytest.raises(DataError, match=f"{name} cannot be decompressed"),
        open_bytes(str(tmp_path / name)) as stream,
    ):
        stream.read()


def test_a_cut_archive_is_an_error_not_a_short_text(tmp_path):
    for name in ("a.txt.gz", "a.txt.XZ"):
        (tmp_path / name).write_bytes(PACKED[name][:-6])
        with pytest.raises(DataError, match="cut or damaged"), open_bytes(str(tmp_path / name)) as stream:
            stream.read()


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match=r"gone\.txt does not exist"), open_bytes(str(tmp_path / "gone.txt")):
        pass


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 1000])
@pytest.mark.parametrize("raw", [b"", b"a", b"a\n", b"a\n\nb", b"\n", "x\u2028y\x85z\nw".encode()])
def test_lines_end_with_newline_only(raw, chunk_bytes):
    lines = list(iter_lines(io.BytesIO(raw), chunk_bytes))
    assert lines == raw.removesuffix(b"\n").split(b"\n") if raw else lines == []


def test_utf8_is_read_without_its_mark(recorder):
    assert decode(b"\xef\xbb\xbfhi", "f", None, recorder) == "hi"
    assert recorder.rows == []


def test_other_bytes_go_to_quarantine_with_their_place(recorder):
    assert decode("naïve".encode("latin-1"), "f.txt", 7, recorder) is None
    file, line, reason, text = recorder.rows[0]
    assert (file, line) == ("f.txt", 7)
    assert reason == "not UTF-8: byte 0xef at offset 2"
    assert text == "na\ufffdve"


def test_a_whole_file_of_other_bytes_goes_to_quarantine(tmp_path, recorder):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert read_whole(str(tmp_path / "a.txt"), recorder) is None
    assert recorder.rows[0][1] is None
