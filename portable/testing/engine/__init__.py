"""What every engine that comes with Portable promises, kept on the backend under test.

A package with a backend runs all of it by one line in a test file::

    from portable.testing.engine import *

The names are tests, and the fixtures that they share.
"""

from portable.testing.engine.promise import (
    engine,
    model,
    model_dir,
    test_a_seed_fixes_the_tokens_whatever_the_company,
    test_answers_come_in_the_order_of_requests_and_no_longer_than_asked,
    test_greedy_takes_the_likeliest_token_every_time,
    test_it_names_its_tokenizer_and_its_context,
    test_log_probs_are_those_of_the_model_at_that_temperature,
    test_stops_end_it,
    test_stream_and_session_tell_the_same_as_generate,
    test_what_does_not_fit_is_refused,
)
from portable.testing.engine.spread import (
    loaded,
    test_answers_are_the_same,
    test_logits_are_the_same_to_the_bit,
    test_parts_lie_on_the_device_the_host_and_a_disk,
)

__all__ = [
    "engine",
    "loaded",
    "model",
    "model_dir",
    "test_a_seed_fixes_the_tokens_whatever_the_company",
    "test_answers_are_the_same",
    "test_answers_come_in_the_order_of_requests_and_no_longer_than_asked",
    "test_greedy_takes_the_likeliest_token_every_time",
    "test_it_names_its_tokenizer_and_its_context",
    "test_log_probs_are_those_of_the_model_at_that_temperature",
    "test_logits_are_the_same_to_the_bit",
    "test_parts_lie_on_the_device_the_host_and_a_disk",
    "test_stops_end_it",
    "test_stream_and_session_tell_the_same_as_generate",
    "test_what_does_not_fit_is_refused",
]
