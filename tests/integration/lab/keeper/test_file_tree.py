"""`files`, `binds` and `private` of topology files on real hosts, and what every host has in /run; the machine keeps
its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labctl import topology
from labctl.cli.lifecycle import bring_up
from labctl.errors import LabError
from labctl.lab.client import registry, state_dir
from labctl.lab.client.handle import Lab
from labctl.lab.keeper.file_tree import run_directories
from labctl.observe import services
from labctl.plan.build import build
from labctl.plan.operations import plan_from_json, plan_to_json
from labctl.plan.render import render_shell, render_text
from tests.integration.detached import name_of_lab
from tests.integration.scenarios import fails, passes
from tests.labs import output, run


@contextmanager
def opened(directory: Path, text: str) -> Iterator[Lab]:
    file = directory / "it.yaml"
    file.write_text(text)
    plan = build(topology.load(file))
    with Lab.open(plan, visible_paths=services.visible_paths(plan)) as lab:
        yield lab


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LABCTL_STATE_DIR", str(tmp_path / "state"))
    yield
    for name in state_dir.labs():
        registry.take_down(name)


def sh(lab: Lab, node: str, text: str) -> str:
    return output(lab, node, "sh", "-c", text)


def test_a_file_is_placed_where_the_machine_has_one_and_where_it_has_none(tmp_path: Path) -> None:
    before = Path("/etc/passwd").read_bytes()
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool on $(hostname)\n")
    (tmp_path / "tool").chmod(0o755)
    files = """
hosts:
  a:
    files:
      /etc/passwd: {content: "root:x:0:0::/:/bin/sh\\n"}
      /etc/lab-only/deep/conf: {content: "at ${self.ipv4} of $${self.ipv4}\\n", mode: "0600"}
      /lab-only/top: {content: top}
      /usr/bin/lab-tool: {source: tool}
      /tmp/lab/x: {content: in tmp}
      /var/run/lab-only.pid: {content: "1"}
  b: {}
links: [[a, b]]
"""
    with opened(tmp_path, files) as lab:
        assert output(lab, "a", "cat", "/etc/passwd") == "root:x:0:0::/:/bin/sh\n"
        assert output(lab, "a", "cat", "/etc/lab-only/deep/conf") == "at 10.0.0.1 of ${self.ipv4}\n"
        assert sh(lab, "a", "stat -c %a:%u /etc/lab-only/deep/conf /etc/lab-only") == "600:0\n755:0\n"
        assert sh(lab, "a", "cat /lab-only/top /tmp/lab/x /run/lab-only.pid") == "topin tmp1"
        assert output(lab, "a", "lab-tool") == "tool on a\n"
        assert sh(lab, "a", "ls /etc | wc -l") != "0\n"  # what else the machine has there
        # The directory is the node's own: files in it are replaced and removed like any others.
        sh(lab, "a", "echo new > /etc/p && mv /etc/p /etc/passwd && rm -r /etc/lab-only && touch /etc/lab-new")
        assert output(lab, "a", "cat", "/etc/passwd") == "new\n"
        assert sh(lab, "b", "ls -d /etc/lab-* /lab-only /tmp/lab /usr/bin/lab-tool 2>/dev/null || true") == ""
        assert output(lab, "b", "cat", "/etc/passwd").encode() == before
    assert Path("/etc/passwd").read_bytes() == before
    assert not any(Path(path).exists() for path in ("/etc/lab-only", "/etc/lab-new", "/lab-only", "/run/lab-only.pid"))


def test_a_directory_is_placed_with_all_that_is_in_it(tmp_path: Path) -> None:
    """As Kathara does with the directory of a device: `/`."""
    for path, text in (("r1/etc/lab-frr/frr.conf", "hostname r1\n"), ("r1/opt/lab-only/run", "#!/bin/sh\necho ran\n")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "r1/opt/lab-only/run").chmod(0o755)
    (tmp_path / "r1/etc/lab-frr/link").symlink_to("frr.conf")
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("hello")
    text = "hosts:\n  r1: {files: {/: {source: r1}, /srv/lab-www: {source: www}, /etc: {source: www}}}\n"
    with opened(tmp_path, text) as lab:
        assert output(lab, "r1", "cat", "/etc/lab-frr/link") == "hostname r1\n"
        assert output(lab, "r1", "/opt/lab-only/run") == "ran\n"
        assert sh(lab, "r1", "cat /srv/lab-www/index.html /etc/index.html; test -f /etc/passwd") == "hellohello"
        sh(lab, "r1", "echo kept > /srv/lab-www/index.html; echo own > /etc/lab-own")
    assert (tmp_path / "www/index.html").read_text() == "hello"
    assert not Path("/etc/lab-own").exists()


def test_resolv_conf_and_hosts_are_the_files_of_the_topology(tmp_path: Path) -> None:
    text = """
