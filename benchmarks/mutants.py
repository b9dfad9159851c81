"""How many small faults, put into one file of the package at a time, the fast tests of its folder notice.

    python benchmarks/mutants.py zeropoint/numerics/ranges.py --count 50

A mutant differs from the file in one operator, constant, keyword or statement. It runs in a fork of a process
that has imported torch, which costs little more than its tests, and only with those that reach the changed
statement, quickest first. A mutant that no test notices is equivalent to the original, or shows what a test
should check.
"""

import ast
import contextlib
import copy
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
REACHED = ROOT / "build" / "mutants"  # the lines that tests reach; measured again if a file of tests changed
PRELOADED = (
    "torch",
    "torch.export",
    "torch._dynamo",
    "torch.fx.experimental.proxy_tensor",
    "hypothesis",
    "sympy",
)

SWAPPED_TYPES: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,),
}  # fmt: skip
PAIRS = [
    ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("any", "all"),
    ("argmin", "argmax"),
    ("low", "high"), ("qmin", "qmax"), ("round", "floor"), ("sum", "mean"), ("inputs", "outputs"),
]  # fmt: skip
SWAPPED_NAMES = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}

Change = tuple[str, Callable[[Any], Any]]


def changes(node: ast.AST) -> Iterator[Change]:
    """What may be changed in one node: a description, and a function from the node to what replaces it."""
    match node:
        case ast.Constant(value=bool(value)):
            yield f"{value} to {not value}", lambda old: ast.Constant(not old.value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} to {value + 1}", lambda old: ast.Constant(old.value + 1)
            yield f"{value} to {value - 1}", lambda old: ast.Constant(old.value - 1)
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            for other in SWAPPED_TYPES.get(type(op), ()):
                yield (
                    f"{type(op).__name__} to {other.__name__}",
                    lambda old, new=other: setting(old, op=new()),
                )
        case ast.Compare(ops=[op]):
            for other in SWAPPED_TYPES[type(op)]:
                yield (
                    f"{type(op).__name__} to {other.__name__}",
                    lambda old, new=other: setting(old, ops=[new()]),
                )
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield f"without {type(node.op).__name__}", lambda old: old.operand
        case ast.Attribute(attr=name) if name in SWAPPED_NAMES:
            yield f"{name} to {SWAPPED_NAMES[name]}", lambda old: setting(old, attr=SWAPPED_NAMES[old.attr])
        case ast.Name(id=name, ctx=ast.Load()) if name in SWAPPED_NAMES and name not in ("low", "high"):
            yield f"{name} to {SWAPPED_NAMES[name]}", lambda old: ast.Name(SWAPPED_NAMES[old.id], ast.Load())
        case ast.keyword(arg="min" | "max"):
            yield "min= and max= exchanged", lambda old: setting(old, arg=SWAPPED_NAMES[old.arg])
        case ast.IfExp():
            yield "branches exchanged", lambda old: setting(old, body=old.orelse, orelse=old.body)
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Continue():
            yield "statement left out", lambda old: ast.Pass()
    if isinstance(node, ast.If | ast.While):
        yield "condition false", lambda old: setting(old, test=ast.Constant(False))
    if isinstance(node, ast.If):
        yield "condition true", lambda old: setting(old, test=ast.Constant(True))
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
        yield (
            "returned in the other order",
            lambda old: ast.Return(setting(old.value, elts=old.value.elts[::-1])),
        )
    if isinstance(node, ast.Call) and len(node.args) == 2 and not isinstance(node.args[1], ast.Starred):
        yield "arguments exchanged", lambda old: setting(old, args=old.args[::-1])


def setting(node: ast.AST, **fields: Any) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


Place = tuple[tuple[str, int | None], ...]  # the way from the module to a node
Mutant = tuple[Place, int, str, ast.stmt, bool]  # place, which change, description, statement, in a function


