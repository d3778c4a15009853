"""The pipeline: ops in order, sums that add up, and the same result on any number of processes."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import psutil
import pytest

from portable.core.record import Document
from portable.data.clean.pipeline import CHUNK_DOCUMENTS, Dropped, Kept, Processor, map_chunks
from portable.data.config import DedupConfig
from portable.data.dedup.exact import content_hash
from portable.data.op.length import Length
from portable.data.op.normalise import Normalise
from portable.data.op.protocol import OpKind, Rejection


@dataclass(kw_only=True, slots=True)
class Shout:
    kind: ClassVar[OpKind] = OpKind.mapper

    def __call__(self, document):
        if "quiet" in document.text:
            return Rejection("quiet")
        return replace(document, text=document.text.upper())


def test_ops_run_in_order_and_stop_at_a_rejection():
    processor = Processor({"shout": Shout(), "length": Length(min_chars=3, min_words=1)}, DedupConfig())
    result = processor([Document("abc", "a"), Document("quiet", "b"), Document("é", "c")])
    kept, quiet, short = result.outcomes
    assert isinstance(kept, Kept)
    assert kept.document.text == "ABC"
    assert quiet == Dropped(Document("quiet", "b"), "shout", "quiet")
    assert short == Dropped(Document("É", "c"), "length", "too_short")


def test_sums_are_of_what_each_op_saw():
    processor = Processor({"shout": Shout(), "length": Length(min_chars=3, min_words=1)}, DedupConfig())
    counts = processor([Document("abc", "a"), Document("quiet", "b"), Document("ß", "c")]).counts
    shout, length = counts["shout"], counts["length"]
    assert (shout.documents_in, shout.documents_out) == (3, 2)
    assert (shout.bytes_in, shout.bytes_out) == (3 + 5 + 2, 3 + 2)  # "ß" becomes "SS"
    assert (length.documents_in, length.documents_out) == (2, 1)
    assert (length.bytes_in, length.bytes_out) == (5, 3)


def test_changes_are_noted_for_samples():
    result = Processor({"normalise": Normalise()}, DedupConfig())([Document("a \n", "a"), Document("b", "b")])
    assert [(name, document.id) for name, document in result.changed] == [("normalise", "a")]


def test_hashes_are_those_of_the_final_text():
    result = Processor({"shout": Shout()}, DedupConfig(num_bands=3, rows_per_band=2))(
        [Document("one two", "a")]
    )
    (kept,) = result.outcomes
    assert kept.content_hash == content_hash("one two")
    assert kept.bands.shape == (3,)


def test_dedup_switched_off_costs_nothing():
    result = Processor({}, DedupConfig(exact=False, minhash=False))([Document("one two", "a")])
    (kept,) = result.outcomes
    assert (kept.content_hash, kept.bands.size) == (0, 0)


def _tag(items):
    return [(os.getpid(), item * item) for item in items]


@pytest.mark.parametrize("count", [0, 1, CHUNK_DOCUMENTS, CHUNK_DOCUMENTS + 1, 7 * CHUNK_DOCUMENTS + 3])
def test_chunks_come_back_whole_and_in_order(count):
    results = [value for chunk in map_chunks(_tag, range(count), num_workers=2) for _, value in chunk]
    assert results == [number * number for number in range(count)]


def test_two_workers_are_other_processes_and_one_is_this():
    alone = {pid for chunk in map_chunks(_tag, range(300), num_workers=1) for pid, _ in chunk}
    spread = {pid for chunk in map_chunks(_tag, range(300), num_workers=2) for pid, _ in chunk}
    assert alone == {os.getpid()}
    assert os.getpid() not in spread


def test_little_work_stays_in_this_process():
    assert {pid for chunk in map_chunks(_tag, range(5), num_workers=2) for pid, _ in chunk} == {os.getpid()}


def test_reading_never_runs_far_ahead():
    taken = 0

    def items():
        nonlocal taken
        for number in range(40 * CHUNK_DOCUMENTS):
            taken += 1
            yield number

    results = map_chunks(_tag, items(), num_workers=2)
    next(results)
    assert taken <= 8 * CHUNK_DOCUMENTS
    results.close()


def _fail(items):
    raise ValueError("no")


def test_an_error_in_a_worker_reaches_the_caller():
    with pytest.raises(ValueError, match="no"):
        list(map_chunks(_fail, range(300), num_workers=2))


def test_outcomes_do_not_depend_on_the_number_of_processes(make_documents):
    processor = Processor({"normalise": Normalise(), "length": Length(min_chars=3)}, DedupConfig())
    alone, spread = (
        [
            outcome
            for result in map_chunks(processor, make_documents(150), workers)
            for outcome in result.outcomes
        ]
        for workers in (1, 2)
    )
    assert [kept.document for kept in alone] == [kept.document for kept in spread]
    assert np.array_equal([kept.bands for kept in alone], [kept.bands for kept in spread])


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import os, sys, time\n"
        "from portable.data.clean.pipeline import map_chunks\n"
        "def work(items):\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    results = map_chunks(work, range(2000), num_workers=2)\n"
        "    print(next(results), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    assert worker.wait(timeout=60) is not None or not worker.is_running()
