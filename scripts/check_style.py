#!/usr/bin/env python3
"""Checks the house rules that no compiler checks; prints one line for each breach.

Formatting (clang-format 14), files under 500 lines, functions under 80, includes that point one way,
no mention of the server inside the engine.
"""

import ast
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 499
MAX_FUNCTION_LINES = 79
CXX_SUFFIXES = {".cc", ".h", ".cu", ".cuh"}
SUFFIXES = CXX_SUFFIXES | {".py", ".sh"}

# Each folder may include these besides itself.
ENGINE_LAYERS = {
    "support": [],
    "tensor": ["support"],
    "scheduling": ["support"],
    "tokenizer": ["support"],
    "runtime": ["tensor", "support"],
    "weights": ["tensor", "support"],
    "ops": ["runtime", "tensor", "support"],
    "layers": ["ops", "weights", "runtime", "tensor", "support"],
    "models": ["layers", "ops", "weights", "runtime", "tensor", "support"],
    "image": ["ops", "runtime", "tensor", "support"],
    "adapters": ["models", "layers", "ops", "weights", "runtime", "tensor", "support"],
    "pipeline": [
        "adapters", "models", "layers", "ops", "weights", "runtime", "tensor", "support",
        "tokenizer", "image",
    ],
}
# What is written against the library's headers alone, and what `generate` shares with commands.
PUBLIC_HEADER_USERS = [
    ROOT / "cli" / name
    for name in ("generate.cc", "common.h", "progress.h", "request_options.h")
]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def source_files() -> list:
    """The files of the project, committed or not yet, that the rules apply to."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    paths = [ROOT / name for name in listed]
    return sorted(path for path in paths if path.suffix in SUFFIXES and path.is_file())


def blank_comments_and_literals(text: str) -> str:
    """Returns the C++ text with comments and literals blanked; line breaks stay."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\s]{0,16})\(.*?\)(?P=tag)"'
        r"|\"(?:\\.|[^\"\\\n])*\"|(?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'",
        re.DOTALL,
    )
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)


def cxx_functions(text: str):
    """Yields (name, first line, number of lines) of every function body outside functions."""
    text = blank_comments_and_literals(text)
    directives = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
    text = directives.sub(lambda match: "\n" * match.group(0).count("\n"), text)
    scopes = []  # kinds of the open braces
    starts = []  # where the head of each open function begins
    head = 0  # where the current declaration begins
    for match in re.finditer(r"[{};]", text):
        at = match.start()
        if match.group() == "{":
            declaration = text[head:at].strip()
            inside = "function" in scopes or "initializer" in scopes
            kind = "other" if inside else kind_of(declaration)
            scopes.append(kind)
            if kind == "function":
                starts.append((head + len(text[head:at]) - len(text[head:at].lstrip()), declaration))
            if kind != "initializer":
                head = at + 1
        elif match.group() == "}":
            kind = scopes.pop() if scopes else "other"
            if kind == "function":
                start, declaration = starts.pop()
                first = text.count("\n", 0, start) + 1
                names = re.findall(r"([~\w:]+)\s*\(", declaration)
                yield names[0] if names else "?", first, text.count("\n", 0, at) + 2 - first
            if kind != "initializer":
                head = at + 1
        elif not ("initializer" in scopes and "function" not in scopes):
            head = at + 1


def kind_of(declaration: str) -> str:
    """The kind of scope that a brace after this declaration opens, at namespace or class scope."""
    if re.search(r"(^|\s)(namespace|extern)(\s|$)", declaration) and "(" not in declaration:
        return "scope"
    if re.match(r"(template\s*<.*>\s*)?(class|struct|union|enum)\b", declaration, re.DOTALL):
        if not re.search(r"\)\s*(const|noexcept|override|final|\s)*$", declaration):
            return "scope"
    if re.search(r"=\s*$", declaration) or "(" not in declaration:
        return "initializer"
    # A member initialiser such as `: size_{` opens no body yet.
    if re.search(r"\)\s*(noexcept\s*)?:[^:].*\w\s*$", declaration, re.DOTALL):
        return "initializer"
    return "function"


def function_breaches(path: pathlib.Path, text: str):
    if path.suffix in CXX_SUFFIXES:
        functions = cxx_functions(text)
    elif path.suffix == ".py":
        nodes = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = (
            (node.name, node.lineno, node.end_lineno - node.lineno + 1)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, nodes)
        )
    else:
        functions = (
            (match.group(1), text.count("\n", 0, match.start()) + 1, match.group(0).count("\n") + 1)
            for match in re.finditer(r"^([\w-]+)\(\) \{$.*?^\}$", text, re.M | re.S)
        )
    for name, line, length in functions:
        if length > MAX_FUNCTION_LINES:
            yield line, f"function {name} has {length} lines; at most {MAX_FUNCTION_LINES}"


def engine_breaches(path: pathlib.Path, text: str):
    """Checks the include direction, and that the engine does not name its front ends."""
    folder = path.relative_to(ROOT / "engine").parts[0]
    for match in INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        included = match.group(1)
        target = included.split("/")[0]
        if target == "flux" and (ROOT / "include" / included).is_file():
            continue
        if not (ROOT / "engine" / included).is_file():
            yield line, f'include "{included}" is not relative to engine/'
        elif target != folder and target not in ENGINE_LAYERS.get(folder, []):
            yield line, f'{folder}/ must not include "{included}"'
    if folder not in ENGINE_LAYERS:
        yield 1, f"engine/{folder} has no place in the order of layers (scripts/check_style.py)"
    # The project's own key of model_index.json has the project's name.
    for match in re.finditer(r"(?<!flux_)triton", text, re.IGNORECASE):
        yield text.count("\n", 0, match.start()) + 1, "the engine must not name Triton"


def public_breaches(path: pathlib.Path, text: str):
    """The library is enough for a program: what is written against its headers takes no others."""
    own = ("flux/", "cli/") if path.is_relative_to(ROOT / "cli") else ("flux/",)
    for match in INCLUDE.finditer(text):
        if not match.group(1).startswith(own):
            line = text.count("\n", 0, match.start()) + 1
            yield line, f'only the library\'s headers are allowed, not "{match.group(1)}"'


def breaches(path: pathlib.Path):
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > MAX_FILE_LINES:
        yield 1, f"file has {lines} lines; at most {MAX_FILE_LINES}"
    yield from function_breaches(path, text)
    if path.suffix in CXX_SUFFIXES and path.is_relative_to(ROOT / "engine"):
        yield from engine_breaches(path, text)
    if path in PUBLIC_HEADER_USERS or path.is_relative_to(ROOT / "include"):
        yield from public_breaches(path, text)
    if path.suffix == ".sh":
        checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        if checked.returncode != 0:
            yield 1, f"bash: {checked.stderr.strip()}"


def format_breaches(files: list) -> list:
    """The lines of clang-format for files that it would change."""
    sources = [path for path in files if path.suffix in CXX_SUFFIXES]
    if not sources:
        return []
    checked = subprocess.run(
        ["clang-format-14", "--dry-run", "-Werror", "-ferror-limit=1", *sources],
        capture_output=True,
        text=True,
    )
    found = [line for line in checked.stderr.splitlines() if "error:" in line]
    if checked.returncode != 0 and not found:
        found = [checked.stderr.strip()]
    return [f"{line}; run `make format`" for line in found]


def main() -> int:
    files = source_files()
    found = format_breaches(files)
    for path in files:
        name = path.relative_to(ROOT)
        found += [f"{name}:{line}: {message}" for line, message in breaches(path)]
    print("\n".join(found) if found else f"style: {len(files)} files, no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
