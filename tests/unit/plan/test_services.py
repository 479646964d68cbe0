"""Services in topologies and plans: what a file gives, as text and JSON, in order, and by difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl import topology
from labctl.plan.build import build
from labctl.plan.diff import difference
from labctl.plan.operations import Plan, in_order, plan_from_json, plan_to_json, services_of
from labctl.plan.render import render_json, render_text
from labctl.structs import replace
from labctl.topology.model import Readiness, Restart, Service

TEXT = """
hosts:
  web:
    count: 2
    services:
      site:
        run: [server, --port, 80]
        env: {LEVEL: 3}
        cwd: www
        ready: {listening: "tcp/web-1:80"}
        within: 1m
        restart: always
        after: [db/redis, db/sql]
  db:
    services:
      sql: {shell: "exec sql", ready: {command: [sql, --ping]}, after: [redis]}
      redis: {run: [redis]}
      report: {run: [report], after: [web/site], ready: {line: "^ok"}}
links: [[web, db]]
"""


def plan_of(directory: Path, text: str = TEXT) -> Plan:
    file = directory / "t.yaml"
    file.write_text(text)
    return build(topology.load(file))


def test_a_service_has_the_values_of_its_file(tmp_path: Path) -> None:
    services = services_of(plan_of(tmp_path).nodes)
    assert services["web-2/site"] == (
        "web-2",
        Service(
            name="site",
            argv=("server", "--port", "80"),
            directory=str(tmp_path / "www"),
            environment=(("LEVEL", "3"),),
            ready=Readiness(listening="tcp/web-1:80"),
            within_s=60.0,
            restart=Restart.ALWAYS,
            after=("db/redis", "db/sql"),
        ),
    )
    assert services["db/sql"][1].argv == ("sh", "-c", "exec sql")


def test_a_groups_name_stands_for_all_its_nodes(tmp_path: Path) -> None:
    assert services_of(plan_of(tmp_path).nodes)["db/report"][1].after == ("web-1/site", "web-2/site")


def test_an_included_files_services_run_in_that_files_directory(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "part.yaml").write_text("hosts: {a: {services: {it: {run: [x]}}}}")
    plan = plan_of(tmp_path, "include: [inner/part.yaml]")
    assert services_of(plan.nodes)["a/it"][1].directory == str(inner)


def test_services_start_in_the_order_of_after(tmp_path: Path) -> None:
    services = services_of(plan_of(tmp_path).nodes)
    order = in_order(services, services)
    assert sorted(order) == sorted(services)
    assert all(order.index(before) < order.index(key) for key in order for before in services[key][1].after)


def test_a_service_does_not_wait_for_one_that_is_not_started(tmp_path: Path) -> None:
    services = services_of(plan_of(tmp_path).nodes)
    assert in_order(["web-1/site"], services) == ("web-1/site",)


def test_services_that_wait_for_each_other_have_no_order(tmp_path: Path) -> None:
    services = services_of(plan_of(tmp_path).nodes)
    key, (node, service) = next(iter(services.items()))
    services[key] = (node, replace(service, after=("db/report",)))
    with pytest.raises(ValueError, match="cycle"):
        in_order(services, services)


def test_a_long_chain_of_services_is_looked_at_once() -> None:
    looked_up: list[str] = []

    class Counted(dict[str, tuple[str, Service]]):
        def __getitem__(self, key: str) -> tuple[str, Service]:
            looked_up.append(key)
            return super().__getitem__(key)

    count = 500
    services = Counted(
        {f"h/{number}": ("h", Service(str(number), ("a",), "/", after=(f"h/{number + 1}",))) for number in range(count)}
    )
    assert in_order(services, services) == tuple(f"h/{number}" for number in reversed(range(count)))
    assert len(looked_up) == count


def test_services_survive_the_way_to_the_keeper(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan_from_json(plan_to_json(plan)) == plan


def test_a_plan_shows_services_in_their_start_order(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    lines = [line for line in render_text(plan).splitlines() if line.startswith("start ")]
    assert lines[:2] == [
        "start db/redis: redis",
        "start db/sql: sh -c 'exec sql', after db/redis, ready with the command `sql --ping` succeeding",
    ]
    assert lines[-1].startswith("start db/report: report, after web-1/site, web-2/site, ready with a line")
    assert '"name": "redis", "command": ["redis"], "restart": "no"' in render_json(plan)


def changed(plan: Plan, **values: object) -> Plan:
    """The plan with db/redis having these values."""
    nodes = tuple(
        replace(
            node,
            services=tuple(replace(one, **values) if one.name == "redis" else one for one in node.services),
        )
        for node in plan.nodes
    )
    return replace(plan, nodes=nodes)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"argv": ("other",)}, ["~ service db/redis: restarted as other"]),
        ({"restart": Restart.ALWAYS}, ["~ service db/redis: restarted as redis"]),
        ({"within_s": 1.0}, ["~ service db/redis: new settings, for its next start"]),
        ({}, []),
    ],
)
def test_a_difference_shows_services(tmp_path: Path, values: dict[str, object], told: list[str]) -> None:
    plan = plan_of(tmp_path)
    assert [str(change) for change in difference(plan, changed(plan, **values)).changes] == told


def test_a_difference_shows_removed_and_added_services(tmp_path: Path) -> None:
    before = plan_of(tmp_path, "hosts: {a: {services: {old: {run: [x]}}}}")
    after = plan_of(tmp_path, "hosts: {a: {services: {new: {run: [y, 'a b']}}}}")
    told = [str(change) for change in difference(before, after).changes]
    assert told == ["- service a/old: stopped", "+ service a/new: y 'a b'"]
