"""Imports point one way, and what is slow to import is imported where it is used (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from labctl.lab.client.nursery import search_path

ROOT = Path(__file__).resolve().parents[2]

BASE = frozenset(
    {"clock", "errors", "names", "patterns", "printable", "structs", "submodules", "units", "unpatched", "x25519"}
)
# What each room may import beside itself. `labctl` stands for the package's own __init__: its version, and the names
# of the API, which it imports when they are asked for.
ALLOWED: dict[str, frozenset[str]] = {
    "labctl": frozenset({"api", "documents", "errors", "observe"}),
    "clock": frozenset(),
    "errors": frozenset({"printable"}),
    "names": frozenset({"errors"}),
    "printable": frozenset(),
    "structs": frozenset({"submodules"}),
    "submodules": frozenset(),
    "units": frozenset({"errors", "structs"}),
    "unpatched": frozenset(),
    "x25519": frozenset(),
    "patterns": frozenset({"clock", "unpatched"}),
    "documents": BASE,
    "formats": BASE | {"documents"},
    "topology": BASE | {"documents", "formats"},
    "drawing": BASE | {"topology"},
    "plan": BASE | {"topology"},
    "exports": BASE | {"drawing", "formats", "plan", "topology"},
    "kernel": BASE,
    "lab": BASE | {"kernel", "plan", "topology"},
    "observe": BASE | {"formats", "kernel", "lab", "plan", "topology"},
    "timeline": BASE | {"drawing", "kernel", "lab", "observe", "plan", "topology"},
    "programs": BASE | {"lab", "observe", "plan", "topology"},
    "scenario": BASE | {"programs", "documents", "topology", "plan", "lab", "observe", "timeline"},
    "report": BASE | {"programs", "scenario", "timeline"},
    "api": BASE | {"programs", "documents", "topology", "plan", "lab", "observe", "scenario", "report", "timeline"},
    "pytest_plugin": BASE
    | {"programs", "api", "labctl", "documents", "topology", "lab", "observe", "scenario", "report", "timeline"},
    "cli": BASE
    | {
        "drawing",
        "exports",
        "formats",
        "programs",
        "labctl",
        "documents",
        "topology",
        "plan",
        "lab",
        "observe",
        "scenario",
        "report",
        "timeline",
    },
    "__main__": frozenset({"cli"}),
}
# Single modules that one room opens to another that is not its neighbour.
OPEN: dict[str, frozenset[str]] = {
    # Values that the results of calls are made of; no kernel is touched by importing them.
    "labctl.kernel.syscalls": frozenset({"scenario", "api"}),
    "labctl.kernel.sockaddr": frozenset({"scenario", "api"}),
    "labctl.kernel.sock_diag": frozenset({"api"}),
    # The machine's queues of packets, which belong to no lab.
    "labctl.kernel.softnet": frozenset({"scenario"}),
    # What the API does to the process that it is used in, not to a lab.
    "labctl.kernel.host_visit": frozenset({"api"}),
    "labctl.kernel.privilege": frozenset({"api"}),
}
# All that reports may know of scenarios.
REPORTED = frozenset({"labctl.scenario.results", "labctl.scenario.timeline_events"})

# Milliseconds each; imported in the function that uses them.
FORWARDER = "labctl.lab.keeper.port_forwarder"
SLOW = frozenset({"pyroute2", "rich", "junitparser", "typer", "asyncio", "jsonschema", "multiprocessing", "unittest"})


@dataclass(frozen=True)
class Import:
    """One import of one module, wherever it stands in a file."""

    importer: str
    imported: str
    line: int
    at_module_level: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def walk(node: ast.AST, *, top: bool, types: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Every import statement below a node; whether importing the module runs it; whether only a checker does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, top, types
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from walk(child, top=top, types=True)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, top=top and not function, types=types)


def imports_of(path: Path) -> Iterator[Import]:
    importer = module_name(path)
    for statement, top, types in walk(ast.parse(path.read_text(), str(path)), top=True, types=False):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
            base = statement.module or ""
            if statement.level:
                up = package.split(".")[: len(package.split(".")) - statement.level + 1]
                base = ".".join([*up, base]) if base else ".".join(up)
            # `from labctl.kernel import rtnl` imports a module, `from labctl.errors import LabError` a name.
            names = [f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in statement.names]
        for name in names:
            yield Import(importer, name, statement.lineno, top, types)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


# Starter files that `labctl init` writes are data; what ships as examples likewise.
FILES = [
    path
    for path in sorted((ROOT / "labctl").rglob("*.py"))
    if not {"_shipped", "starter"} & set(path.relative_to(ROOT).parts)
]
IMPORTS = [each for path in FILES for each in imports_of(path)]
OWN = [each for each in IMPORTS if each.imported.split(".")[0] == "labctl"]


def is_allowed(each: Import) -> bool:
    importer, imported = room(each.importer), room(each.imported)
    if importer == imported or imported in ALLOWED[importer]:
        return True
    return importer in OPEN.get(each.imported, frozenset())


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room(module_name(path)) for path in FILES} <= ALLOWED.keys()


def test_imports_point_one_way() -> None:
    assert [str(each) for each in OWN if room(each.importer) in ALLOWED and not is_allowed(each)] == []


def test_reports_know_only_results() -> None:
    from_report = [each for each in OWN if room(each.importer) == "report" and room(each.imported) == "scenario"]
    assert [str(each) for each in from_report if each.imported not in REPORTED] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count, imports for a type checker do not."""
    graph: dict[str, set[str]] = {}
    for each in OWN:
        if not each.for_types_only and each.imported != each.importer:
            graph.setdefault(each.importer, set()).add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"cycle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize("library", ["pyroute2", "ctypes"])
