"""The second pass: the split by document, duplicates, and nothing like held-out text left in training."""

import numpy as np
import pytest

from portable.core.errors import DataError
from portable.core.record import Document
from portable.data.clean.pipeline import Processor
from portable.data.clean.select import choose_heldout, select_documents, write_selection
from portable.data.clean.sift import Sifted
from portable.data.config import DataConfig, DedupConfig
from portable.data.format.corpus import LineWriter, read_documents

SENTENCE = "the keeper of the light wrote down the weather every evening and closed the heavy book at nine "
STORY = SENTENCE + " ".join(f"detail{n}" for n in range(60))
NEAR = STORY.replace("detail59", "another")
OTHER = " ".join(f"thing{n}" for n in range(60))


@pytest.fixture
def select(tmp_path):
    """Select among texts with given draws; returns the texts of both sides and the rows of the steps."""

    def run(texts, draws, **settings):
        dedup = DedupConfig(**settings)
        config = DataConfig(source="x", dedup=dedup, heldout_fraction=0.5)
        documents = [Document(text, str(number)) for number, text in enumerate(texts)]
        with LineWriter(tmp_path / "sifted.zst") as writer:
            for document in documents:
                writer.write_document(document)
        kept = Processor({}, dedup)(documents).outcomes
        sifted = Sifted(
            tmp_path / "sifted.zst",
            np.array([item.content_hash for item in kept], dtype=np.uint64),
            np.stack([item.bands for item in kept]),
            np.array([len(text.encode()) for text in texts]),
            np.array(draws),
        )
        selection = select_documents(sifted, config)
        with LineWriter(tmp_path / "train.zst") as train, LineWriter(tmp_path / "heldout.zst") as heldout:
            write_selection(sifted, selection, train, heldout)
        sides = ([d.id for d in read_documents(tmp_path / name)] for name in ("train.zst", "heldout.zst"))
        return (*sides, {step.op: step.to_json() for step in selection.steps})

    return run


def test_unlike_documents_all_stay_and_are_split_by_their_draw(select):
    train, heldout, rows = select([STORY, OTHER, "short text"], [0.9, 0.1, 0.6])
    assert (train, heldout) == (["0", "2"], ["1"])
    assert [row["documents_out"] for row in rows.values()] == [3, 3, 3]


def test_of_exact_duplicates_the_first_stays(select):
    train, _, rows = select([OTHER, STORY, STORY.upper(), OTHER + " \n", "held"], [0.9, 0.9, 0.9, 0.9, 0.1])
    assert train == ["0", "1"]
    assert rows["exact_dedup"]["dropped"] == {"duplicate": 2}


def test_of_near_duplicates_the_first_stays(select):
    train, _, rows = select([STORY, OTHER, NEAR, "held"], [0.9, 0.9, 0.9, 0.1])
    assert train == ["0", "1"]
    assert rows["near_dedup"]["dropped"] == {"near_duplicate": 1}


@pytest.mark.parametrize(
    ("copy", "step", "reason"), [(STORY, "exact_dedup", "duplicate"), (NEAR, "near_dedup", "near_duplicate")]
)
@pytest.mark.parametrize("heldout_first", [True, False])
def test_what_is_like_a_heldout_document_leaves_training_whatever_the_order(
    select, copy, step, reason, heldout_first
):
    texts, draws = [STORY, copy, OTHER], [0.1, 0.9, 0.9]
    if not heldout_first:
        texts, draws = texts[::-1], draws[::-1]
    train, heldout, rows = select(texts, draws)
    assert len(train) == len(heldout) == 1
    assert rows[step]["dropped"] == {f"{reason}_of_heldout": 1}


def test_duplicates_within_the_heldout_side_are_not_called_leaks(select):
    _, heldout, rows = select([STORY, NEAR, OTHER], [0.1, 0.2, 0.9])
    assert heldout == ["0"]
    assert rows["near_dedup"]["dropped"] == {"near_duplicate": 1}


def test_the_true_similarity_decides_unless_switched_off(select):
    # Half of the words are common: some of 200 bands of one row agree, but the documents are not near.
    half = " ".join([*STORY.split()[:45], *OTHER.split()[:30]])
    loose = {"num_bands": 200, "rows_per_band": 1}
    assert select([STORY, half, "held"], [0.9, 0.9, 0.1], **loose)[0] == ["0", "1"]
    assert select([STORY, half, "held"], [0.9, 0.9, 0.1], **loose, min_jaccard=0.0)[0] == ["0"]


def test_dedup_can_be_switched_off(select):
    train, _, rows = select([STORY, STORY, NEAR, "held"], [0.9, 0.9, 0.9, 0.1], exact=False, minhash=False)
    assert train == ["0", "1", "2"]
    assert list(rows) == ["heldout_split"]


def test_the_funnel_adds_up(select):
    _, _, rows = select([STORY, STORY, NEAR, OTHER, "held"], [0.9, 0.9, 0.9, 0.9, 0.1])
    size = len(STORY.encode())
    exact, near = rows["exact_dedup"], rows["near_dedup"]
    assert (exact["documents_in"], exact["documents_out"], near["documents_out"]) == (5, 4, 3)
    assert exact["bytes_in"] - exact["bytes_out"] == size
    assert near["bytes_in"] - near["bytes_out"] == len(NEAR.encode())
    assert near["samples"][0]["text"] == NEAR[:400]


def test_nothing_left_to_train_on_is_an_error(select):
    with pytest.raises(DataError, match="no document is left to train on: of 2, 1 are held out"):
        select([STORY, NEAR], [0.1, 0.9])


def test_heldout_is_what_falls_under_the_fraction_and_at_least_one():
    draws = np.array([0.3, 0.04, 0.9, 0.049])
    assert choose_heldout(draws, 0.05).tolist() == [False, True, False, True]
    assert choose_heldout(draws, 0.01).tolist() == [False, True, False, False]
    assert not choose_heldout(draws, 0.0).any()


def test_one_document_cannot_be_split():
    with pytest.raises(DataError, match=r"only one document is left.*heldout_fraction=0"):
        choose_heldout(np.array([0.9]), 0.05)
    assert choose_heldout(np.array([0.9]), 0.0).tolist() == [False]
