"""``portable trace record|compare``: find where a step on new hardware departs from one that was recorded."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from portable.cli.words import WordParser
from portable.core.errors import ConfigError

_USAGE = """portable trace record VERB [OVERRIDES] --out FILE [--step N] [--micro-batch N] [--config-dir DIR]
       portable trace compare FILE [OVERRIDES] [--json]

record    run a job (pretrain, sft, rl) up to step N, by default the first, and write a summary of what its
          modules and kernels computed
compare   run the same step here, or as OVERRIDES say, e.g. hardware=NAME; repeat every kernel call by its
          reference; name the first that departs

Exit code of compare: 0 the step agrees, 1 it departs, 2 it cannot be compared."""


def run_trace(arguments: list[str]) -> int:
    """Record a step or compare one; returns the exit code. Raises: ConfigError for words it does not know."""
    action, words = (arguments[0], arguments[1:]) if arguments else ("", [])
    if action in ("-h", "--help"):
        print(f"usage: {_USAGE}")
        return 0
    if action == "record":
        return _record(words)
    if action == "compare":
        return _compare(words)
    raise ConfigError(f"portable trace does not know '{action}'\nusage: {_USAGE}")


def _record(words: list[str]) -> int:
    parser = _parser()
    parser.add_argument("verb")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--config-dir", default="")
    options = parser.parse_intermixed_args(words)
    from portable.core.log import setup_logging
    from portable.trace.run import Request, trace

    setup_logging()
    request = Request(
        options.verb, tuple(options.overrides), options.step, options.micro_batch, options.config_dir
    )
    with contextlib.redirect_stdout(sys.stderr):
        recording, _ = trace(request, replays=False)
    recording.save(options.out)
    print(
        f"recorded step {request.step} of {request.verb} on {recording.header['hardware']}: "
        f"loss {recording.header['loss']:.7g}, {len(recording.nodes)} calls, "
        f"{options.out.stat().st_size / 2**20:.1f} MiB in {options.out}\n"
        f"elsewhere: portable trace compare {options.out.name} [hardware=NAME]"
    )
    return 0


def _compare(words: list[str]) -> int:
    parser = _parser()
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(words)
    from portable.core.log import setup_logging
    from portable.trace.judge import judge
    from portable.trace.recording import Recording
    from portable.trace.report import as_json, as_text
    from portable.trace.run import request_of, trace

    setup_logging()
    recorded = Recording.load(options.file)
    request = request_of(recorded).elsewhere(options.overrides)
    with contextlib.redirect_stdout(sys.stderr):  # the log's place: only the report is for a program to read
        present, replays = trace(request, replays=True)
    found = judge(recorded, present, replays)
    print(json.dumps(as_json(found), indent=1, allow_nan=False) if options.json else as_text(found))
    return 0 if found.agrees else 1


def _parser() -> WordParser:
    return WordParser(prog="portable trace", add_help=False, allow_abbrev=False)
