"""The rules of the house that a syntax tree can show. Each takes a tree and returns what breaks it."""

import ast
import re
from collections.abc import Callable, Iterator

from tests.architecture import layers
from tests.architecture.tree import SourceFile, SourceTree, Violation, is_text, last_name

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_MEAN_FILE_LINES = 200
MAX_CONF_LINES = 40
MIN_TEST_RATIO = 0.8
CONFIG_NAMES = {"cfg", "config", "conf"}
NAMELESS_MODULES = {"util", "utils", "helper", "helpers", "misc", "common"}
BROAD_EXCEPTIONS = {"Exception", "BaseException"}

_VENDOR = re.compile(
    r"(?<![a-z])(cuda|npu|hip|rocm|nccl|hccl|rccl|triton|ascend|mps|xpu)(?![a-z])|torch\.accelerator"
)


def vendor_words(tree: SourceTree) -> list[Violation]:
    """Find vendors' hardware and software in ``portable``: identifiers, attributes, strings, file names."""
    return [violation for file in tree.files("portable") for violation in _vendor_words(file)]


def _vendor_words(file: SourceFile) -> Iterator[Violation]:
    if word := _vendor_word(file.name):
        yield Violation(file.name, 1, f"vendor word '{word}' in a file name")
    docstrings = {
        id(node.value) for node in file.nodes() if isinstance(node, ast.Expr) and is_text(node.value)
    }
    for node in file.nodes():
        if id(node) in docstrings:
            continue
        for text in _texts(node):
            if word := _vendor_word(text):
                yield file.at(
                    node, f"vendor word '{word}' in '{text.strip()[:60]}'; ask what the device can do instead"
                )


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield what ``node`` itself spells: names, dotted pairs, literal text."""
    match node:
        case ast.Name(id=name) | ast.arg(arg=name) | ast.ClassDef(name=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.Attribute(value=value, attr=name):
            yield f"{last_name(value)}.{name}" if last_name(value) == "torch" else name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.alias(name=name, asname=alias):
            yield name
            yield alias or ""
        case ast.ImportFrom(module=str(module), names=names):
            yield module
            yield from (f"{module}.{alias.name}" for alias in names)
        case ast.Constant(value=str(text)):
            yield text
        case _:
            pass


def _vendor_word(text: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text).lower()
    found = _VENDOR.search(words)
    return found.group(0) if found else ""


def long_files(tree: SourceTree) -> list[Violation]:
    """Find files of more than ``MAX_FILE_LINES`` lines."""
    return [
        Violation(file.name, file.num_lines, f"{file.num_lines} lines; the limit is {MAX_FILE_LINES}")
        for file in _sources(tree)
        if file.num_lines > MAX_FILE_LINES
    ]


def long_functions(tree: SourceTree) -> list[Violation]:
    """Find functions of more than ``MAX_FUNCTION_LINES`` lines."""
    return [
        file.at(function, f"{function.name} has {length} lines; the limit is {MAX_FUNCTION_LINES}")
        for file in _sources(tree)
        for function in file.functions()
        if (length := (function.end_lineno or function.lineno) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]


def mean_file_size(tree: SourceTree) -> list[Violation]:
    """Find a tree whose files, ``__init__`` left out, reach ``MAX_MEAN_FILE_LINES`` lines on average."""
    sizes = [file.num_lines for file in _sources(tree) if not file.name.endswith("__init__.py")]
    mean = sum(sizes) / max(len(sizes), 1)
    if mean < MAX_MEAN_FILE_LINES:
        return []
    return [
        Violation(
            "portable", 0, f"files have {mean:.0f} lines on average; the limit is {MAX_MEAN_FILE_LINES}"
        )
    ]


def config_digging(tree: SourceTree) -> list[Violation]:
    """Find ``config.get(...)`` and ``getattr(config, "literal")``: configs are dataclasses with fields."""
    return [
        file.at(node, "digs in a config; read a field of its dataclass")
        for file in _sources(tree)
        for node in file.nodes()
        if isinstance(node, ast.Call) and _digs(node)
    ]


def _digs(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute) and call.func.attr == "get":
        return _is_config(call.func.value)
    is_getattr = last_name(call.func) == "getattr" and len(call.args) > 1
    return is_getattr and _is_config(call.args[0]) and is_text(call.args[1])


def _is_config(node: ast.AST) -> bool:
    return last_name(node).split("_")[-1] in CONFIG_NAMES


def broad_excepts(tree: SourceTree) -> list[Violation]:
    """Find ``except:`` and ``except Exception``, unless the handler ends by raising from it."""
    return [
        file.at(node, "catches everything; name the exceptions that are expected")
        for file in _sources(tree)
        for node in file.nodes()
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _passes_on(node)
    ]


def _passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.cause is not None and last_name(last.cause) == handler.name


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or last_name(caught) in BROAD_EXCEPTIONS


def asserts(tree: SourceTree) -> list[Violation]:
    """Find ``assert``: it vanishes under ``python -O``, and it explains nothing to the user.

    ``portable.testing`` is made of tests, which assert.
    """
    return [
        file.at(node, "asserts; raise one of portable.core.errors")
        for file in _sources(tree)
        if not file.name.startswith("portable/testing/")
        for node in file.nodes()
        if isinstance(node, ast.Assert)
    ]


def prints(tree: SourceTree) -> list[Violation]:
    """Find ``print`` outside the command line."""
    return [
        file.at(node, "prints; use logging, or return the text to the command line")
        for file in _sources(tree)
        for node in file.nodes()
        if file.package != "cli" and isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id == "print"
    ]


def nameless_modules(tree: SourceTree) -> list[Violation]:
    """Find modules and packages named after nothing."""
    return [
        Violation(file.name, 1, f"'{part}' names nothing; name the module after what it holds")
        for file in _sources(tree)
        for part in file.name.removesuffix(".py").split("/")
        if part in NAMELESS_MODULES
    ]


def missing_annotations(tree: SourceTree) -> list[Violation]:
    """Find functions with an argument or a result that has no type."""
    return [
        file.at(function, f"{function.name} does not annotate {', '.join(missing)}")
        for file in _sources(tree)
        for function in file.functions()
        if (missing := _unannotated(function))
    ]


def _unannotated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    spec = function.args
    arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    if arguments and arguments[0].arg in {"self", "cls"}:
        arguments = arguments[1:]
    arguments += [extra for extra in (spec.vararg, spec.kwarg) if extra]
    missing = [argument.arg for argument in arguments if argument.annotation is None]
    if function.returns is None and function.name != "__init__":
        missing.append("its result")
    return missing


def unsafe_torch_load(tree: SourceTree) -> list[Violation]:
    """Find ``torch.load`` that may run code hidden in a file."""
    return [
        file.at(node, "torch.load must be called as torch.load(..., weights_only=True)")
        for file in _sources(tree)
        for node in file.nodes()
        if _unsafe_load(node)
    ]


def _unsafe_load(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "torch" and any(alias.name == "load" for alias in node.names)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load"):
        return False
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    flag = given.get("weights_only")
    return last_name(node.func.value) == "torch" and not (
        isinstance(flag, ast.Constant) and flag.value is True
    )


def long_conf_files(tree: SourceTree) -> list[Violation]:
    """Find YAML files of ``MAX_CONF_LINES`` lines or more: a default belongs in the dataclass."""
    found: list[Violation] = []
    for path in sorted((tree.root / "conf").rglob("*.yaml")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines >= MAX_CONF_LINES:
            name = path.relative_to(tree.root).as_posix()
            found.append(Violation(name, lines, f"{lines} lines; keep below {MAX_CONF_LINES}"))
    return found


def too_few_tests(tree: SourceTree) -> list[Violation]:
    """Find a tree whose tests have fewer than ``MIN_TEST_RATIO`` lines for each line of source.

    ``portable/testing`` is tests, too: the contract, in a form that other packages import.
    """
    contract = sum(file.num_lines for file in tree.files("portable/testing"))
    source = sum(file.num_lines for file in _sources(tree)) - contract
    tests = sum(file.num_lines for file in tree.files("tests")) + contract
    if tests >= MIN_TEST_RATIO * source:
        return []
    return [
        Violation("tests", 0, f"{tests} test lines for {source} source lines; keep at least {MIN_TEST_RATIO}")
    ]


def _sources(tree: SourceTree) -> list[SourceFile]:
    return [*tree.files("portable"), *tree.files("backends")]


RULES: dict[str, Callable[[SourceTree], list[Violation]]] = {
    rule.__name__: rule
    for rule in (
        layers.imports_climb,
        layers.portable_imports_backends,
        layers.backends_import_too_high,
        vendor_words,
        long_files,
        long_functions,
        mean_file_size,
        config_digging,
        broad_excepts,
        asserts,
        prints,
        nameless_modules,
        missing_annotations,
        unsafe_torch_load,
        long_conf_files,
        too_few_tests,
    )
}
