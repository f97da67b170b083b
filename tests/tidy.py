"""The rules of this repository that no other tool checks.

Each rule is a pure function from a file's path and text (or from the whole tree) to findings, one
sentence each. `findings()` applies all of them; tests/test_tidy.py shows that each one can fail,
and that the tree has none. Run as a script this module is the pre-commit hook.

Every file of the tree is read, except what .gitignore names: the rules hold before `git add`, and
in a tree without git.
"""

import ast
import fnmatch
import io
import os
import re
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import yaml  # type: ignore[import-untyped]  # ships no types; one call below

ROOT = Path(__file__).resolve().parent.parent

FUNCTION_LINES_MAX = 60  # one screen; the docstring is not counted
MODULE_LINES_MAX = 500  # beyond it a module holds more than one noun
C_COLUMNS_MAX = 100
C_TAB_COLUMNS = 4
FILE_BYTES_MAX = 512 * 1024  # a source file never is; a binary does not belong here
ADR_HEADINGS = ("Status", "Context", "Decision", "Consequences", "Alternatives")

SUPPRESSION = re.compile(
    r"#\s*(?:type:\s*ignore(?:\[[^\]]*\])?|noqa(?::\s*[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*)?)"
)
HOME_PATH = re.compile(r"(?<![\w.$}/-])/(?:root|home/[\w.-]+|Users/[\w.-]+)/\w")
PACKAGE_INDEX = re.compile(
    r"https?://[^\s/]*(?:pypi|pythonhosted|npmjs|registry)"
    r"|--(?:find-links|trusted-host|(?:extra-)?index-url)|\bindex-url\s*="
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")  # images are links too


# --- Python ---------------------------------------------------------------------------------------


def module_findings(path: str, text: str) -> Iterator[str]:
    """A module says what it is for, and is about one thing."""
    if ast.get_docstring(ast.parse(text)) is None:
        yield f"{path}: no module docstring: say what the module is for"
    lines = text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{path}: {lines} lines, more than {MODULE_LINES_MAX}: split it by noun"


def function_findings(path: str, text: str) -> Iterator[str]:
    """A function fits on a screen."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = _lines(node) - _docstring_lines(node)
            if lines > FUNCTION_LINES_MAX:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines: split it"


def suppression_findings(path: str, text: str) -> Iterator[str]:
    """Whoever silences a checker says why, in the same comment or in one just above it."""
    comments = {
        token.start[0]: (token.string, token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for number, (comment, _) in comments.items():
        if SUPPRESSION.search(comment):
            reason = SUPPRESSION.sub("", comment).strip(" #-:")
            _, above_alone = comments.get(number - 1, ("", False))
            if not reason and not above_alone:
                yield f"{path}:{number}: a checker is silenced without a reason: add one"


def _lines(node: ast.stmt | ast.expr) -> int:
    assert node.end_lineno is not None  # ast.parse always sets it
    return node.end_lineno - node.lineno + 1


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return 0 if ast.get_docstring(node) is None else _lines(node.body[0])


# --- C --------------------------------------------------------------------------------------------


def c_findings(path: str, text: str) -> Iterator[str]:
    """C keeps to the same width and the same length of functions."""
    for number, line in enumerate(text.splitlines(), start=1):
        columns = len(line.expandtabs(C_TAB_COLUMNS))
        if columns > C_COLUMNS_MAX:
            yield f"{path}:{number}: {columns} columns, more than {C_COLUMNS_MAX}"
    for number, lines in _c_functions(text.splitlines()):
        if lines > FUNCTION_LINES_MAX:
            yield f"{path}:{number}: a function of {lines} lines: split it"


def _c_functions(lines: list[str]) -> Iterator[tuple[int, int]]:
    """The first line and length of each function, by what stands in the first column."""
    start = signature = None
    for number, line in enumerate(lines, start=1):
        if re.match(r"[A-Za-z_]", line):
            signature = number
        if line == "{" or (re.match(r"[A-Za-z_].*\)\s*\{$", line)):
            start = signature
        elif line.startswith("}"):
            if line == "}" and start is not None:
                yield start, number - start + 1
            start = None


# --- documents ------------------------------------------------------------------------------------


def title_findings(path: str, text: str) -> Iterator[str]:
    """A document has one title."""
    titles = [heading for level, heading in _headings(text) if level == 1]
    if len(titles) != 1:
        yield f"{path}: {len(titles)} titles (`# ...`): a document has exactly one"


def adr_findings(path: str, text: str) -> Iterator[str]:
    """A decision is recorded with its reasons, in one order."""
    found = [heading.split()[0] for level, heading in _headings(text) if level == 2]
    if found != list(ADR_HEADINGS):
        yield f"{path}: the sections are {found}: they must be {', '.join(ADR_HEADINGS)}"


def changelog_findings(path: str, text: str) -> Iterator[str]:
    """There is always a place for the next change."""
    if not any("Unreleased" in heading for level, heading in _headings(text) if level == 2):
        yield f"{path}: no `Unreleased` section: put it on top"


def link_findings(documents: Mapping[str, str], paths: frozenset[str]) -> Iterator[str]:
    """A link to another file of the tree leads to it, and to the heading that it names."""
    for path, text in documents.items():
        for target in LINK.findall(re.sub(r"`[^`]*`", "", _without_code(text))):
            if re.match(r"[a-z]+:", target):
                continue  # another site's
            name, _, anchor = target.partition("#")
            linked = os.path.normpath(PurePosixPath(path).parent / name) if name else path
            if linked not in paths and linked != ".":
                yield f"{path}: the link to {target} leads nowhere"
            elif anchor and anchor not in _anchors(documents.get(linked, "")):
                yield f"{path}: the link to {target} names no heading of {linked}"


def _without_code(text: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)


def _headings(text: str) -> list[tuple[int, str]]:
    found = re.findall(r"^(#+) +(.+)$", _without_code(text), flags=re.MULTILINE)
    return [(len(marks), heading) for marks, heading in found]


def _anchors(text: str) -> set[str]:
    """The names that forges give to headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for _, heading in _headings(text)
    }


