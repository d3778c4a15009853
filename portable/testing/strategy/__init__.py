"""What every strategy must do on a backend: train the same model as one process does.

A package with a backend runs all of it by one line in a test file::

    from portable.testing.strategy import *

The names are tests, and the fixtures that they share.
"""

from portable.testing.strategy.axis import (
    axes,
    decoder_alone,
    pairs,
    test_an_axis_learns_what_one_process_learns,
    test_two_axes_learn_what_one_process_learns,
)
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
    test_what_another_project_cannot_do_here_is_refused_with_the_reason,
    test_what_should_be_divided_is,
    two,
)
from portable.testing.strategy.stage import (
    stages,
    test_a_stage_of_deepspeed_learns_what_ours_learns,
    test_deepspeed_says_what_was_set_up,
)

__all__ = [
    "alone",
    "axes",
    "decoder_alone",
    "four",
    "pairs",
    "spread",
    "stages",
    "test_a_second_run_is_the_same_to_the_bit",
    "test_a_stage_of_deepspeed_learns_what_ours_learns",
    "test_all_ranks_hold_the_same_weights",
    "test_an_axis_learns_what_one_process_learns",
    "test_deepspeed_says_what_was_set_up",
    "test_gradients_are_gone_after_the_step",
    "test_losses_and_gradient_norms_are_those_of_one_process",
    "test_the_description_says_what_was_set_up",
    "test_two_axes_learn_what_one_process_learns",
    "test_weights_are_those_of_one_process",
    "test_what_another_project_cannot_do_here_is_refused_with_the_reason",
    "test_what_should_be_divided_is",
    "two",
]
