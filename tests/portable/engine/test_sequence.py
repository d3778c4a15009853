"""One request on its way: when it ends, why, and with what text."""

import pytest

from portable.core.errors import DataError
from portable.engine.request import TokenStep
from portable.engine.sequence import PromptTooLongError, Sequence, check_fits, complete
from portable.model.tokenizer import Tokenizer
from tests.portable.engine.support import ask


def run(
    tokenizer: Tokenizer, text_ids: list[int], *, watch: bool = False, limit: int = 20, **settings
) -> Sequence:
    sequence = Sequence(7, ask([1, 2], **settings), tokenizer, limit, watch_text=watch)
    for index in text_ids:
        if sequence.finish_reason is not None:
            break
        sequence.take(TokenStep(index, -1.0, ((index, -1.0), (0, -2.0), (1, -3.0))))
    return sequence


def test_ends_at_the_limit(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick brown fox")
    sequence = run(tokenizer, ids, limit=2)
    assert sequence.finish_reason == "length"
    assert sequence.completion().token_ids == tuple(ids[:2])
    assert sequence.completion().text == tokenizer.decode(ids[:2])


@pytest.mark.parametrize("watch", [False, True])
def test_a_stop_token_is_kept_in_the_ids_and_left_out_of_the_text(tokenizer: Tokenizer, watch: bool) -> None:
    comma = tokenizer.encode(",")[0]
    ids = [*tokenizer.encode("dog"), comma, *tokenizer.encode("fox")]
    completion = run(tokenizer, ids, watch=watch, stop_token_ids=(comma,)).completion()
    assert completion.finish_reason == "stop"
    assert completion.token_ids[-1] == comma
    assert completion.text == "dog"


def test_a_stop_token_at_the_limit_is_a_stop(tokenizer: Tokenizer) -> None:
    sequence = run(tokenizer, [5, 6], limit=2, stop_token_ids=(6,))
    assert sequence.finish_reason == "stop"


def test_a_stop_string_ends_it_and_cuts_the_text(tokenizer: Tokenizer) -> None:
    completion = run(tokenizer, tokenizer.encode("the lazy dog barks"), stop=("dog",)).completion()
    assert (completion.finish_reason, completion.text) == ("stop", "the lazy ")


def test_a_stop_string_completed_at_the_limit_is_a_stop(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the lazy")
    assert run(tokenizer, ids, limit=len(ids), stop=("zy",)).finish_reason == "stop"


def test_progress_carries_key_text_and_end(tokenizer: Tokenizer) -> None:
    sequence = run(tokenizer, tokenizer.encode(" fox")[:1], watch=True, limit=1)
    news = sequence.progress()
    assert (news.key, news.text, news.finish_reason) == (7, " fox", "length")


def test_only_the_wanted_alternatives_are_kept(tokenizer: Tokenizer) -> None:
    sequence = run(tokenizer, [5], num_top_log_probs=2)
    assert len(sequence.steps[0].top) == 2
    assert run(tokenizer, [5]).steps[0].top == ()


def test_cache_figures(tokenizer: Tokenizer) -> None:
    sequence = run(tokenizer, [5, 6], limit=9)
    assert sequence.num_cached == 3  # two of the prompt, the first drawn; the second is not read yet
    assert sequence.num_needed == 11


def test_complete_cuts_what_a_foreign_engine_drew_too_much(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the lazy dog barks at the fox")
    steps = [TokenStep(index, -1.0) for index in ids]
    completion = complete(tokenizer, ask([1], max_new_tokens=50, stop=(" dog",)), steps)
    assert completion.text == "the lazy"
    assert completion.finish_reason == "stop"
    assert len(completion.steps) < len(ids)


def test_complete_takes_the_engines_reason_where_the_request_gives_none(tokenizer: Tokenizer) -> None:
    steps = [TokenStep(index, -1.0) for index in tokenizer.encode("fo")]
    request = ask([1], max_new_tokens=50, stop=("fox",))
    completion = complete(tokenizer, request, steps, "stop")
    assert (completion.text, completion.finish_reason) == ("fo", "stop")
    assert complete(tokenizer, request, steps).finish_reason == "length"


def test_check_fits_counts_the_room() -> None:
    assert check_fits(ask([1, 2, 3]), max_seq_len=10, vocab_size=5) == 7


def test_a_prompt_without_room_is_refused_with_its_numbers() -> None:
    with pytest.raises(
        PromptTooLongError, match=r"has 10 tokens .* at most 10.*shorten the prompt to 9 tokens"
    ):
        check_fits(ask([1] * 10), max_seq_len=10, vocab_size=5)


@pytest.mark.parametrize("bad", [5, -1])
def test_unknown_ids_are_refused(bad: int) -> None:
    with pytest.raises(DataError, match=rf"token id {bad}, but the model knows ids 0 to 4"):
        check_fits(ask([1, bad]), max_seq_len=10, vocab_size=5)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="prompt is empty"):
        check_fits(ask([]), max_seq_len=10, vocab_size=5)
