"""The house's rules that no linter knows: sizes, names, words, docstrings, and that what is named exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseg import bundle, errors

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "edgeseg").rglob("*.py"))
CODE = [*SOURCES, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.md")))
LONGEST_FILE, LONGEST_BACKEND, LONGEST_FUNCTION = 400, 200, 40
NO_NAMES = re.compile(r"^_*(utils?|helpers?|commons?|managers?)$|(_utils?|_helpers?|_manager|Manager)$")
NO_WORDS = re.compile(r"tumou?rs?\b", re.IGNORECASE)
NO_PLACES = re.compile(r"/work/|\.\./shared|/home/\w|/Users/\w|[A-Z]:\\\\")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 30
    assert any(path.name == "cli.py" for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (LONGEST_BACKEND if path.parent.name == "backends" else LONGEST_FILE)
    long = [f"{f.name} ({_body_lines(f)})" for f in _functions(_tree(path)) if _body_lines(f) > LONGEST_FUNCTION]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_names_say_what_a_thing_is(path: Path) -> None:
    names = [part.removesuffix(".py") for part in path.relative_to(ROOT).parts]
    names += [n.name for n in ast.walk(_tree(path)) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    assert not [name for name in names if NO_NAMES.search(name)]


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_words_and_places(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not NO_WORDS.findall(text), "say FLAIR abnormality"
    assert not NO_PLACES.findall(text), "a path of one machine"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_what_is_public_is_explained(path: Path) -> None:
    tree = _tree(path)
    if tree.body:
        assert ast.get_docstring(tree), "a module says what it is for"
    public: list[ast.ClassDef | Function] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            public.append(node)
            if isinstance(node, ast.ClassDef):
                public += [n for n in node.body if isinstance(n, Function) and not n.name.startswith("_")]
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_library_code_neither_prints_nor_asserts(path: Path) -> None:
    tree = _tree(path)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "print" not in calls, "printing is the console's"


def test_the_tests_mirror_names_once() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), "without packages, pytest needs names that are unlike each other"


def _links(path: Path) -> list[str]:
    """Files that a document links to: its Markdown links without a scheme, without their anchors."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(<?([^)\s>]+)>?\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    gone = [link for link in _links(path) if not (path.parent / link).exists()]
    assert not gone


def test_documents_named_in_the_code_exist() -> None:
    named = {
        (place, _name(path))
        for path in CODE
        for place in re.findall(r"``?((?:docs|benchmarks)/[\w/.-]+\.\w+)``?", path.read_text(encoding="utf-8"))
    }
    assert not [f"{place}, named in {path}" for place, path in sorted(named) if not (ROOT / place).is_file()]


@pytest.mark.parametrize("folder", bundle.shipped(), ids=lambda folder: folder.name)
def test_shipped_engines_are_whole_and_have_passed(folder: Path) -> None:
    manifest, content = bundle.read(folder)
    assert content
    assert folder.name == manifest.name
    assert manifest.parity is not None
    assert manifest.parity.passed
    assert manifest.licence == "CC-BY-NC-SA-4.0"
    assert bundle.file_sha256(bundle.shipped_weights(manifest.network)) == manifest.weights_sha256


def test_the_default_engine_is_shipped() -> None:
    assert bundle.DEFAULT_ENGINE in [folder.name for folder in bundle.shipped()]


def test_every_error_has_a_place_in_the_tree() -> None:
    tree = errors.__doc__ or ""
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.EdgesegError):
            assert re.search(rf"\b{name}\s+{error.exit_code}\b", tree), name
