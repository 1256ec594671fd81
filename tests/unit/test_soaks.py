"""`make soak` runs every test that has a long form."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = [
    path
    for path in sorted(TESTS.rglob("test_*.py"))
    if "soaking import scale" in path.read_text(encoding="utf-8")
]


def names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "soak"


def unmarked(tree: ast.Module) -> list[str]:
    """The tests whose length is a matter of ``scale``, and that no soak would find.

    By the names that a test uses, and those that these use; how long it may take does not count.
    """
    uses: dict[str, set[str]] = {}
    tests: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            tests |= {node.name: node} if node.name.startswith("test_") else {}
            limits = [each for each in node.decorator_list if "timeout" in ast.unparse(each)]
            uses[node.name] = names_in(node).difference(*map(names_in, limits))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == "pytestmark":
                    if any(map(is_mark, ast.walk(node.value))):
                        return []
                elif isinstance(target, ast.Name):
                    uses[target.id] = names_in(node.value)
        elif isinstance(node, ast.ClassDef):
            uses[node.name] = names_in(node)
    grown = True
    while grown:
        grown = False
        for name, used in uses.items():
            more = used.union(*(uses[each] for each in used if each in uses))
            grown, uses[name] = grown or more != used, more
    return [
        name
        for name, node in tests.items()
        if "scale" in uses[name] and not any(map(is_mark, node.decorator_list))
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_what_has_a_long_form_is_marked_as_a_soak(path: Path) -> None:
    assert unmarked(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_one_that_is_not_marked_is_found() -> None:
    source = """
TURNS = 3 * scale()
pytestmark = pytest.mark.timeout(1200 * scale())
def turns(): return TURNS
@pytest.mark.soak
def test_a(): turns()
def test_b(): turns()
@pytest.mark.timeout(5 * scale())
def test_c(): pass
"""
    assert unmarked(ast.parse(source)) == ["test_b"]
