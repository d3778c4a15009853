"""``portable verify kernels``: is every kernel on this machine as right as its reference?

``portable verify parallel`` is ``portable.cli.certify``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from portable.cli.certify import run_certify
from portable.cli.words import WordParser, kernel_words, prepared_backend
from portable.core.errors import ConfigError, did_you_mean
from portable.core.storage import write_text
from portable.device.backend import Backend

if TYPE_CHECKING:
    from portable.kernel.conformance.report import Examined
    from portable.kernel.entry import KernelEntry

_USAGE = """\
usage: portable verify kernels [OPTIONS]
       portable verify parallel [OVERRIDES] [OPTIONS]      (see portable verify parallel --help)

Ask every kernel row that fits this machine the cases of its op, and compare with float64.

Options
  --backend NAME     of another backend than the best usable one
  --dtype LIST       only these number formats, of fp32, bf16, fp16
  --op NAME          only this op, e.g. attention, or one variant, e.g. rms_norm__add
  --row NAME         only rows of this name, e.g. reference
  --json             print JSON
  --markdown FILE    also write the table into FILE, in place of this backend's former one
"""


def run_verify(arguments: list[str]) -> int:
    """Examine kernels, or a layout, and print what came of it; returns 1 if something failed.

    Raises: ConfigError for words that it does not know; BackendUnavailable with what would help.
    """
    if arguments[:1] == ["parallel"]:
        return run_certify(arguments[1:])
    words = kernel_words("verify", arguments)
    if words is None:
        print(_USAGE)
        return 0
    options = _parse(words)
    backend = prepared_backend(options.backend, deterministic=True)
    return _verify(backend, options)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = WordParser(prog="portable verify kernels", add_help=False, allow_abbrev=False)
    parser.add_argument("--backend", default="")
    parser.add_argument("--dtype", type=lambda text: text.split(","), default=[])
    parser.add_argument("--op", default="")
    parser.add_argument("--row", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args(words)


def _verify(backend: Backend, options: argparse.Namespace) -> int:
    from portable.kernel.conformance.report import failures, line, markdown, title, to_json, with_block

    dtypes = _dtypes(backend, options.dtype)
    entries = _entries(backend.name, options.op, options.row)
    examined: list[Examined] = []
    for entry in entries:
        if not options.json:  # the name first: a row may take the process down with it
            print(title(entry), end="", flush=True)
        examined.append(_examine(backend, entry, dtypes))
        if not options.json:
            print(line(examined[-1], dtypes), flush=True)
    failed = [text for row in examined for text in failures(row)]
    if options.json:
        json.dump(to_json(examined), sys.stdout, indent=1)
        print()
    else:
        bad = sum(not row.passed for row in examined)
        print(f"{len(examined)} rows on {backend.name}: {len(examined) - bad} passed, {bad} failed")
        for text in failed:
            print(text)
    if options.markdown:
        table = markdown(examined, dtypes, _title(backend))
        page = options.markdown.read_text(encoding="utf-8") if options.markdown.is_file() else ""
        write_text(options.markdown, with_block(page, backend.name, table))
    return 1 if failed else 0


def _dtypes(backend: Backend, asked: Sequence[str]) -> list[str]:
    """Return the formats that the device multiplies, of those that were asked for."""
    from portable.device.capability import Role, Support
    from portable.device.protocol import Dtype

    capability = backend.device().capability()
    known = [dtype.name for dtype in Dtype]
    usable = [name for name in known if capability.dtype(Role.matmul, name) is not Support.none]
    for name in asked:
        if name not in known:
            raise ConfigError(f"--dtype {name}: {did_you_mean(name, known)} Known: {', '.join(known)}")
        if name not in usable:
            raise ConfigError(
                f"--dtype {name}: {backend.name} does not multiply it; it has {', '.join(usable)}"
            )
    return [name for name in usable if not asked or name in asked]


def _entries(backend: str, op: str, row: str) -> list[KernelEntry]:
    """Return the rows that the backend may use, in the order of the ops, best first.

    Raises: ConfigError if no row is left.
    """
    from portable.kernel.entry import ANY
    from portable.kernel.op import OPS
    from portable.kernel.registry import all_entries

    rows = [entry for entry in all_entries(backend) if entry.backend in (ANY, backend)]
    ops, names = (
        {entry.op for entry in rows} | {entry.spec.id for entry in rows},
        {entry.name for entry in rows},
    )
    for word, known in ((op, ops), (row, names)):
        if word and word not in known:
            raise ConfigError(
                f"'{word}' is unknown.{did_you_mean(word, known)} Known: {', '.join(sorted(known))}"
            )
    place = {spec.id: index for index, spec in enumerate(OPS)}
    chosen = [entry for entry in rows if op in ("", entry.op, entry.spec.id) and row in ("", entry.name)]
    if not chosen:
        raise ConfigError(f"the op '{op}' has no row '{row}' on {backend}")
    return sorted(chosen, key=lambda entry: (place[entry.spec.id], -entry.priority))


def _examine(backend: Backend, entry: KernelEntry, dtypes: Sequence[str]) -> Examined:
    from portable.kernel.conformance.check import check_row
    from portable.kernel.conformance.report import Examined

    device = backend.device().torch_device()
    asked = [dtype for dtype in dtypes if dtype in entry.dtypes]
    return Examined(entry, {dtype: check_row(entry, device, dtype) for dtype in asked})


def _title(backend: Backend) -> str:
    import torch

    from portable.device.capability import Feature

    device = backend.device()
    info = device.info()
    real = device.capability().supports(Feature.real_time)
    day = datetime.now(UTC).date().isoformat()
    chip = f"{info.name} ({info.arch}){'' if real else ', simulated or emulated'}"
    return f"{backend.name}: {chip}, torch {torch.__version__}, {day}"
