"""Who may import whom, and what is loaded when: read from the sources, and counted in a fresh process."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tools import finish, start

import tinydiff
import tinydiff_kernels
import tinydiff_weights

PACKAGES = {module.__name__: Path(module.__path__[0]) for module in (tinydiff, tinydiff_kernels, tinydiff_weights)}
SOURCES = sorted((name, path) for name, folder in PACKAGES.items() for path in folder.rglob("*.py"))
NEVER = {"torch", "diffusers", "transformers", "scipy", "accelerate", "torchsde", "safetensors"}
FOREIGN = {
    "tinydiff": NEVER,
    "tinydiff_kernels": NEVER | {"tinydiff", "tinydiff_weights", "PIL", "tokenizers", "huggingface_hub"},
    "tinydiff_weights": NEVER | {"tinydiff", "tinydiff_kernels", "PIL", "tokenizers", "numba"},
}
# Loaded where they are needed, inside a function.
LAZY = {"numba", "PIL", "tokenizers", "huggingface_hub"}
HEAVY = LAZY | {"numpy", "torch", "diffusers", "transformers", "scipy", "llvmlite"}


def imported(nodes: list[ast.stmt] | ast.AST, package: str) -> Iterator[str]:
    """Top-level names of the modules that the statements import."""
    found = ast.walk(nodes) if isinstance(nodes, ast.AST) else (n for node in nodes for n in ast.walk(node))
    for node in found:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").split(".")[0]


def at_import(tree: ast.Module) -> list[ast.stmt]:
    """Statements that run when the module is imported: no function bodies, nothing for type checkers."""
    statements = []
    for node in tree.body:
        checking = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if not checking and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            statements.append(node)
    return statements


@pytest.mark.parametrize(("package", "path"), SOURCES, ids=[f"{n}/{p.name}" for n, p in SOURCES])
def test_import_rules(package: str, path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not set(imported(tree, package)) & FOREIGN[package]
    if package != "tinydiff_kernels":
        assert not set(imported(at_import(tree), package)) & LAZY


def test_the_rules_see_what_they_forbid() -> None:
    tree = ast.parse("def f():\n    from torch.nn import Linear\nimport numba.core as c\nfrom . import x")
    assert set(imported(tree, "me")) == {"torch", "numba", "me"}
    assert set(imported(at_import(tree), "me")) == {"numba", "me"}
    assert len(SOURCES) > 80


COUNT = """
import io, sys
before = set(sys.modules)
{statement}
loaded = set(sys.modules) - before
sys.stdout = sys.__stdout__
print(len(loaded), *sorted(loaded & {heavy!r}))
"""


@pytest.mark.parametrize(
    ("statement", "most"),
    [
        ("import tinydiff", 40),
        ("sys.stdout = io.StringIO(); from tinydiff.cli import main; assert main(['--help']) == 0", 120),
        (
            "sys.stdout = io.StringIO(); from tinydiff.cli import main; assert main(['generate', '-h']) == 0",
            120,
        ),
    ],
    ids=["import tinydiff", "tinydiff --help", "tinydiff generate --help"],
)
def test_light_imports(tmp_path: Path, statement: str, most: int) -> None:
    result = finish(start(tmp_path, code=COUNT.format(statement=statement, heavy=HEAVY)))
    assert result.err == ""
    count, *heavy = result.out.split()
    assert heavy == []
    assert int(count) <= most


def test_exported_members() -> None:
    assert sorted(tinydiff.__all__) == sorted(dir(tinydiff))
    for name in tinydiff.__all__:
        assert getattr(tinydiff, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = tinydiff.Pipelin
    errors = importlib.import_module("tinydiff.errors")
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert defined == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), tinydiff.TinyDiffError) for name in defined)