def mutants(
    node: ast.AST, place: Place = (), statement: ast.stmt | None = None, inside: bool = False
) -> Iterator[Mutant]:
    """All mutants below a node, apart from those of annotations and messages."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    statement = node if isinstance(node, ast.stmt) else statement
    if statement is not None:
        for number, (text, _) in enumerate(changes(node)):
            yield place, number, text, statement, inside
    within = isinstance(node, ast.FunctionDef | ast.Lambda)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                step = (*place, (name, index))
                yield from mutants(child, step, statement, inside or (within and name == "body"))


def mutated(tree: ast.Module, place: Place, number: int) -> ast.Module:
    tree = copy.deepcopy(tree)
    parent: Any = tree
    for name, index in place[:-1]:
        parent = getattr(parent, name) if index is None else getattr(parent, name)[index]
    name, index = place[-1]
    old = getattr(parent, name) if index is None else getattr(parent, name)[index]
    new = ast.copy_location(list(changes(old))[number][1](old), old)
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new
    return ast.fix_missing_locations(tree)


def in_fork(work: Callable[[], int], seconds: float) -> int | None:
    """The exit status of ``work`` in a fork of this process, or None if it took longer."""
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        status = 99
        with contextlib.suppress(BaseException):
            status = work()
        os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Reach:
    """A plugin of pytest: the lines of a folder that each test runs, and its seconds."""

    def __init__(self, folder: Path):
        self.folder, self.tests = str(folder), {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Follows the lines of one test."""
        lines: set[tuple[str, int]] = set()

        def of_line(frame: Any, event: str, _: Any) -> Any:
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            return of_line

        def of_call(frame: Any, event: str, _: Any) -> Any:
            return of_line if frame.f_code.co_filename.startswith(self.folder) else None

        started = time.monotonic()
        sys.settrace(of_call)
        result = yield
        sys.settrace(None)
        self.tests[item.nodeid] = (time.monotonic() - started, sorted(lines))
        return result


class Select:
    """A plugin of pytest: only these tests, in this order."""

    def __init__(self, tests: list[str]):
        self.tests = {test: number for number, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drops and orders them."""
        items[:] = sorted((i for i in items if i.nodeid in self.tests), key=lambda i: self.tests[i.nodeid])


OPTIONS = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]


def reached(file: Path, source: Path) -> dict[str, tuple[float, list[tuple[str, int]]]]:
    """Of each fast test of a file: its seconds and the lines of the folder of ``source`` that it runs."""
    kept = REACHED / f"{file.parent.name}-{file.stem}.json"
    if not kept.exists() or kept.stat().st_mtime < file.stat().st_mtime:

        def work() -> int:
            reach = Reach(source.parent)
            status = pytest.main([*OPTIONS, str(file)], plugins=[reach])
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(reach.tests))
            return int(status)

        status = in_fork(work, 600)
        if status not in (0, 5):
            kept.unlink(missing_ok=True)
            raise SystemExit(f"{file} fails on the unchanged package (status {status})")
    return {test: tuple(found) for test, found in json.loads(kept.read_text()).items()}


def survives(tree: ast.Module, source: Path, tests: list[str], seconds: float) -> bool:
    code = compile(tree, str(source), "exec")
    unchanged = SourceFileLoader.get_code

    def work() -> int:
        SourceFileLoader.get_code = lambda self, name: (
            code if self.path == str(source) else unchanged(self, name)
        )
        files = sorted({test.split("::")[0] for test in tests})
        return int(pytest.main([*OPTIONS, *files], plugins=[Select(tests)]))

    return in_fork(work, seconds) == 0


def main(
    sources: list[Path],
    count: Annotated[int, typer.Option(help="mutants of each file, chosen at random; 0 for all")] = 50,
    seed: int = 0,
    only: Annotated[str, typer.Option(help="only tests of files whose name contains this")] = "",
    line: Annotated[list[int] | None, typer.Option(help="only mutants on these lines")] = None,
) -> None:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in PRELOADED:
        importlib.import_module(name)
    torch = importlib.import_module("torch")  # what the first export loads and caches, forks have at once
    torch.export.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),)).module()
    for source in (path.resolve() for path in sources):
        folder = ROOT / "tests" / source.parent.name
        tests: dict[str, tuple[float, set[int]]] = {}
        for file in sorted(folder.glob("test_*.py")):
            for test, (seconds, lines) in reached(file, source).items() if only in file.name else ():
                tests[test] = seconds, {number for path, number in lines if path == str(source)}
        quickest = sorted(tests, key=lambda test: tests[test][0])
        tree = ast.parse(source.read_text(encoding="utf-8"))
        found = list(mutants(tree))
        chosen = sorted(
            random.Random(seed).sample(found, min(count or len(found), len(found))), key=lambda m: m[3].lineno
        )
        killed, survivors = 0, []
        for place, number, text, statement, inside in chosen:
            if line and statement.lineno not in line:
                continue
            span = set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
            if isinstance(statement, ast.If | ast.For | ast.While | ast.With):
                span = set(range(statement.lineno, statement.body[0].lineno))
            names = [test for test in quickest if tests[test][1] & (span if inside else tests[test][1])]
            changed = mutated(tree, place, number)
            limit = 30 + 5 * sum(tests[test][0] for test in names)
            alive = not names or survives(changed, source, names, limit)
            killed += not alive
            if alive:
                survivors.append(
                    f"  {statement.lineno:4} {text:32} {len(names):3} tests  {ast.unparse(statement)[:120]!r}"
                )
                print(survivors[-1], flush=True)
        print(f"{source.relative_to(ROOT)}: {killed} of {killed + len(survivors)} killed", flush=True)


if __name__ == "__main__":
    typer.run(main)
