"""Put the rows through the conformance cases with the stand-in, in a process of its own."""

import sys

import torch

from backends.flag_gems.kernels import entries
from portable.kernel.conformance.check import check_row
from tests.backends.flag_gems import stand_in


def main() -> int:
    stand_in.install()
    failures = []
    for row in entries("cuda"):
        for dtype in row.dtypes:
            report = check_row(row, torch.device("cpu"), dtype)
            failures += [f"{dtype} {result.case}: {result.reason}" for result in report.failures]
            if not report.num_run:
                failures.append(f"{dtype} {row.spec.id}: no case ran")
    sys.stderr.write("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