hosts:
  a: {files: {/etc/resolv.conf: {content: "nameserver 192.0.2.53\\n"}, /etc/hosts: {content: "192.0.2.7 elsewhere\\n"}}}
  b: {}
links: [[a, b]]
"""
    machine = Path("/etc/resolv.conf").read_bytes()
    with opened(tmp_path, text) as lab:
        assert output(lab, "a", "cat", "/etc/resolv.conf") == "nameserver 192.0.2.53\n"
        assert output(lab, "a", "getent", "hosts", "elsewhere").split() == ["192.0.2.7", "elsewhere"]
        assert run(lab, "a", "getent", "hosts", "b").status == 2
        assert "no name server" in output(lab, "b", "cat", "/etc/resolv.conf")
    assert Path("/etc/resolv.conf").read_bytes() == machine


def test_a_bind_is_read_only_unless_declared_writable(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/f").write_text("first")
    text = """
hosts:
  a:
    binds: ["data:/srv/lab-data", {source: data/f, target: /etc/lab-f}, "data:/mnt:rw", "data/f:/etc/passwd:ro"]
"""
    with opened(tmp_path, text) as lab:
        assert sh(lab, "a", "cat /srv/lab-data/f /etc/lab-f /mnt/f /etc/passwd") == "first" * 4
        assert "Read-only" in run(lab, "a", "sh", "-c", "touch /srv/lab-data/g").output
        assert "Read-only" in run(lab, "a", "sh", "-c", "echo x > /etc/lab-f").output
        (tmp_path / "data/f").write_text("second")
        assert sh(lab, "a", "cat /srv/lab-data/f; echo made > /mnt/g") == "second"
    assert (tmp_path / "data/g").read_text() == "made\n"
    assert not Path("/srv/lab-data").exists()


def test_a_bind_of_the_root_directory_has_nothing_of_how_files_are_placed(tmp_path: Path) -> None:
    text = """
hosts:
  a: {binds: ["/:/mnt/all", "/run:/mnt/run:rw"], private: [/var/log], files: {/etc/lab-only: {content: mine}}}
"""
    with opened(tmp_path, text) as lab:
        assert (
            sh(lab, "a", "ls /mnt/all/run/host-files /mnt/run/host-files | grep -v :").split()
            == ["hosts", "resolv.conf"] * 2
        )
        assert sh(lab, "a", "cat /etc/lab-only; ls /var/log; test -d /mnt/all/usr") == "mine"


def test_private_directories_are_empty_and_each_nodes_own(tmp_path: Path) -> None:
    text = """
hosts:
  a: {count: 2, private: [/var/lib, /var/lab-only, /tmp/lab], files: {/var/lib/app/seed: {content: "1"}}}
"""
    with opened(tmp_path, text) as lab:
        sh(lab, "a-1", "echo one > /var/lib/x; echo one > /var/lab-only/x; test -d /tmp/lab")
        assert sh(lab, "a-1", "ls /var/lib /var/lab-only; cat /var/lib/app/seed") == (
            "/var/lab-only:\nx\n\n/var/lib:\napp\nx\n1"
        )
        assert sh(lab, "a-2", "ls /var/lib /var/lab-only") == "/var/lab-only:\n\n/var/lib:\napp\n"
    assert not Path("/var/lab-only").exists()
    assert not Path("/var/lib/x").exists()


def test_placed_files_and_binds_may_lie_in_a_private_directory(tmp_path: Path) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/f").write_text("f")
    text = """
hosts:
  a:
    private: [/var, /var/log]
    binds: ["d:/var/lib", "d/sub/f:/var/mail"]
    files: {/var/log/app/x: {content: x}, /var/cache: {source: d}}
