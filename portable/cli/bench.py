"""``portable bench kernels``: how fast every kernel row is here, and how far from what the machine can do."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from portable.cli.words import WordParser, kernel_words, prepared_backend
from portable.core.errors import ConfigError, did_you_mean
from portable.device.backend import Backend

if TYPE_CHECKING:
    from portable.kernel.bench.roofline import Roofline
    from portable.kernel.bench.run import Figure

_USAGE = """\
usage: portable bench kernels [OPTIONS]

Time every kernel row that fits this machine, in turns with its reference.

Options
  --backend NAME     of another backend than the best usable one
  --dtype NAME       fp32, bf16 or fp16; fp32 unless given
  --op NAME          only this op, e.g. attention, or one variant, e.g. rms_norm__add
  --size NAME        small (a tutorial's model) or medium; small unless given
  --json             print JSON

roof is the time that moving the problem's bytes, or computing its products, would take at the speed of a copy
and of a large matmul, measured first, as a part of the time taken. What fits in a cache may exceed 100 %.
"""
_COLUMNS = ("op", "row", "phase", "time, µs", "median, µs", "GB/s", "GFLOP/s", "roof", "/ reference")


def run_bench(arguments: list[str]) -> int:
    """Measure and print; returns 0.

    Raises: ConfigError for words that it does not know; BackendUnavailable with what would help.
    """
    words = kernel_words("bench", arguments)
    if words is None:
        print(_USAGE)
        return 0
    options = _parse(words)
    backend = prepared_backend(options.backend)
    _bench(backend, options)
    return 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser = WordParser(prog="portable bench kernels", add_help=False, allow_abbrev=False)
    parser.add_argument("--backend", default="")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--op", default="")
    parser.add_argument("--size", choices=("small", "medium"), default="small")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def _bench(backend: Backend, options: argparse.Namespace) -> None:
    from portable.device.protocol import Dtype
    from portable.kernel.bench.problem import Size
    from portable.kernel.bench.roofline import measure_roofline
    from portable.kernel.bench.run import bench_op
    from portable.kernel.op import OPS

    ops = [op for op in OPS if not options.op or options.op in (op.id, op.name)]
    if not ops:
        known = {op.id for op in OPS}
        raise ConfigError(
            f"no kernel computes '{options.op}'.{did_you_mean(options.op, known)} Known: "
            f"{', '.join(sorted(known))}"
        )
    device = backend.device()
    roofline = measure_roofline(device, Dtype(options.dtype).torch())
    if not options.json:
        print(_title(device.info().name, options.dtype, options.size, roofline))
    figures: list[Figure] = []
    for op in ops:
        measured = bench_op(op, device, options.dtype, Size(options.size), roofline)
        figures += measured
        if not options.json:
            print("\n".join(map(_line, measured)), flush=True)
    if options.json:
        print(json.dumps(_record(device.info().name, options, roofline, figures), indent=1))


def _title(name: str, dtype: str, size: str, roofline: Roofline) -> str:
    return (
        f"{name}, {dtype}, {size}: copy {roofline.bytes_per_s / 1e9:.1f} GB/s, matmul "
        f"{roofline.flops_per_s / 1e9:.0f} GFLOP/s; the default row has a star\n\n"
        f"| {' | '.join(_COLUMNS)} |\n| --- | --- | --- |{' ---: |' * (len(_COLUMNS) - 3)}"
    )


def _line(figure: Figure) -> str:
    taken, work = figure.times, figure.work
    star = " *" if figure.default else ""
    flops = f"{work.flops / taken.min_s / 1e9:.1f}" if work.flops else ""
    cells = (
        figure.op,
        figure.row + star,
        figure.phase,
        f"{1e6 * taken.min_s:.1f}",
        f"{1e6 * taken.median_s:.1f}",
        f"{work.num_bytes / taken.min_s / 1e9:.2f}",
        flops,
        f"{figure.roof_fraction:.1%}",
        f"{figure.ratio_to_reference:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _record(
    name: str, options: argparse.Namespace, roofline: Roofline, figures: list[Figure]
) -> dict[str, Any]:  # Any: JSON
    return {
        "device": name,
        "size": options.size,
        "copy_bytes_per_s": roofline.bytes_per_s,
        "matmul_flops_per_s": roofline.flops_per_s,
        "rows": [
            {
                "op": figure.op,
                "row": figure.row,
                "phase": figure.phase,
                "dtype": figure.dtype,
                "min_s": figure.times.min_s,
                "median_s": figure.times.median_s,
                "bytes": figure.work.num_bytes,
                "flops": figure.work.flops,
                "roof_fraction": figure.roof_fraction,
                "ratio_to_reference": figure.ratio_to_reference,
                "default": figure.default,
            }
            for figure in figures
        ],
    }
