from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl import documents
from labctl.errors import InputError
from labctl.formats.compose import read
from labctl.formats.yaml_writer import write
from tests.unit.formats.samples import DATA, translated, written

FILE = DATA / "compose/compose.yaml"


def test_services_are_hosts_on_their_networks() -> None:
    data, _ = translated(FILE)
    assert list(data["hosts"]) == ["web", "api", "db"]
    assert data["networks"]["back"] == {
        "ipv4": "172.28.0.0/16", "members": ["web", {"node": "api", "ipv4": "172.28.0.10"}, "db"]
    }  # fmt: skip
    assert data["name"] == "compose"


def test_ports_volumes_variables_and_commands_are_taken() -> None:
    data, _ = translated(FILE)
    assert data["hosts"]["web"] == {
        "environment": {"LANG": "C", "PRICE": "$5"},
        "expose": ["18082:8000", "127.0.0.1:15353:53/udp"],
        "binds": ["./site:/srv/site"],
        "private": ["/var/cache/web"],
        "services": {
            "web": {"run": ["python3", "-m", "http.server", "8000"], "after": ["api/api"], "restart": "always"}
            | {"may_fail": True, "origin": "compose.yaml:3"}
        },
    }
    assert data["hosts"]["api"]["services"]["api"]["ready"] == {
        "command": ["sh", "-c", "curl -sf http://localhost:9000/"]
    }
    assert data["hosts"]["db"] == {"count": 2}


def test_what_only_containers_have_is_reported_with_lines() -> None:
    _, found = translated(FILE)
    reported = "\n".join(found.report)
    for expected in (
        "web (line 3): the image nginx:latest",
        "web: the port :9090/tcp (line 3)",
        "web: the volume ./missing (line 3): there is no such file",
        "db: cap_add (line 24): not translated",
        "the network unused (line 28): no service is on it",
    ):
        assert expected in reported


def test_services_without_networks_are_on_the_default_network(tmp_path: Path) -> None:
    text = "services:\n  a: {image: x, volumes: ['./src:/code', '/code/modules', './a:/code/b']}\n  b: {build: .}\n"
    (tmp_path / "src").mkdir()
    (tmp_path / "a").mkdir()
    data, _ = translated(written(tmp_path, "docker-compose.yml", text))
    assert data["networks"] == {"default": {"members": ["a", "b"]}}
    assert data["hosts"]["a"] == {"binds": ["./src:/code:rw"]}
    assert data["name"] == tmp_path.name


def test_a_file_without_services_is_refused() -> None:
    with pytest.raises(InputError, match="`services` has no services"):
        read(documents.parse("services: {}", "x"), Path("x"), "x")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["a", "80:80", "./x:/y", "$A ${B:-c", "'"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["ports", "volumes", "command", "networks", "depends_on", "environment", "deploy", "ipam"]),
            inner,
        ),
    ),
    max_leaves=15,
)


@given(VALUES, VALUES)
def test_any_values_are_read(service: Any, networks: Any) -> None:
    document = documents.parse(write({"services": {"a": service, "b": {}}, "networks": networks}), "x")
    assert read(document, Path("x"), "x").devices