"""
    with opened(tmp_path, text) as lab:
        assert sh(lab, "a", "ls /var; cat /var/log/app/x /var/lib/sub/f /var/mail /var/cache/sub/f") == (
            "cache\nlib\nlog\nmail\nxfff"
        )
        sh(lab, "a", "touch /var/log/y /var/y")


def test_a_directory_that_its_user_cannot_read_takes_files_too(tmp_path: Path) -> None:
    with opened(tmp_path, "hosts: {a: {files: {/root/.lab-only/x: {content: x}}}}\n") as lab:
        assert output(lab, "a", "cat", "/root/.lab-only/x") == "x"


def test_an_owner_is_that_of_the_machines_databases(tmp_path: Path) -> None:
    with opened(tmp_path, "hosts: {a: {files: {/srv/lab-x: {content: x, owner: 'daemon:bin'}}}}\n") as lab:
        owner = sh(lab, "a", "stat -c %U:%G /srv/lab-x")
    assert owner in ({"daemon:bin\n"} if os.getuid() == 0 else {"daemon:bin\n", "root:root\n"})
    unknown = "hosts: {a: {files: {/srv/lab-x: {content: x, owner: nobodyatall}}}}\n"
    message = "host a: cannot place /srv/lab-x: this machine has no user or group `nobodyatall`"
    with opened(tmp_path, unknown) as lab, pytest.raises(LabError, match=message):
        lab.spawn("a", ["true"])


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with opened(tmp_path, "hosts: {a: {files: {/srv/lab-x: {source: f}}}}\n") as lab:
        (tmp_path / "f").unlink()
        with pytest.raises(LabError, match=f"host a: cannot place /srv/lab-x: .*{tmp_path}/f"):
            lab.spawn("a", ["true"])


MIRROR = """
import ctypes, os
os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else ctypes.CDLL(None).unshare(0x20000)
from labctl.lab.keeper.file_tree import build_tree
from labctl.topology.model import FileTree, PlacedFile
tree = FileTree((PlacedFile("/etc/lab-only/x", "placed"), PlacedFile("/etc/passwd", "mine")))
build_tree(tree, ["/tmp"], "/run/lab-store", "host a", rootless=False, overlay=False)
print(open("/etc/lab-only/x").read(), open("/etc/passwd").read(), len(os.listdir("/etc")) > 20, os.listdir("/run"))
"""


def test_without_overlayfs_the_machines_entries_are_bound_one_by_one(tmp_path: Path) -> None:
    with opened(tmp_path, "hosts: {a: {}}\n") as lab:
        before = len(os.listdir("/etc"))
        said = output(lab, "a", sys.executable, "-c", MIRROR)
    assert said.startswith("placed mine True ")
    assert "lab-store" not in said
    assert len(os.listdir("/etc")) == before


def test_every_host_has_the_directories_in_run_that_packages_ask_for(tmp_path: Path) -> None:
    with opened(tmp_path, "hosts: {a: {}}\n") as lab:
        assert sh(lab, "a", "stat -c %a /run/lock /var/tmp") == "1777\n1777\n"
        sh(lab, "a", "touch /run/lock/lab-only /var/tmp/lab-only")
        for one in run_directories():
            assert sh(lab, "a", f"test -d {one.path} && stat -c %a {one.path}") == f"{one.mode:o}\n"
    assert not Path("/run/lock/lab-only").exists()
    assert not Path("/var/tmp/lab-only").exists()


def test_up_gives_a_node_its_changed_files_and_starts_its_programs_again(tmp_path: Path, state: None) -> None:
    (tmp_path / "conf").write_text("old")
    text = """
hosts:
  a:
    files: {/etc/lab-conf: {source: conf}}
    exec:
      - cp /etc/lab-conf /tmp/copy
      - |
        python3 -c "import socket, time; s = socket.create_server(('', 81)); open('/tmp/b', 'w'); time.sleep(1000)" &
        until test -e /tmp/b; do sleep 0.01; done
    services: {s: {shell: "cat /etc/lab-conf; echo; exec sleep 1000", ready: {line: "old|new"}}}
  b: {services: {s: {shell: "exec sleep 1000"}}}
