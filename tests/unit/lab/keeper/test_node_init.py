"""The environment of programs on a host."""

from __future__ import annotations

from labctl.kernel import mounts
from labctl.lab.keeper.node_init import SHARED_PROGRAMS, Host, LabContext, environment_on, hosts_file
from labctl.plan.hosts_files import HostsFiles
from labctl.plan.operations import Plan
from labctl.topology.model import Node, NodeKind


def context(**environment: str) -> LabContext:
    view = mounts.view_of((), ())
    return LabContext("lab", view, environment, "/", (256, 256), -1, -1, False, 0, 0)


def host_of(node: Node) -> Host:
    return Host(node, HostsFiles(Plan("lab", (node,), ())), -1)


def test_the_programs_own_environment_is_over_the_nodes_and_that_over_the_owners() -> None:
    host = host_of(Node("a", NodeKind.HOST, environment=(("A", "node"), ("B", "node"))))
    found = environment_on(host, context(A="owner", B="owner", C="owner"), (("B", "program"),))
    assert (found["A"], found["B"], found["C"]) == ("node", "program", "owner")
    assert (found["LABCTL_NODE"], found["LABCTL_LAB"]) == ("a", "lab")


def test_programs_of_the_shared_directory_come_first_on_path() -> None:
    found = environment_on(host_of(Node("a", NodeKind.HOST)), context(PATH="/bin"), ())
    assert found["PATH"] == f"{SHARED_PROGRAMS}:/bin"


def test_a_temporary_directory_that_hosts_do_not_see_is_not_in_the_environment() -> None:
    found = environment_on(host_of(Node("a", NodeKind.HOST)), context(TMPDIR="/tmp/mine", HOME="/tmp/mine"), ())
    assert "TMPDIR" not in found
    assert found["HOME"] == "/tmp/mine"


def test_a_hosts_file_has_a_line_for_each_address() -> None:
    assert hosts_file((("127.0.0.1", "localhost"), ("::1", "a b"))) == "127.0.0.1\tlocalhost\n::1\ta b\n"
