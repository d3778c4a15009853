"""``portable VERB [OVERRIDES]``.

Help and version answer at once: nothing heavy is imported before the verb is known.
"""

import os
import sys
from collections.abc import Sequence

from portable.core.errors import CollectiveError, PortableError, did_you_mean
from portable.core.registry import load_target

_VERBS = {
    "run": "a whole recipe, e.g. recipe=quickstart",
    "data": "raw text → cleaned corpus, tokenizer, token shards",
    "pretrain": "corpus → base model",
    "synth": "corpus → question-answer conversations",
    "sft": "model + conversations → fine-tuned model",
    "rl": "model → model tuned on a verifiable reward",
    "eval": "models → scores with counts and intervals",
    "export": "model → checked Hugging Face folder",
    "serve": "model → OpenAI-compatible server",
    "chat": "model → conversation in this terminal",
    "verify": "kernels against float64, or a parallel layout against one process",
    "bench": "kernels against the limits of this machine",
    "trace": "record a training step, and find where other hardware departs from it",
    "lint": "what ties Python code to one vendor",
    "doctor": "what this machine can do, and why not more",
    "emulate": "run any program on hardware that is not there",
}
# Verbs that are no jobs: functions of (words) that return the exit code.
_PROGRAMS = {
    "verify": "portable.cli.verify:run_verify",
    "bench": "portable.cli.bench:run_bench",
    "trace": "portable.cli.trace:run_trace",
    "lint": "portable.cli.lint:run_lint",
    "doctor": "portable.cli.doctor:run_doctor",
    "emulate": "portable.cli.emulate:run_emulate",
}
_HELP = """usage: portable VERB [OVERRIDES] [OPTIONS]

Verbs
{verbs}

Overrides are Hydra's: steps=100, optim=muon, hardware=NAME, model.hidden_size=512
Options
  --cfg job           print the resolved settings and stop
  -m, --multirun      run every combination of comma-separated values
  --config-dir DIR    look for YAML files in DIR too
  --help              this text; portable VERB --help lists the choices of a verb
  --debug             show tracebacks
  --version

Examples
  portable run recipe=quickstart
  portable data source='notes/*.md'
  portable sft --cfg job hardware=NAME
  portable chat model_path=runs/quickstart/latest/export
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failure, 2 for something the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from portable import __version__

        print(f"portable {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    try:
        return _run(verb, rest)
    except PortableError as error:
        if debug:
            raise
        _complain(str(error))
        if isinstance(error, CollectiveError) and arguments is None:
            # This process ends with it; what torch tidies at an exit would wait for the rank that is gone.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("stopped by the user; the same command continues where it stood")
        return 130


def _run(verb: str, rest: list[str]) -> int:
    # A vendor's extension that loads itself into torch fails, and torch with it, where its driver is missing:
    # the chosen backend loads what it needs.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    if verb in _PROGRAMS:
        return load_target(_PROGRAMS[verb])(rest)
    if verb not in _VERBS:
        _complain(f"there is no verb '{verb}'.{did_you_mean(verb, _VERBS)} Verbs: {', '.join(_VERBS)}")
        return 2
    from portable.cli.launch import launch
    from portable.launcher.failure import FailureRecord

    with FailureRecord():
        return launch(verb, rest)


def _help() -> str:
    width = max(map(len, _VERBS))
    return _HELP.format(verbs="\n".join(f"  {verb:<{width}}  {text}" for verb, text in _VERBS.items()))


def _complain(text: str) -> None:
    print(f"portable: {text}", file=sys.stderr)
