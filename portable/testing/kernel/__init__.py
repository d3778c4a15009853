"""What every kernel row promises, kept on the backend under test.

A package with a backend runs all of it by one line in a test file::

    from portable.testing.kernel import *

``portable verify kernels`` asks the same, and prints it as a table.
"""

from portable.testing.kernel.conformance import (
    test_every_row_errs_no_more_than_a_few_times_as_much_as_its_reference,
    test_what_is_picked_by_default_can_be_loaded,
)

__all__ = [
    "test_every_row_errs_no_more_than_a_few_times_as_much_as_its_reference",
    "test_what_is_picked_by_default_can_be_loaded",
]
