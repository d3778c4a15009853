"""``portable verify parallel``: does a layout compute what one process computes?"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

from portable.cli.words import WordParser
from portable.core.errors import ConfigError

_USAGE = """\
usage: portable verify parallel [OVERRIDES] [OPTIONS]

Shrink the model, train it for a few steps in the layout and in one process, from the same weights and rows,
and compare losses, gradient norms, every gradient, scores and weights. Where they part, name the first
module.

OVERRIDES are those of portable pretrain: model=NAME parallel.tp=2 strategy=fsdp precision=bf16 optim=muon ...
model_path=FOLDER takes the shape of a model folder (its weights are drawn anew); with
model_source=transformers, or where we lack its formulas, transformers' code computes.
Without a launcher, the command starts the processes itself, on hardware=cpu unless you name other; under
torchrun or srun, every rank runs it, on the hardware at hand.

Options
  --world N          processes; without it, as few as fill the layout, with two readers
  --steps N          optimiser steps; 3 unless given
  --full             the model as it is, not shrunk
  --json FILE        also write the certificate into FILE as JSON
  --config-dir DIR   look for YAML files in DIR too

Exit code: 0 the layout agrees, 1 it departs, 2 it cannot be.
"""


def run_certify(arguments: list[str]) -> int:
    """Print a certificate; returns 1 if the layout departs.

    Raises: ConfigError for words that it does not know, and for a layout that cannot be.
    """
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0
    from portable.collective.place import read_place

    options = _parse(arguments)
    if read_place().world_size > 1:
        return _certify(options)
    return _start(arguments, options)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = WordParser(prog="portable verify parallel", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--world", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--config-dir", type=Path)
    options = parser.parse_intermixed_args(words)
    for name, least in (("world", 0), ("steps", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name}={getattr(options, name)}; use a positive number")
    return options


def _start(arguments: list[str], options: argparse.Namespace) -> int:
    """Check what can be told at once, and run this very command in as many processes as the layout needs."""
    from portable.certificate.foreign import asked_model
    from portable.certificate.shrink import make_trial
    from portable.certificate.world import fitting_world, run_world
    from portable.config.load import load
    from portable.parallel.degrees import make_layout

    named = any(word.startswith("hardware=") for word in options.overrides)
    extra = [] if named else ["hardware=cpu"]
    job = load("pretrain", [*options.overrides, *extra], options.config_dir)
    strategy = job.strategy.name
    world = options.world or fitting_world(job.parallel, strategy)
    if world == 1:
        raise ConfigError(
            "this layout is one process, which agrees with itself; raise a degree of parallel.*, or use a "
            "strategy for several, e.g. strategy=ddp"
        )
    make_layout(job.parallel, strategy, world)
    asked = asked_model(job.model, job.model_path, job.model_source)
    make_trial(asked.model, job.parallel, seq_len=job.seq_len, full=options.full, foreign=asked.foreign)
    return run_world(["verify", "parallel", *arguments, *extra], world)


def _certify(options: argparse.Namespace) -> int:
    """Be one of the ranks; the first prints."""
    from portable.certificate.certify import certify
    from portable.certificate.foreign import asked_model
    from portable.certificate.report import make_certificate
    from portable.certificate.shrink import make_trial
    from portable.config.load import load
    from portable.config.override import resolve_auto
    from portable.core.log import setup_logging
    from portable.core.storage import write_json
    from portable.device.select import detect_hardware, load_backend
    from portable.job.machine import Machine

    job = load("pretrain", resolve_auto(options.overrides, detect_hardware), options.config_dir)
    asked = asked_model(job.model, job.model_path, job.model_source)
    trial = make_trial(
        asked.model, job.parallel, seq_len=job.seq_len, full=options.full, foreign=asked.foreign
    )
    for name, value in load_backend(job.hardware.backend).environment(deterministic=True).items():
        os.environ.setdefault(name, value)
    setup_logging()
    logging.getLogger("portable").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        runtime = Machine(job).runtime
        try:
            verdict = certify(trial, runtime, job.optim, options.steps)
            is_first = runtime.group.rank == 0
            certificate = make_certificate(verdict, trial, asked.model, runtime)
        finally:
            runtime.group.close()
    if is_first:
        print(certificate)
        if options.json is not None:
            write_json(options.json, certificate.to_json())
    return 0 if verdict.agrees else 1
