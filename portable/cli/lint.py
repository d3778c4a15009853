"""``portable lint PATH…``: what ties Python code to one vendor's hardware, and what to write instead."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from portable.cli.words import WordParser
from portable.core.errors import ConfigError
from portable.lint.files import find_files
from portable.lint.finding import Finding
from portable.lint.fix.apply import diff, mend, write
from portable.lint.report.plain import as_json, as_text, count, summary
from portable.lint.report.sarif import as_sarif
from portable.lint.report.table import explain, rules_as_markdown, statistics
from portable.lint.rule import check_ids, load_catalogue
from portable.lint.run import lint_files
from portable.lint.settings import Override, Settings

CLEAN, FOUND, UNREADABLE = 0, 1, 2


def run_lint(arguments: list[str]) -> int:
    """Lint what the command line names; returns 0 without findings, 1 with some, 2 if a file cannot be read.

    Raises: ConfigError, DataError for a command line that cannot be followed.
    """
    chosen = _parser().parse_args(arguments)
    catalogue = load_catalogue()
    if chosen.rules:
        print(rules_as_markdown(catalogue))
        return CLEAN
    if chosen.explain:
        check_ids([chosen.explain], catalogue)
        print(explain(catalogue[chosen.explain]))
        return CLEAN
    if not chosen.paths:
        raise ConfigError("portable lint: which files or folders? Try: portable lint .")
    check_ids([*chosen.select, *chosen.ignore], catalogue)
    override = Override(
        tuple(chosen.select), tuple(chosen.ignore), tuple(chosen.exclude), bool(chosen.strict_ignores)
    )
    files = find_files([Path(path) for path in chosen.paths], override)
    if chosen.diff or chosen.fix:
        num_fixes = _mend(files, chosen.unsafe_fixes, chosen.diff)
        if chosen.diff:
            return FOUND if num_fixes else CLEAN
    reports = lint_files(files, chosen.jobs)
    errors = [f"{report.path} cannot be read: {report.error}" for report in reports if report.error]
    _show([finding for report in reports for finding in report.findings], len(files), errors, chosen)
    return UNREADABLE if errors else FOUND if any(report.findings for report in reports) else CLEAN


def _show(findings: list[Finding], num_files: int, errors: list[str], chosen: argparse.Namespace) -> None:
    catalogue = load_catalogue()
    if chosen.json:
        print(as_json(findings, num_files, errors))
    elif chosen.sarif:
        print(as_sarif(findings, catalogue, errors))
    else:
        shown = statistics(findings, catalogue) if chosen.statistics else as_text(findings)
        print(shown + "\n\n" + summary(findings, num_files) if findings else summary(findings, num_files))
    for error in errors:
        print(f"portable: {error}", file=sys.stderr)


def _mend(files: list[tuple[Path, Settings]], unsafe: bool, only_show: bool) -> int:
    total = 0
    for path, settings in files:
        try:
            mended = mend(path, settings, unsafe=unsafe)
        except OSError:  # told by the lint that follows
            continue
        if mended is not None and only_show:
            print(diff(mended), end="")
        elif mended is not None:
            write(mended)
        total += mended.num_fixes if mended is not None else 0
    if total or not only_show:
        print(
            f"{count(total, 'fix').replace('fixs', 'fixes')} {'possible' if only_show else 'made'}",
            file=sys.stderr,
        )
    return total


def _parser() -> argparse.ArgumentParser:
    parser = WordParser(
        prog="portable lint",
        description="Find what ties Python code to one vendor's hardware, and say what to write instead.",
        epilog="A comment '# portable: ignore[P01]' silences a line, '# portable: ignore-file[P20]' at the "
        "top a file; [tool.portable.lint] of pyproject.toml may set select, ignore and exclude. "
        "Exit code: 0 no findings, 1 findings, 2 a wrong option or an unreadable file.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="Python files, notebooks, folders")
    parser.add_argument("--select", type=_ids, default=[], metavar="P01,P02", help="only these rules")
    parser.add_argument("--ignore", type=_ids, default=[], metavar="P01,P02", help="not these rules")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="leave out files or folders"
    )
    parser.add_argument("--strict-ignores", action="store_true", help="report comments that silence nothing")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--sarif", action="store_true", help="SARIF 2.1.0, for code hosts")
    form.add_argument("--statistics", action="store_true", help="only a count for each rule")
    parser.add_argument("--fix", action="store_true", help="mend what can be mended safely")
    parser.add_argument("--unsafe-fixes", action="store_true", help="with --fix or --diff: others too")
    parser.add_argument("--diff", action="store_true", help="show what --fix would change, and write nothing")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes; 0 chooses")
    parser.add_argument("--explain", metavar="P01", help="tell all about one rule")
    parser.add_argument("--rules", action="store_true", help="print the table of rules")
    return parser


def _ids(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