# --- any text -------------------------------------------------------------------------------------


def white_space_findings(path: str, text: str) -> Iterator[str]:
    """White space is nobody's change."""
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"
    if text.endswith("\n\n"):
        yield f"{path}: empty lines at the end"
    for number, line in enumerate(text.split("\n"), start=1):
        if line != line.rstrip():
            yield f"{path}:{number}: white space at the end of the line"


def place_findings(path: str, text: str, *, checkout: str = str(ROOT)) -> Iterator[str]:
    """The tree works on every machine: it names neither somebody's folders nor a package index."""
    deep = checkout.count("/") > 1  # the name of a shallow one, /app, can stand for something else
    for number, line in enumerate(text.splitlines(), start=1):
        if HOME_PATH.search(line) or (deep and checkout in line):
            yield f"{path}:{number}: a path of one machine"
        if PACKAGE_INDEX.search(line):
            yield f"{path}:{number}: the address of a package index: it is the machine's to choose"


def toml_findings(path: str, text: str) -> Iterator[str]:
    """TOML parses."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        yield f"{path}: {error}"


def yaml_findings(path: str, text: str) -> Iterator[str]:
    """YAML parses."""
    if fnmatch.fnmatch(path, "charts/*/templates/*"):
        return  # templates of YAML; tests/unit/operator/test_chart.py renders them
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        yield f"{path}: {' '.join(str(error).split())}"


# --- the tree -------------------------------------------------------------------------------------

Check = Callable[[str, str], Iterator[str]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("*", white_space_findings),
    ("*", place_findings),
    ("*.py", module_findings),
    ("*.py", function_findings),
    ("*.py", suppression_findings),
    ("*.[ch]", c_findings),
    ("*.md", title_findings),
    ("docs/adr/*.md", adr_findings),
    ("CHANGELOG.md", changelog_findings),
    ("*.toml", toml_findings),
    ("*.y*ml", yaml_findings),
)


def findings(files: Mapping[str, bytes]) -> list[str]:
    """Everything that is wrong in a tree of files, given by path."""
    texts = {path: content.decode() for path, content in files.items() if b"\0" not in content}
    documents = {path: text for path, text in texts.items() if path.endswith(".md")}
    found = [*tree_findings(files), *link_findings(documents, _with_folders(files))]
    for path, text in texts.items():
        for pattern, check in CHECKS:
            if fnmatch.fnmatch(path, pattern):
                found.extend(check(path, text))
    return found


def tree_findings(files: Mapping[str, bytes]) -> Iterator[str]:
    """Some files must not be there at all."""
    if "operator/__init__.py" in files:
        yield "operator/__init__.py: it would shadow the standard library's operator: remove it"
    for path, content in files.items():
        if len(content) > FILE_BYTES_MAX:
            yield f"{path}: {len(content)} bytes, more than {FILE_BYTES_MAX}"
    numbers = [PurePosixPath(path).name[:4] for path in files if path.startswith("docs/adr/")]
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield f"docs/adr: two decisions have the number {number}"


def read_tree(root: Path) -> dict[str, bytes]:
    """The files of a checkout by relative path, without what its .gitignore names."""
    lines = (root / ".gitignore").read_text().splitlines()
    ignored = [".git", *(line.rstrip("/") for line in lines)]
    files = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not _matches(name, ignored))
        for name in sorted(names):
            path = Path(folder, name)
            if not _matches(name, ignored) and path.is_file():
                files[path.relative_to(root).as_posix()] = path.read_bytes()
    return files


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _with_folders(files: Mapping[str, bytes]) -> frozenset[str]:
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents}
    return frozenset(files) | folders


if __name__ == "__main__":
    sys.exit("\n".join(findings(read_tree(ROOT))) or None)
