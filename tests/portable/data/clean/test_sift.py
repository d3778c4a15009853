"""The first pass: what is read, counted, dropped and remembered."""

import json

import pytest

from portable.core.errors import DataError
from portable.data.clean.quarantine import QuarantineFile
from portable.data.clean.sift import draw_for_split, sift_documents
from portable.data.config import DataConfig, DedupConfig
from portable.data.format.corpus import read_documents, read_lines
from portable.data.op.build import build_ops


@pytest.fixture
def sift(tmp_path):
    def run(lines, ops=None, **settings):
        (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
        config = DataConfig(source=str(tmp_path / "in.jsonl"), ops=ops or {}, num_workers=1, **settings)
        quarantine = QuarantineFile(tmp_path / "quarantine.jsonl", strict=config.strict)
        return sift_documents(
            config, build_ops(config.ops), quarantine, tmp_path / "work", tmp_path / "rejected"
        )

    return run


def _lines(*texts):
    return [json.dumps({"text": text}).encode() for text in texts]


def test_what_passes_is_written_and_remembered(sift):
    sifted, steps = sift(
        _lines("one two", "x", "three \n"), {"normalise": {}, "length": {"min_chars": 3, "min_words": 1}}
    )
    assert [document.text for document in read_documents(sifted.path)] == ["one two", "three"]
    assert len(sifted) == 2
    assert sifted.num_bytes_D.tolist() == [7, 5]
    assert sifted.bands_DK.shape == (2, 14)
    assert [step.op for step in steps] == ["read", "normalise", "length"]
    assert [step.count.documents_out for step in steps] == [3, 3, 2]
    assert dict(steps[2].dropped) == {"too_short": 1}


def test_quarantined_lines_are_part_of_the_funnel(sift):
    _, (read,) = sift([*_lines("one"), b"{broken", *_lines("two")])
    assert (read.count.documents_in, read.count.documents_out) == (3, 2)
    assert read.to_json()["dropped"] == {"quarantined": 1}


def test_reading_stops_at_the_limit(sift):
    sifted, (read,) = sift(_lines(*"abcdef"), max_documents=4)
    assert len(sifted) == read.count.documents_out == 4


def test_rejected_documents_are_kept_on_demand(sift, tmp_path):
    ops = {"normalise": {}, "length": {"min_chars": 3, "min_words": 1}}
    sift(_lines("one two", "x", " "), ops, keep_rejected=True)
    assert [
        (line["text"], line["reason"]) for line in read_lines(tmp_path / "rejected" / "length.jsonl.zst")
    ] == [("x", "too_short")]
    assert [line["reason"] for line in read_lines(tmp_path / "rejected" / "normalise.jsonl.zst")] == ["empty"]


def test_rejected_documents_are_not_kept_otherwise(sift, tmp_path):
    sift(_lines("one two", "x"), {"length": {"min_chars": 3, "min_words": 1}})
    assert not (tmp_path / "rejected").exists()


def test_an_empty_corpus_and_ops_that_leave_nothing_say_so(sift):
    with pytest.raises(DataError, match=r"in\.jsonl holds no document; name a source"):
        sift([b""])
    with pytest.raises(DataError, match="holds no document; 2 unreadable pieces are listed in"):
        sift([b"{", b"["])
    with pytest.raises(
        DataError, match=r"leave none of the 2 documents.*length \{'too_short': 2\}.*loosen data.ops"
    ):
        sift(_lines("a", "b"), {"length": {}})


def test_a_strict_run_ends_at_the_first_broken_line(sift):
    with pytest.raises(DataError, match="line 2 cannot be read: broken JSON"):
        sift([*_lines("one"), b"{broken"], strict=True)


def test_without_dedup_there_are_no_bands(sift):
    sifted, _ = sift(_lines("one", "two"), dedup=DedupConfig(exact=False, minhash=False))
    assert sifted.bands_DK.shape == (2, 0)


def test_the_draw_depends_on_id_and_seed_and_is_uniform():
    draws = [draw_for_split(f"doc {n}", 0) for n in range(4000)]
    assert draws[:10] == [draw_for_split(f"doc {n}", 0) for n in range(10)]
    assert draws[:10] != [draw_for_split(f"doc {n}", 1) for n in range(10)]
    # The share under 0.05 of 4000 uniform draws has a standard deviation of 0.0034.
    assert sum(draw < 0.05 for draw in draws) / 4000 == pytest.approx(0.05, abs=0.014)
    assert all(0 <= draw < 1 for draw in draws)
