"""Submodules are imported without their package's `__init__`, and the package stays complete for all other code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from labctl.submodules import defer, import_submodule

# A part that labctl uses, its package, an attribute that the `__init__` defines, and a submodule that it imports.
PACKAGES = [
    ("msgspec._core", "msgspec", "field", "json"),
    ("yaml.events", "yaml", "safe_load", "resolver"),
    ("pyroute2.netlink.rtnl.ifinfmsg", "pyroute2", "IPRoute", "iproute"),
]


def python(program: str, directory: Path | None = None) -> str:
    """Return what a fresh interpreter prints: `sys.modules` must be its own."""
    path = "" if directory is None else f"import sys; sys.path.insert(0, {str(directory)!r})\n"
    program = f"{path}import sys\nfrom labctl.submodules import import_submodule\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("part", "package", "attribute", "other"), PACKAGES)
def test_a_submodule_comes_without_the_rest_of_its_package(part: str, package: str, attribute: str, other: str) -> None:
    program = f"""
import_submodule({part!r})
print({attribute!r} in vars(sys.modules[{package!r}]), "{package}.{other}" in sys.modules)
"""
    assert python(program) == "False False"


@pytest.mark.parametrize(("part", "package", "attribute", "other"), PACKAGES)
def test_an_import_of_the_package_is_complete_and_has_the_same_modules(
    part: str, package: str, attribute: str, other: str
) -> None:
    program = f"""
part = import_submodule({part!r})
import {package}
print({package}.{attribute}.__name__, type({package}).__name__, {package}.{other}.__name__, {part} is part)
from {package} import {attribute}
print(hasattr({package}, "nothing"), {package}.__file__.endswith("__init__.py"))
"""
    assert python(program) == f"{attribute} module {package}.{other} True\nFalse True"


@pytest.mark.parametrize("name", [name for _, name, _, _ in PACKAGES])
def test_no_init_gives_the_name_of_a_submodule_to_something_else(name: str) -> None:
    """An attribute of that name is the submodule, whether `__init__` has run or not."""
    package = import_module(name)
    shadowed = [
        each
        for each, value in vars(package).items()
        if f"{name}.{each}" in sys.modules and value is not sys.modules[f"{name}.{each}"]
    ]
    assert shadowed == []


def test_yaml_from_libyaml_works_for_others_afterwards() -> None:
    program = """
CParser = import_submodule("yaml._yaml").CParser
import yaml
print(yaml.load("a: [1, 0x10]", Loader=yaml.CSafeLoader), yaml.cyaml.CParser is CParser, yaml.__with_libyaml__)
"""
    assert python(program) == "{'a': [1, 16]} True True"


def test_a_package_of_the_standard_library_is_imported_as_ever() -> None:
    assert import_submodule("json.decoder").JSONDecoder is json.JSONDecoder


def test_where_the_package_is_imported_already_nothing_is_imported_twice() -> None:
    program = """
import yaml
from yaml.events import Event
print(import_submodule("yaml.events").Event is Event, type(yaml).__name__)
"""
    assert python(program) == "True module"


def test_a_package_that_needs_its_init_is_imported_in_the_ordinary_way(tmp_path: Path) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nsys.modules['elsewhere.part'] = sys\n")
    assert python('print(import_submodule("elsewhere.part") is sys)', tmp_path) == "True"


def test_a_module_that_does_not_exist_is_an_import_error(tmp_path: Path) -> None:
    program = """
for name in ("yaml.nothing", "nothing.at_all"):
    try:
        import_submodule(name)
    except ModuleNotFoundError as error:
        print(error.name)
import yaml
print(yaml.safe_load("1"))
"""
    assert python(program) == "yaml.nothing\nnothing\n1"


def test_an_init_that_fails_is_run_again_by_the_next_access(tmp_path: Path) -> None:
    package = tmp_path / "broken"
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nif not hasattr(sys, 'mended'): raise OSError\nvalue = 1\n")
    (package / "part.py").write_text("")
    program = """
import_submodule("broken.part")
import broken
try:
    broken.value
except OSError:
    sys.mended = True
print(broken.value)
"""
    assert python(program, tmp_path) == "1"


def test_a_deferred_module_has_what_was_given_and_then_all_of_its_own() -> None:
    program = """
from labctl.submodules import defer
print(defer("platform", system=lambda: "this"), defer("platform"))
import platform
print(platform.system(), "sys_version" in vars(platform))
print(platform.python_implementation(), platform.system(), platform.__file__.endswith("platform.py"))
"""
    assert python(program) == "True False\nthis False\nCPython Linux True"


def test_a_module_that_does_not_exist_is_not_deferred() -> None:
    assert not defer("labctl_has_no_such_module")


def test_threads_that_need_the_package_at_once_all_get_the_complete_one(tmp_path: Path) -> None:
    package = tmp_path / "slow"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import sys, threading\nsys.inside.set()\nsys.release.wait(20)\nfirst = 1\nsecond = 2\n"
    )
    (package / "part.py").write_text("")
    program = """
import threading
sys.inside, sys.release = threading.Event(), threading.Event()
import_submodule("slow.part")
import slow
found = []
threads = [threading.Thread(target=lambda name=name: found.append(getattr(slow, name))) for name in ("first", "second")]
threads[0].start()
sys.inside.wait(20)
threads[1].start()
sys.release.set()
for thread in threads:
    thread.join()
print(sorted(found), type(slow).__name__)
"""
    assert python(program, tmp_path) == "[1, 2] module"


def test_a_thread_that_imports_a_submodule_meanwhile_blocks_no_other_one(tmp_path: Path) -> None:
    package = tmp_path / "circular"
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nbasic = 1\nsys.inside.set()\nfrom circular.slow import value\n")
    (package / "part.py").write_text("")
    (package / "error.py").write_text("")
    (package / "slow.py").write_text(
        "import sys, circular\nsys.importing.set()\nsys.inside.wait(20)\ncircular.error, circular.basic\nvalue = 2\n"
    )
    program = """
import threading
sys.inside, sys.importing = threading.Event(), threading.Event()
import_submodule("circular.part")
import circular
importing = threading.Thread(target=lambda: __import__("circular.slow"), daemon=True)
importing.start()
sys.importing.wait(20)
using = threading.Thread(target=lambda: circular.value, daemon=True)
using.start()
for thread in (importing, using):
    thread.join(20)
print(importing.is_alive(), using.is_alive(), circular.value, type(circular).__name__)
"""
    assert python(program, tmp_path) == "False False 2 module"


@pytest.mark.parametrize(("part", "package", "attribute", "other"), PACKAGES)
def test_dir_shows_what_the_complete_package_has(part: str, package: str, attribute: str, other: str) -> None:
    program = f"""
import_submodule({part!r})
import {package}
print({attribute!r} in dir({package}))
"""
    assert python(program) == "True"


def test_a_function_that_a_test_replaces_stays_replaced() -> None:
    program = """
from unittest.mock import patch
from labctl.submodules import defer
defer("platform", system=lambda: "this")
import platform
with patch("platform.system", return_value="that"):
    print(platform.python_implementation(), platform.system())
import_submodule("yaml.events")
import yaml
yaml.safe_load = len
print(yaml.safe_dump(1).split()[0], yaml.safe_load is len)
"""
    assert python(program) == "CPython that\n1 True"
