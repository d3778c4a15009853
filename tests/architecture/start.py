"""What a statement really imports: asked of a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

HEAVY = frozenset(
    {"torch", "numpy", "hydra", "omegaconf", "transformers", "tokenizers", "pyarrow", "fastapi", "rich"}
)

_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
report, statement, sys.argv = sys.argv[2], sys.argv[3], ["portable", *sys.argv[4:]]
try:
    exec(statement)
except SystemExit:
    pass
new = sorted(name for name in set(sys.modules) - before)
with open(report, "w") as file:
    json.dump(new, file)
"""


def modules_after(root: Path, statement: str, report: Path, *arguments: str) -> set[str]:
    """Run ``statement`` with ``root`` first on the path; return the top-level names of modules it brought in.

    Raises: RuntimeError with what the statement complained of, if it failed.
    """
    command = [sys.executable, "-c", _PROGRAM, str(root), str(report), statement, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"'{statement}' failed: {done.stderr.strip()}")
    return {name.partition(".")[0] for name in json.loads(report.read_text())}


def outside_standard_library(root: Path, report: Path) -> set[str]:
    """Return what ``import portable`` brings in beside itself and the standard library."""
    return modules_after(root, "import portable", report) - sys.stdlib_module_names - {"portable"}


def heavy_after_help(root: Path, report: Path) -> set[str]:
    """Return the heavy libraries that ``portable --help`` brings in."""
    statement = "from portable.cli.main import main; sys.exit(main())"
    return modules_after(root, statement, report, "--help") & HEAVY
