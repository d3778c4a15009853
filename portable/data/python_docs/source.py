"""The ``python_docs`` source: everything documented in this Python, in a fixed order."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import xxhash

from portable.core.errors import DataError
from portable.core.record import Document
from portable.data.config import DataConfig, PythonDocsConfig
from portable.data.format.reader import Quarantine
from portable.data.python_docs.builtin import read_builtins
from portable.data.python_docs.package import find_modules, read_module
from portable.data.python_docs.page import Entry, make_page


def read_python_docs(config: DataConfig, quarantine: Quarantine) -> Iterator[Document]:
    """Yield topics of the language reference, builtins, the standard library, then the packages asked for.

    A name documented more than once (overloads, platform variants) is a page once: the first.

    Raises: DataError if a package is not installed.
    """
    seen: set[str] = set()
    for entry in _read_entries(config.python_docs):
        page = make_page(entry)
        if page.id not in seen:
            seen.add(page.id)
            yield page


def _read_entries(config: PythonDocsConfig) -> Iterator[Entry]:
    roots = [(package, _package_root(package)) for package in config.packages]
    private = config.include_private
    for name in sorted(topics):
        yield Entry(name, "pydoc_data.topics", "topic", topics[name].strip())
    yield from _worth_reading(read_builtins(include_private=private), config)
    for module, file in find_modules(Path(sysconfig.get_path("stdlib")), "").items():
        yield from _worth_reading(read_module(file, module, include_private=private), config)
    for package, root in roots:
        yield from read_package(find_modules(root, package), config)


def read_package(modules: dict[str, Path], config: PythonDocsConfig) -> Iterator[Entry]:
    """Yield entries of modules taken in the order of a hash of their names until there are enough: all
    corners of a package have their chance, and what is not needed is not parsed. Modules come out in order of
    path.
    """
    limit = config.max_documents_per_package
    found: dict[str, list[Entry]] = {}
    count = 0
    for module in sorted(modules, key=lambda name: xxhash.xxh64_intdigest(name.encode())):
        if limit and count >= limit:
            break
        entries = _worth_reading(
            read_module(modules[module], module, include_private=config.include_private), config
        )
        found[module] = list(entries)[: limit - count if limit else None]
        count += len(found[module])
    for module in modules:
        yield from found.get(module, [])


def _worth_reading(entries: Iterable[Entry], config: PythonDocsConfig) -> Iterator[Entry]:
    return (entry for entry in entries if len(entry.doc) >= config.min_doc_chars)


def _package_root(package: str) -> Path:
    # find_spec of a top-level name imports nothing.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"data.python_docs.packages names '{package}', which is not installed here as a package; "
            f"install it (pip install {package}) or take it off the list"
        )
    return Path(next(iter(spec.submodule_search_locations)))
