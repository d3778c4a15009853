"""Lint files: read, parse, index, let every rule look, keep what nothing silences."""

from __future__ import annotations

import ast
import gc
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from portable.core.errors import did_you_mean
from portable.lint.check.match import Match
from portable.lint.files import package_of
from portable.lint.finding import Finding, Fix, Span
from portable.lint.fix.fixes import FIXES
from portable.lint.ignore import EVERYTHING, Ignores, find_ignores
from portable.lint.module import Module
from portable.lint.notebook import Notebook, read_notebook
from portable.lint.rule import UNREADABLE, UNUSED_IGNORE, Catalogue, Rule, load_catalogue
from portable.lint.settings import Settings
from portable.lint.source import PARSE_ERRORS, Source, Undecodable, parse, read_source
from portable.lint.walk import index

_MIN_FILES_FOR_WORKERS = 200  # below that, starting processes costs more than it saves
Hit = tuple[Rule, Match, str]  # with the name of the fix


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found in one file, or why it could not be read."""

    path: Path
    findings: tuple[Finding, ...] = ()
    error: str = ""


def lint_files(files: list[tuple[Path, Settings]], jobs: int = 0) -> list[FileReport]:
    """Lint ``files`` in order. ``jobs`` 0: as many processes as there are processors, if it is worth it."""
    jobs = jobs or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if jobs == 1 or len(files) < _MIN_FILES_FOR_WORKERS:
        with _no_collector():
            return [lint_file(path, settings) for path, settings in files]
    with ProcessPoolExecutor(max_workers=jobs, initializer=gc.disable) as pool:
        return list(pool.map(lint_file, *zip(*files, strict=True), chunksize=32))


@contextmanager
def _no_collector() -> Generator[None]:
    """Keep the garbage collector from walking syntax trees again and again: they hold no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def lint_file(path: Path, settings: Settings) -> FileReport:
    """Lint one file. Damaged code is a finding; a file that cannot be opened is an error."""
    catalogue = load_catalogue()
    try:
        if path.suffix == ".ipynb":
            found = _lint_notebook(read_notebook(path), settings, catalogue)
        else:
            found = lint_source(read_source(path), settings, catalogue)
    except Undecodable as error:
        found = _unreadable(path, 1, str(error), settings, catalogue)
    except OSError as error:
        return FileReport(path, error=error.strerror or str(error))
    return FileReport(path, tuple(found))


def lint_source(source: Source, settings: Settings, catalogue: Catalogue) -> list[Finding]:
    """Return the findings in ``source``, in order of lines."""
    try:
        tree = parse(source.text)
    except PARSE_ERRORS as error:
        line = getattr(error, "lineno", None) or 1
        return _unreadable(source.path, line, str(getattr(error, "msg", error)), settings, catalogue, source)
    return _lint_tree(tree, source, settings, catalogue)


def _lint_tree(tree: ast.Module, source: Source, settings: Settings, catalogue: Catalogue) -> list[Finding]:
    module = index(tree, str(source.path), package_of(source.path))
    active = settings.rules(catalogue)
    ignores = find_ignores(source.text)
    found = [
        _finding(hit, module, source)
        for hit in _hits(module, catalogue)
        if hit[0].id in active and not ignores.silence(hit[0].id, _lines(hit[1].node, module))
    ]
    if UNUSED_IGNORE in active:
        found += _unused(ignores, source, active, catalogue)
    return sorted(found, key=lambda finding: (finding.span, finding.rule))


def _hits(module: Module, catalogue: Catalogue) -> Iterator[Hit]:
    """Yield one hit for each place: that of the rule which spells out most of it."""
    best: dict[ast.AST, Hit] = {}
    for rule in catalogue.values():
        for check in rule.checks:
            for match in check.find(module):
                if match.node not in best or match.weight > best[match.node][1].weight:
                    best[match.node] = (rule, match, check.fix)
    yield from best.values()


def _finding(hit: Hit, module: Module, source: Source) -> Finding:
    rule, match, fix = hit
    span = source.span(match.node)
    mended: Fix | None = FIXES[fix](module, source, match.node) if fix else None
    return _make(rule, source.path, span, match.what, source.line(span.line), mended)


def _make(rule: Rule, path: Path, span: Span, what: str, line: str = "", fix: Fix | None = None) -> Finding:
    return Finding(
        str(path), span, rule.id, rule.severity, f"{rule.title}: {what}", rule.remedy, line, fix=fix
    )


def _lines(node: ast.AST, module: Module) -> set[int]:
    """Return the lines whose comments silence ``node``: its first, its last, the first of its statement."""
    lines = {getattr(node, "lineno", 1), getattr(node, "end_lineno", None) or 1}
    if (statement := module.statement(node)) is not None:
        lines.add(statement.lineno)
    return lines


def _unused(ignores: Ignores, source: Source, active: set[str], catalogue: Catalogue) -> Iterator[Finding]:
    for comment in ignores.comments:
        unknown = [name for name in comment.ids if name not in catalogue]
        for name in comment.unused(active):
            what = "nothing is found here" if name == EVERYTHING else f"{name} is not found here"
            yield _make(
                catalogue[UNUSED_IGNORE], source.path, comment.span, what, source.line(comment.span.line)
            )
        for name in unknown:
            what = f"there is no rule '{name}'.{did_you_mean(name, catalogue)}"
            yield _make(
                catalogue[UNUSED_IGNORE], source.path, comment.span, what, source.line(comment.span.line)
            )


def _unreadable(
    path: Path, line: int, reason: str, settings: Settings, catalogue: Catalogue, source: Source | None = None
) -> list[Finding]:
    if UNREADABLE not in settings.rules(catalogue):
        return []
    text = source.line(line) if source else ""
    return [_make(catalogue[UNREADABLE], path, Span(line, 0, line, len(text)), reason, text)]


def _lint_notebook(notebook: Notebook, settings: Settings, catalogue: Catalogue) -> list[Finding]:
    source = notebook.source
    found: list[Finding] = []
    for cell, line, reason in notebook.broken:
        found += (
            replace(item, cell=cell) for item in _unreadable(source.path, line, reason, settings, catalogue)
        )
    for item in _lint_tree(parse(source.text, notebook=True), source, settings, catalogue):
        cell, span = notebook.place(item.span)
        found.append(replace(item, cell=cell, span=span, fix=None))  # a notebook's text is not its bytes
    return sorted(found, key=lambda item: (item.cell, item.span, item.rule))
