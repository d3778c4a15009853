"""What every strategy must do on a backend: train the same model as one process does.

A package with a backend runs all of it by one line in a test file::

    from portable.testing.strategy import *

The names are tests, and the fixtures that they share.
"""

from portable.testing.strategy.equality import (
    alone,
    four,
    spread,
    test_a_second_run_is_the_same_to_the_bit,
    test_all_ranks_hold_the_same_weights,
    test_gradients_are_gone_after_the_step,
    test_losses_and_gradient_norms_are_those_of_one_process,
    test_the_description_says_what_was_set_up,
    test_weights_are_those_of_one_process,
    test_what_should_be_divided_is,
    two,
)

__all__ = [
    "alone",
    "four",
    "spread",
    "test_a_second_run_is_the_same_to_the_bit",
    "test_all_ranks_hold_the_same_weights",
    "test_gradients_are_gone_after_the_step",
    "test_losses_and_gradient_norms_are_those_of_one_process",
    "test_the_description_says_what_was_set_up",
    "test_weights_are_those_of_one_process",
    "test_what_should_be_divided_is",
    "two",
]