links: [[a, b]]
"""
    file = tmp_path / f"{name_of_lab()}.yaml"
    file.write_text(text)
    bring_up(str(file))
    with Lab.attach(file.stem) as lab:
        pids = {info.node: info.machine_pid for info in lab.processes()}
        sh(lab, "a", "ip address add 192.0.2.1/32 dev eth0")
    (tmp_path / "conf").write_text("new")
    bring_up(str(file))
    with Lab.attach(file.stem) as lab:
        assert lab.read_log("a", "s").split()[-1] == b"new"
        assert output(lab, "a", "cat", "/tmp/copy") == "new"
        after = {info.node: info.machine_pid for info in lab.processes() if info.returncode is None}
        assert after["b"] == pids["b"]
        assert after["a"] != pids["a"]
        assert "192.0.2.1" in output(lab, "a", "ip", "address")  # its network is the same
    other = text.replace('line: "old|new"}', "line: never}, within: 300ms").replace("source: conf", "content: other")
    file.write_text(other)
    with pytest.raises(LabError, match="service a/s"):
        bring_up(str(file))
    with Lab.attach(file.stem) as lab:
        assert output(lab, "a", "cat", "/etc/lab-conf") == "new"


def test_scenarios_write_to_the_hosts_own_directories_and_run_placed_programs(tmp_path: Path) -> None:
    header = (
        "topology:\n  hosts:\n    a:\n      private: [/var/lib/lab-only]\n"
        "      files: {/usr/bin/lab-tool: {content: \"#!/bin/sh\\necho tool\\n\", mode: '755'}}\n    b: {}\n"
        "  links: [[a, b]]\n"
    )
    machine = Path("/etc/resolv.conf").read_bytes()
    passes(
        tmp_path,
        "  - file: {on: a, path: /etc/resolv.conf, content: 'nameserver ${b.ipv4}'}\n"
        "  - file: {on: a, path: /var/lib/lab-only/sub/x, content: x}\n"
        "  - file: {on: a, path: /var/tmp/x, content: x}\n"
        "  - run: {on: a, run: [lab-tool], expect: {stdout: tool}}\n"
        "  - run: {on: a, run: [/usr/bin/lab-tool], expect: {stdout: tool}}\n"
        "  - expect: {on: a, file: {path: /etc/resolv.conf, equals: nameserver 10.0.0.2}}\n",
        header=header,
    )
    assert Path("/etc/resolv.conf").read_bytes() == machine
    from labctl.documents import DocumentError

    with pytest.raises(DocumentError, match="cannot place a file at /etc/motd: it belongs to the machine"):
        fails(tmp_path, "  - file: {on: a, path: /etc/motd, content: x}\n", header=header)


def test_a_file_tree_travels_with_plans_and_back_to_a_file(tmp_path: Path) -> None:
    from labctl import Topology

    (tmp_path / "f").write_text("x")
    made = Topology("it").host(
        "a",
        files={
            "/srv/x": {"content": "${a.ipv4} $${a.ipv4} ${X}", "mode": "0600"},
            "/srv/y": {"source": f"{tmp_path}/f"},
        },
        binds=[f"{tmp_path}:/srv/z:rw"],
        private=["/var/log"],
    )
    made.host("b").link("a", "b")
    plan = build(made.check())
    assert plan_from_json(plan_to_json(plan)) == plan
    from labctl.plan.build import topology_of

    again = Topology.parse(Topology.of_model(topology_of(plan)).to_yaml())
    assert again.check().node("a").tree == made.check().node("a").tree
    text = render_text(plan)
    assert f"place /srv/y on a, from {tmp_path}/f\nbind {tmp_path} at /srv/z on a\nmake /var/log private on a\n" in text
    assert "# not in this script: place /srv/x on a\n" in render_shell(plan)


def test_inspect_lists_the_file_trees_of_nodes(tmp_path: Path) -> None:
    import json

    import jsonschema

    import labctl
    from labctl.cli.network import as_table
    from labctl.observe.inspect import as_data, inspect
    from labctl.report.terminal import Look

    (tmp_path / "d").mkdir()
    file = tmp_path / "it.yaml"
    file.write_text("hosts: {a: {files: {/srv/x: {content: x}}, binds: ['d:/mnt:rw'], private: [/var/log]}, b: {}}\n")
    plan = build(topology.load(file))
    with Lab.open(plan) as lab:
        found = inspect(lab, "it", plan, [])
    schema = json.loads((Path(labctl.__file__).parent / "schemas" / "inspect.schema.json").read_text("utf-8"))
    data = as_data(found)
    jsonschema.validate(data, schema)
    assert data["nodes"][0]["files"] == [
        {"path": "/srv/x", "kind": "file", "source": None},
        {"path": "/mnt", "kind": "bind rw", "source": f"{tmp_path}/d"},
        {"path": "/var/log", "kind": "private", "source": None},
    ]
    assert data["nodes"][1]["files"] == []
    text = "\n".join(as_table(found, Look(width=200)))
    assert "FILES OF  PATH      KIND     SOURCE" in text