def test_only_kernel_imports(library: str) -> None:
    users = [each for each in IMPORTS if each.imported.split(".")[0] == library]
    assert [str(each) for each in users if room(each.importer) != "kernel"] == []


def test_only_kernel_imports_others_by_a_computed_name() -> None:
    elsewhere = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            if name in {"import_module", "import_submodule", "__import__"} and room(module_name(path)) != "kernel":
                assert isinstance(node, ast.Call)
                if not re.match(r"f?'(labctl|msgspec|yaml)\.", ast.unparse(node.args[0])):
                    elsewhere.append(f"{module_name(path)}:{node.lineno}")
    # Before pyfakefs replaces files, every module is imported; `submodules` imports what its callers name.
    assert [
        each for each in elsewhere if not each.startswith(("labctl.pytest_plugin.labs:", "labctl.submodules:"))
    ] == []


def test_what_is_slow_to_import_is_imported_where_it_is_used() -> None:
    at_start = [each for each in IMPORTS if each.at_module_level and not each.for_types_only]
    # Typer builds its commands from functions at import; it is the command line's own cost, and nobody else's.
    # Programs that import the asynchronous half of the API have asyncio already; the forwarder runs in its own process.
    slow = [
        str(each)
        for each in at_start
        if each.imported.split(".")[0] in SLOW
        and not (room(each.importer) == "cli" and each.imported.split(".")[0] == "typer")
        and not (each.importer.startswith(("labctl.api.async", FORWARDER)) and each.imported == "asyncio")
    ]
    assert slow == []


def loaded_after(statement: str, *, isolated: bool) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    program = f"import sys; sys.path[:0] = {search_path()!r}; {statement}; print(*sys.modules)"
    flags = ["-I", "-S"] if isolated else ["-I"]
    ended = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in ended.stdout.split()}


def test_the_command_line_starts_without_what_it_may_not_need() -> None:
    loaded = loaded_after("import labctl.cli.main", isolated=False)
    assert loaded & {"pyroute2", "rich", "junitparser", "asyncio", "pydantic", "yaml", "jsonschema"} == set()


def test_the_keeper_starts_with_the_standard_library_and_msgspec_alone() -> None:
    loaded = loaded_after("import labctl.lab.keeper.keeper", isolated=True)
    assert loaded & {"pyroute2", "pydantic", "yaml", "typer", "rich", "asyncio", "subprocess", "logging"} == set()


def test_the_package_imports_nothing_of_its_own_until_it_is_asked_for_a_name() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); import labctl; "
    program += "print(*sorted(set(sys.modules) - before - {'labctl', '__future__', 'typing'}))"
    ended = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert {name for name in ended.stdout.split() if name.startswith("labctl")} == set()


def test_a_lab_is_had_without_what_it_may_not_need() -> None:
    loaded = loaded_after("from labctl import Lab", isolated=False)
    assert loaded & {"pyroute2", "asyncio", "pydantic", "yaml", "typer", "rich", "subprocess", "concurrent"} == set()
