"""Users other than the owner in labs of ordinary users, by subordinate ids; and how it is without them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.other_users import Checkout
from tests.skips import for_root

HERS = 40_000 + os.getpid() % 10_000
RANGES = "hers:300000:65536\n"
FILES = ("passwd", "subuid", "subgid")
BIND = "for file in passwd subuid subgid; do mount --bind $0/$file /etc/$file; done; exec setpriv "
SCRIPT = """
from labctl.errors import LabImpossible
from labctl.lab.client.handle import Lab
from tests.labs import pair_plan, run
def shell(script, user=None):
    return run(lab, "client", "sh", "-c", script, user=user).output
with Lab.open(pair_plan()) as lab:
"""

pytestmark = [
    for_root("has accounts and files of its own in a mount namespace"),
    pytest.mark.skipif(not all(os.path.exists(f"/etc/{file}") for file in FILES), reason="needs /etc/subuid"),
    pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs the program newuidmap"),
]


def as_user(checkout: Checkout, tmp_path: Path, body: str, *, ranges: str = RANGES) -> str:
    """What the body prints in a lab of an ordinary user with these subordinate ids."""
    return python_as_user(
        checkout, tmp_path, "-c", SCRIPT + "".join(f"    {line}\n" for line in body.splitlines()), ranges=ranges
    )


def python_as_user(checkout: Checkout, tmp_path: Path, *words: str, ranges: str = RANGES) -> str:
    """What Python prints that an ordinary user runs, with an account `hers` and these subordinate ids.

    The account is in a mount namespace of its own: the machine's files stay as they are.
    """
    tmp_path.chmod(0o755)
    passwd = Path("/etc/passwd").read_text() + f"hers:x:{HERS}:{HERS}::/:/bin/sh\n"
    for file, text in (("passwd", passwd), ("subuid", ranges), ("subgid", ranges)):
        (tmp_path / file).write_text(text)
    identity = f"--reuid {HERS} --regid {HERS} --clear-groups "
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", BIND + identity + '"$@"', tmp_path, checkout.interpreter, *words],
        cwd=checkout.folder,
        env={"PATH": os.environ["PATH"], "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_files_belong_to_other_users_and_groups_change(checkout_for_others: Checkout, tmp_path: Path) -> None:
    script = "touch /tmp/x; chown 5:7 /tmp/x; stat -c %u:%g /tmp/x; setpriv --reuid 33 --regid 33 --groups 4,33 id -G"
    assert as_user(checkout_for_others, tmp_path, f"print(shell({script!r}))") == "5:7\n33 4\n\n"


def test_a_program_runs_as_a_user_of_the_machine(checkout_for_others: Checkout, tmp_path: Path) -> None:
    body = "print(shell('id -un; echo $HOME', user='nobody'), shell('id -u', user='1234'))"
    assert as_user(checkout_for_others, tmp_path, body).split() == ["nobody", "/nonexistent", "1234"]


USERS = """
topology:
  hosts:
    a:
      exec: [{shell: id -un > /tmp/exec, user: nobody}]
      services: {s: {shell: id -un; exec sleep 100, user: nobody, ready: {line: nobody}}}
    b: {}
  links: [[a, b]]
steps:
- run: {on: a, run: [cat, /tmp/exec], expect: {stdout: {equals: "nobody\\n"}}}
- run: {on: b, shell: id -u, user: 1234, expect: {stdout: {equals: "1234\\n"}}}
- start: {on: b, shell: id -un; exec sleep 100, name: n, user: nobody, ready: {line: nobody}}
- expect: {on: b, command: [id, -un], user: nobody, stdout: {equals: "nobody\\n"}}
"""
RUN = f"""
import pathlib, sys, tempfile
from labctl.cli.main import run_command
with tempfile.TemporaryDirectory() as directory:
    file = pathlib.Path(directory, "users.scenario.yaml")
    file.write_text({USERS!r})
    sys.argv = ["labctl", "run", str(file)]
    sys.exit(run_command())
"""
FAILING = """
    assert run_command() == 1
"""
REFUSED = """
topology: pair
steps:
- run: {on: client, shell: chown nobody /tmp}
"""


def test_steps_and_services_run_as_a_user_of_the_machine(checkout_for_others: Checkout, tmp_path: Path) -> None:
    assert "passed" in python_as_user(checkout_for_others, tmp_path, "-c", RUN)


OWNERS = """
topology:
  hosts: {a: {private: [PRIVATE], files: {PLACED/labctl-x: {content: x}}}, b: {}}
  links: [[a, b]]
