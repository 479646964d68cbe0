"""Commands that build nothing: they need no privilege."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import labctl as package
from labctl import documents
from tests.e2e.command import ECHO, LABCTL, TIMEOUT_S, WRONG, environment, labctl


def test_version() -> None:
    assert labctl("--version").stdout == f"labctl {package.__version__}\n"


def test_python_dash_m_is_the_same() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "labctl", "--version"], capture_output=True, text=True, env=environment()
    )
    assert ran.stdout == f"labctl {package.__version__}\n"


@pytest.mark.parametrize("command", ["", "run", "validate", "plan", "examples", "init", "schema"])
def test_help_fits_80_columns_without_colour(command: str) -> None:
    ran = labctl(*command.split(), "--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith("Usage: labctl")
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "\x1b" not in ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "--jbos", "3"),
        ("run", "x.yaml", "-j", "0"),
        ("plan",),
        ("plan", "pair", "--topo", "pair"),
        ("plan", "pair", "--format", "xml"),
        ("schema", "nothing"),
        ("frobnicate",),
        ("validate", "/no/such/file.yaml"),
        ("plan", "star:0"),
        ("plan", "star:many"),
        ("plan", "no-such-topology"),
        ("run", "a\nb"),
        ("run", ""),
    ],
    ids=repr,
)
def test_a_wrong_command_line_ends_with_2_and_says_what_is_wrong(arguments: tuple[str, ...]) -> None:
    ran = labctl(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.strip()
    assert "Traceback" not in ran.stderr


def test_validate_tells_topologies_and_scenarios_apart(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ECHO)
    (tmp_path / "b.yaml").write_text("hosts: {a: {}, b: {}}\nlinks: [[a, b]]\n")
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    ran = labctl("validate", tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        f"✓ {tmp_path}/a.yaml: scenario, 3 steps on 2 hosts",
        f"✓ {tmp_path}/b.yaml: topology, 2 nodes, 1 link",
    ]


def test_validate_gives_the_mistakes_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WRONG)
    (tmp_path / "b.yaml").write_text("hots: {a: {}}\nlinks: [[a, c]]\n")
    ran = labctl("validate", tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    for expected in (f"{tmp_path}/a.yaml:3:1: ", "`steps`", "`socket`", f"{tmp_path}/b.yaml:1:1: ", "`hosts`"):
        assert expected in ran.stderr


def test_validate_of_a_file_that_is_neither_says_so(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text("services: {}\n")
    ran = labctl("validate", path)
    assert ran.returncode == 2
    assert "neither a topology" in ran.stderr


def test_everything_that_ships_is_valid() -> None:
    root = Path(__file__).parents[2]
    ran = labctl("validate", root / "topologies", root / "scenarios")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_plan_shows_a_shape_in_three_formats() -> None:
    assert "make link client:eth0 - server:eth0" in labctl("plan", "pair").stdout
    assert json.loads(labctl("plan", "--topo", "pair", "--format", "json").stdout)["topology"] == "pair"
    script = labctl("plan", "pair", "--format", "sh").stdout
    assert script.startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_plan_takes_a_file_and_a_shipped_name(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("hosts: {a: {}, b: {}}\nlinks: [[a, b]]\n")
    assert "make host a" in labctl("plan", path).stdout
    from labctl.cli import files

    name = next(iter(files.shipped_topologies()))
    assert labctl("plan", name, cwd=tmp_path).returncode == 0


def test_examples_lists_everything_that_ships_with_a_sentence() -> None:
    from labctl.cli import files

    ran = labctl("examples")
    assert ran.returncode == 0
    assert max(map(len, ran.stdout.splitlines())) <= 80
    for name in (*files.shipped_scenarios(), *files.shipped_topologies(), "star:N"):
        rows = [line for line in ran.stdout.splitlines() if line.split()[:1] == [name]]
        assert rows, name
        assert all(len(row.split()) > 1 for row in rows), f"{name} has no sentence"


def test_examples_come_in_the_order_of_their_readme() -> None:
    from labctl.cli import files

    names = list(files.shipped_scenarios())
    assert names[0] == "tcp-echo"
    assert names.index("buffers") < names.index("accept") < names.index("redis")
    shown = [
        line.split()[0] for line in labctl("examples").stdout.splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert shown[: len(names)] == names


def test_an_example_is_shown_as_it_is_and_copied_with_what_it_uses(tmp_path: Path) -> None:
    from labctl.cli import files

    path = files.shipped_scenario("tcp-echo")
    assert path is not None
    assert labctl("examples", "tcp-echo").stdout == path.read_text()
    copied = labctl("examples", "c-programs", "--copy", tmp_path / "new")
    assert copied.returncode == 0, copied.stderr
    assert sorted(each.name for each in (tmp_path / "new").iterdir()) == [
        "c-programs.yaml",
        "tcp-client.c",
        "tcp-server.c",
    ]
    again = labctl("examples", "c-programs", "--copy", tmp_path / "new")
    assert (again.returncode, "the file exists" in again.stderr) == (2, True)
    assert "Did you mean tcp-echo" in labctl("examples", "tcp-ecco").stderr
    assert labctl("examples", "/etc/passwd").stderr == (
        "/etc/passwd: no shipped file has that name. See what ships with: labctl examples\n"
    )
    for shape in ("star", "star:3"):
        assert labctl("examples", shape).stderr == (f"{shape}: a shape has no file. Try: labctl plan star:10\n")


@pytest.mark.parametrize("kind", ["scenarios", "topologies"])
def test_every_copied_example_is_valid(kind: str, tmp_path: Path) -> None:
    from labctl.cli import files
    from labctl.cli.file_commands import copy_example

    for name in getattr(files, f"shipped_{kind}")():
        copy_example(name, tmp_path / name)
    ran = labctl("validate", tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_help_is_a_command_too() -> None:
    assert labctl("help").stdout == labctl("--help").stdout
    assert labctl("help", "run").stdout == labctl("run", "--help").stdout
    assert labctl("help", "help").stdout == labctl("--help").stdout
    assert labctl("help", "nonsense").returncode == 2
    without_a_word = labctl()
    assert (without_a_word.returncode, without_a_word.stdout) == (2, "")
    assert without_a_word.stderr == labctl("--help").stdout


def test_a_refused_value_is_reported_with_the_allowed_ones() -> None:
    assert labctl("doctor", "-f", "xml").stderr == "labctl doctor: -f: xml is not one of table, json.\n"


def test_run_takes_a_shipped_topology_by_name(tmp_path: Path) -> None:
    path = tmp_path / "echo.yaml"
    path.write_text(ECHO)
    assert labctl("run", "--topo", "pair", path).returncode == 0
    ran = labctl("run", "--topo", "ring", path)
    assert (ran.returncode, "there is no host `client`" in ran.stderr) == (2, True)


@pytest.mark.parametrize("kind", ["topology", "scenario", "result"])
def test_schemas_are_schemas(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(labctl("schema", kind).stdout))


def test_init_writes_what_passes(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    assert labctl("init", folder).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        ".schemas",
        "hello.yaml",
        "test_hello.py",
        "topology.yaml",
    ]
    assert labctl("validate", folder).returncode == 0
    ran = labctl("run", folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tested = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            f"--basetemp={tmp_path / 'pytest'}",
            folder,
        ],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "hello.yaml").write_text("mine")
    ran = labctl("init", tmp_path)
    assert ran.returncode == 2
    assert "hello.yaml" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hello.yaml"]
    assert (tmp_path / "hello.yaml").read_text() == "mine"


def test_a_device_is_refused() -> None:
    ran = labctl("run", "/dev/zero")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "it is a character device, not a regular file" in ran.stderr


def test_init_writes_files_that_editors_check_by_the_schemas_beside_them(tmp_path: Path) -> None:
    assert labctl("init", tmp_path).returncode == 0
    for name in ("topology.yaml", "hello.yaml"):
        text = (tmp_path / name).read_text()
        found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
        assert found
        schema = json.loads((tmp_path / found[1]).read_text())  # a path from the file's own directory
        jsonschema.validate(documents.parse(text, name).data, schema)
    again = labctl("init", tmp_path)
    assert again.returncode == 2
    assert ".schemas/topology.schema.json" in again.stderr


def test_pipes_in_a_directory_are_passed_over_and_links_to_nothing_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    ran = labctl("run", str(tmp_path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "gone.yaml: there is no such file" in ran.stderr


def test_a_link_to_nothing_is_no_misspelt_name(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").symlink_to("nowhere.yaml")
    ran = labctl("validate", str(tmp_path / "gone.yaml"))
    assert ran.returncode == 2
    assert "gone.yaml: symbolic link to nowhere.yaml, which does not exist." in ran.stderr


def test_doctor_fix_allows_namespaces_again_where_a_limit_forbids_them() -> None:
    # A user namespace has limits of its own, which its root may change.
    script = f"""
        echo 0 >/proc/sys/user/max_net_namespaces || exit 77
        "{LABCTL}" doctor >/dev/null && exit 1
        "{LABCTL}" doctor --fix && cat /proc/sys/user/max_net_namespaces && "{LABCTL}" doctor --fix
    """
    ran = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if ran.returncode == 77 or "unshare failed" in ran.stderr:
        pytest.skip("limits of a user namespace cannot be changed here")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "sysctl -w user.max_net_namespaces=10000" in ran.stdout
    assert "Labs can run here now." in ran.stdout
    assert "Nothing to fix" in ran.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--name", "", "pair"),
        ("up", "--name=", "pair"),
        ("up", ""),
        ("run", "--lab", "", "x"),
        ("run", "--junit", "", "x"),
        ("run", ""),
        ("plan", "--format=", "pair"),
        ("ps", ""),
        ("down", ""),
    ],
)
def test_an_empty_word_is_refused_and_not_taken_for_none(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = labctl(*words, LABCTL_STATE_DIR=str(tmp_path / "state"))
    assert ended.returncode == 2
    assert "empty" in ended.stderr


def test_a_full_disk_is_no_mistake_of_the_command_line(tmp_path: Path) -> None:
    from labctl.cli.file_commands import cannot_write

    assert cannot_write("x", OSError(errno.ENOSPC, "")).exit_status == 4
    assert cannot_write("x", OSError(errno.EACCES, "")).exit_status == 2


def with_small_files(*arguments: object, stdout: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run labctl where a file has at most 2 KiB (bash) or 1 KiB, and Python has no buffer of its own."""
    limited = ["sh", "-c", 'ulimit -f 2 && exec "$@"', "sh", LABCTL]
    with (stdout or Path(os.devnull)).open("wb") as file:
        return subprocess.run(
            [*limited, *map(str, arguments)],
            env=environment(PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


def test_output_that_does_not_fit_into_its_file_is_reported(tmp_path: Path) -> None:
    ran = with_small_files("plan", "office", stdout=tmp_path / "plan")
    assert (ran.returncode, ran.stderr) == (4, "<stdout>: cannot write: EFBIG, File too large.\n")


@pytest.mark.parametrize(
    "arguments", [("graph", "office", "-o", "office.svg"), ("init", "."), ("examples", "c-programs", "--copy", ".")]
)
def test_a_file_that_does_not_fit_is_not_written_in_part(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = with_small_files(*arguments)
    assert ran.returncode == 4, ran.stderr
    assert "cannot write: EFBIG, File too large." in " ".join(ran.stderr.split())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


NO_MACHINE = """
import os, subprocess, sys
from labctl.kernel import syscalls
uid, gid = os.geteuid(), os.getegid()
if uid:
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    for file, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
        with open(f"/proc/self/{file}", "w") as opened:
            opened.write(text)
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("tmpfs", sys.argv[1], "tmpfs")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("command", ["up pair", "run tcp-echo", "ps", "gc", "down --all", "doctor"])
@pytest.mark.parametrize(
    ("place", "told"), [("/proc", "Try: mount -t proc proc /proc"), ("/dev", "/dev/null is missing here")]
)
def test_what_is_missing_on_the_machine_is_named(place: str, told: str, command: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NO_MACHINE, place, LABCTL, *command.split()],
        env=environment(LABCTL_STATE_DIR=str(tmp_path / "state")),
        cwd=Path(package.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    text = " ".join((ended.stdout + ended.stderr).split())
    assert "Traceback" not in text
    if command.startswith(("up", "run")):
        assert told in text
        assert ended.returncode in (3, 4)
