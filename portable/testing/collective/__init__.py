"""What every group of processes must do: on one to four ranks, each with a device of its own.

A package with a backend runs all of it by one line in a test file::

    from portable.testing.collective import *

Ranks that the machine has no devices for are skipped. The names are tests, and a fixture that they share.
"""

from portable.testing.collective.fault import (
    test_a_frozen_rank_is_named_within_the_timeout,
    test_a_rank_that_dies_is_named_long_before_the_timeout,
    test_a_rank_that_stalls_is_told_from_a_dead_one,
    test_an_error_on_an_axis_names_it_and_both_ranks,
    test_ranks_out_of_step_are_named_and_the_group_lives_on,
    test_the_rank_that_keeps_the_rendezvous_is_named_too,
)
from portable.testing.collective.value import (
    ranks,
    test_a_mean_of_large_halves_stays_finite,
    test_axes_and_nodes_of_a_mesh,
    test_booleans_are_any_and_all,
    test_every_rank_gets_what_the_protocol_says,
    test_formats_are_reduced_and_moved_or_refused_as_the_capability_says,
    test_ranks_know_their_place,
    test_resolution_gives_a_reason_for_each_choice,
    test_what_cannot_be_is_refused_before_anything_is_sent,
)

__all__ = [
    "ranks",
    "test_a_frozen_rank_is_named_within_the_timeout",
    "test_a_mean_of_large_halves_stays_finite",
    "test_a_rank_that_dies_is_named_long_before_the_timeout",
    "test_a_rank_that_stalls_is_told_from_a_dead_one",
    "test_an_error_on_an_axis_names_it_and_both_ranks",
    "test_axes_and_nodes_of_a_mesh",
    "test_booleans_are_any_and_all",
    "test_every_rank_gets_what_the_protocol_says",
    "test_formats_are_reduced_and_moved_or_refused_as_the_capability_says",
    "test_ranks_know_their_place",
    "test_ranks_out_of_step_are_named_and_the_group_lives_on",
    "test_resolution_gives_a_reason_for_each_choice",
    "test_the_rank_that_keeps_the_rendezvous_is_named_too",
    "test_what_cannot_be_is_refused_before_anything_is_sent",
]
