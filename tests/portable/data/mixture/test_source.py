"""Mixed batches: each window from the corpus it should be from, at any world size and after any restart."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from portable.core.errors import ConfigError, DataError
from portable.core.record import Batch
from portable.data.loader import BatchShape, PackedTokenSource
from portable.data.mixture.corpus import Corpus
from portable.data.mixture.source import MixtureSource
from portable.data.shard import ShardWriter, TokenShards

SEQ_LEN = 4
TWO = BatchShape(micro_batch_size=2)


@pytest.fixture
def corpus(tmp_path) -> Callable[..., Corpus]:
    """A corpus of one-window documents whose every id tells the corpus: ids from ``base`` on."""

    def make(base: int, weight: float, epochs: float | None = None, documents: int = 6) -> Corpus:
        path = tmp_path / f"{base}-{documents}"
        with ShardWriter(path, vocab_size=10_000, end_of_text_id=0) as writer:
            for number in range(documents):
                writer.add([base + 10 * number + place for place in range(1, SEQ_LEN)] + [0], num_bytes=9)
        return Corpus(f"c{base}", TokenShards.open(path), weight, epochs)

    return make


def owners(batches: list[Batch]) -> list[int]:
    """The corpus of every window, by its first token that is a word."""
    return [int(row[row > 0][0]) // 1000 * 1000 for batch in batches for row in batch.input_ids_BT]


def rows(batches: list[Batch]) -> list[list[int]]:
    return [row.tolist() for batch in batches for row in batch.input_ids_BT]


def source(corpora: list[Corpus], shape: BatchShape = TWO, **settings: int) -> MixtureSource:
    return MixtureSource(corpora, seq_len=SEQ_LEN, shape=shape, **settings)


def draw(given: MixtureSource, steps: int) -> list[list[int]]:
    return [row for _ in range(steps) for row in rows(given.next_batches())]


def test_shares_are_exact_in_every_batch_and_an_epoch_holds_all(corpus):
    mixed = source([corpus(1000, 0.75), corpus(2000, 0.25)], BatchShape(micro_batch_size=4))
    for _ in range(6):
        assert Counter(owners(mixed.next_batches())) == {1000: 3, 2000: 1}
    own = [row for row in draw(source([corpus(1000, 0.75), corpus(2000, 0.25)]), 4) if max(row) < 2000]
    assert len({tuple(row) for row in own}) == 6  # six windows make the epoch, each once


def test_a_mixture_of_one_reads_all_of_it_in_its_order(corpus):
    alone = corpus(1000, 1.0)
    mixed = source([alone], seed=3)
    plain = PackedTokenSource(alone.shards, seq_len=SEQ_LEN, shape=TWO, seed=3)
    assert Counter(map(tuple, draw(mixed, 3))) == Counter(
        tuple(row) for _ in range(3) for row in rows(plain.next_batches())
    )


def test_corpora_of_the_same_size_are_not_shuffled_alike(corpus):
    mixed = draw(source([corpus(1000, 0.5), corpus(2000, 0.5)]), 24)
    orders = [[max(row) - base for row in mixed if base < max(row) < base + 1000] for base in (1000, 2000)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_restart_with_another_world_size_and_shape_goes_on_with_the_same_samples(corpus, world_size):
    corpora = [corpus(1000, 0.6, epochs=2), corpus(2000, 0.3), corpus(3000, 0.1)]
    whole = source(corpora, BatchShape(micro_batch_size=8))
    wanted = [rows(whole.next_batches()) for _ in range(5)]
    first = source(corpora, BatchShape(micro_batch_size=2, grad_accum_steps=4))
    assert [sorted(rows(first.next_batches())) for _ in range(2)] == [sorted(step) for step in wanted[:2]]
    shapes = [
        BatchShape(micro_batch_size=1, grad_accum_steps=8 // world_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    ranks = [source(corpora, shape) for shape in shapes]
    for rank in ranks:
        rank.load_state_dict(first.state_dict())
    for step in wanted[2:]:
        assert sorted(row for rank in ranks for row in rows(rank.next_batches())) == sorted(step)


def test_counts_stand_in_metrics_and_state(corpus):
    mixed = source([corpus(1000, 0.75), corpus(2000, 0.25)], BatchShape(micro_batch_size=4))
    mixed.next_batches()
    mixed.next_batches()
    assert mixed.metrics() == {
        "corpus/c1000/samples": 6,
        "corpus/c1000/tokens": 24,
        "corpus/c1000/epochs": 1.0,
        "corpus/c2000/samples": 2,
        "corpus/c2000/tokens": 8,
        "corpus/c2000/epochs": pytest.approx(1 / 3),
    }
    assert mixed.state_dict()["samples"] == {"c1000": 6, "c2000": 2}


def test_an_exhausted_corpus_is_dropped_and_the_others_share_its_weight(corpus, caplog):
    mixed = source([corpus(1000, 0.5, epochs=1), corpus(2000, 0.25), corpus(3000, 0.25)])
    with caplog.at_level("WARNING"):
        mixed.require(200)
    assert "the 1 epochs of corpus c1000 are over after sample 12 of 200 (step 7)" in caplog.text
    counts = Counter(owner for _ in range(56) for owner in owners(mixed.next_batches()))
    assert counts == {1000: 6, 2000: 53, 3000: 53}


def test_a_run_longer_than_the_mixture_is_refused_before_it_begins(corpus):
    mixed = source([corpus(1000, 0.5, epochs=1), corpus(2000, 0.5, epochs=1.5)])
    mixed.require(15)
    with pytest.raises(
        ConfigError, match=r"holds 15 samples of 4 tokens .* asks for 16; use steps=7 or less"
    ):
        mixed.require(16)
    draw(mixed, 7)
    with pytest.raises(DataError, match=r"needs samples up to 16, its epochs hold 15"):
        mixed.next_batches()


def test_a_position_in_another_mixture_is_refused(corpus):
    one = source([corpus(1000, 0.5), corpus(2000, 0.5)])
    for other in ([corpus(1000, 0.6), corpus(2000, 0.4)], [corpus(1000, 0.5, epochs=3), corpus(2000, 0.5)]):
        with pytest.raises(ConfigError, match="belongs to mixture="):
            source(other).load_state_dict(one.state_dict())
    plain = PackedTokenSource(corpus(1000, 1.0).shards, seq_len=SEQ_LEN, shape=TWO)
    with pytest.raises(ConfigError, match="it has no mixture"):
        one.load_state_dict(plain.state_dict())


def test_a_corpus_without_a_token_or_a_window_is_named(corpus):
    with pytest.raises(DataError, match=r"corpus c2000 .* holds no token"):
        source([corpus(1000, 0.5), corpus(2000, 0.5, documents=0)])
    with pytest.raises(
        ConfigError, match=r"corpus c1000: 0.1 epochs of 24 tokens are less than one sample of 4"
    ):
        source([corpus(1000, 1.0, epochs=0.1)])
    with pytest.raises(ConfigError, match="the mixture has no corpus"):
        source([])


def test_the_state_is_plain_enough_for_a_checkpoint(corpus, tmp_path):
    mixed = source([corpus(1000, 1.0)])
    torch.save(mixed.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == mixed.state_dict()