steps:
- run: {on: a, run: [stat, -c, "%u:%g %a", PRIVATE, PLACED], expect: {stdout: "EXPECTED"}}
"""
FAILING_EXEC = """
topology: {hosts: {a: {exec: [install -d -o nobody /run/x]}, b: {}}, links: [[a, b]]}
steps: [{run: {on: a, run: ["true"]}}]
"""


def test_directories_with_files_and_private_ones_belong_to_whom_the_machines_do(
    checkout_for_others: Checkout, tmp_path: Path
) -> None:
    places = list(filter(is_anothers, ("/var/mail", "/var/local", "/var/cache/man", "/etc/bird", "/etc/frr")))
    if len(places) < 2:
        pytest.skip("needs two directories of system users")
    private, placed = places[:2]
    facts = [os.stat(path) for path in places[:2]]
    expected = "\\n".join(f"{one.st_uid}:{one.st_gid} {one.st_mode & 0o7777:o}" for one in facts)
    file = OWNERS.replace("PRIVATE", private).replace("PLACED", placed).replace("EXPECTED", expected)
    assert "passed" in python_as_user(checkout_for_others, tmp_path, "-c", RUN.replace(repr(USERS), repr(file)))


def is_anothers(path: str) -> bool:
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    return 0 < max(os.stat(path).st_uid, os.stat(path).st_gid) < 65534


def test_an_exec_command_that_cannot_change_an_owner_is_reported_with_the_way_to_users(
    checkout_for_others: Checkout, tmp_path: Path
) -> None:
    script = RUN.replace(repr(USERS), repr(FAILING_EXEC)).replace("sys.exit(run_command())", FAILING.replace("1", "4"))
    told = " ".join(
        python_as_user(checkout_for_others, tmp_path, "-c", script, ranges="somebody:300000:65536\n").split()
    )
    assert "exec of a: `install -d -o nobody /run/x` exited with status 1" in told
    assert "Try: sudo usermod --add-subuids" in told


def test_a_program_that_cannot_change_a_user_is_reported_with_the_way_to_users(
    checkout_for_others: Checkout, tmp_path: Path
) -> None:
    script = RUN.replace(repr(USERS), repr(REFUSED)).replace("sys.exit(run_command())", FAILING)
    told = " ".join(
        python_as_user(checkout_for_others, tmp_path, "-c", script, ranges="somebody:300000:65536\n").split()
    )
    assert "chown: changing ownership of '/tmp': Invalid argument" in told
    assert "It could not change its user: an ordinary user's lab has one user, as hers has no range of ids" in told
    assert "Try: sudo usermod --add-subuids" in told


DOCTOR = """
import json
from labctl.cli import doctor
checks = [*doctor._machine(), *doctor._programs()]
print(json.dumps({check.name: [check.state, check.problem, check.remedy] for check in checks}))
"""


def test_doctor_tells_whether_there_are_users_and_what_does_not_work_without(
    checkout_for_others: Checkout, tmp_path: Path
) -> None:
    without = json.loads(python_as_user(checkout_for_others, tmp_path, "-c", DOCTOR, ranges="somebody:300000:65536\n"))
    state, problem, remedy = without["users in labs"]
    assert (state, "hers has no range of ids" in problem) == ("missing", True)
    assert "usermod --add-subuids" in remedy
    assert without["tcpdump"][0] == "missing"
    assert "needs subordinate ids" in without["tcpdump"][2] or shutil.which("tcpdump") is None
    assert json.loads(python_as_user(checkout_for_others, tmp_path, "-c", DOCTOR))["users in labs"][0] == "ok"


def test_icmp_datagram_sockets_are_open_to_all_of_them(checkout_for_others: Checkout, tmp_path: Path) -> None:
    script = f"{checkout_for_others.interpreter} -c 'import socket; socket.socket(2, 2, 1); print(True)'"
    assert as_user(checkout_for_others, tmp_path, f"print(shell({script!r}, user='1234'))") == "True\n\n"


def test_without_ranges_another_user_is_refused_with_the_way_to_them(
    checkout_for_others: Checkout, tmp_path: Path
) -> None:
    body = "try:\n    shell('id', user='nobody')\nexcept LabImpossible as error:\n    print(error)"
    told = as_user(checkout_for_others, tmp_path, body, ranges="somebody:300000:65536\n")
    assert "this one has only its owner. See `labctl doctor` for subordinate ids" in told


def test_a_user_beyond_the_range_is_refused_with_the_range(checkout_for_others: Checkout, tmp_path: Path) -> None:
    body = "try:\n    shell('id', user='nobody')\nexcept LabImpossible as error:\n    print(error)"
    assert "only users 0 to 1000" in as_user(checkout_for_others, tmp_path, body, ranges="hers:300000:1000\n")


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs the program tcpdump")
def test_tcpdump_changes_to_its_own_user(checkout_for_others: Checkout, tmp_path: Path) -> None:
    script = "ping -4 -c 50 -i 0.2 server >/dev/null & timeout 20 tcpdump -n -i eth0 -c 1 icmp; kill $!"
    assert "ICMP echo request" in as_user(checkout_for_others, tmp_path, f"print(shell({script!r}))")
