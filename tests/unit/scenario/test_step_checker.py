from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labctl.documents import DocumentError, parse
from labctl.observe.network import counters_here
from labctl.scenario import Scenario, load
from labctl.scenario.file_schema import BODIES, BoundedBody
from labctl.scenario.model import StepKind
from labctl.scenario.step_checker import ScriptChecker


def written(directory: Path, text: str, name: str = "it.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def loaded(directory: Path, steps: str, header: str = "topology: pair\n") -> Scenario:
    return load(written(directory, f"{header}steps:\n{steps}"))


def complaint(directory: Path, steps: str, header: str = "topology: pair\n") -> str:
    with pytest.raises(DocumentError) as caught:
        loaded(directory, steps, header)
    return str(caught.value)


def test_every_body_that_is_a_mapping_takes_a_deadline(tmp_path: Path) -> None:
    """All but `set`, whose keys are variables."""
    for kind, body in BODIES.items():
        assert issubclass(body, BoundedBody) or kind in (StepKind.SET, StepKind.PARALLEL)
    loaded(tmp_path, "  - link: {down: [client, server], within: 1s}\n  - undrop: {on: server, within: 1s}\n")


def test_a_host_called_like_a_kind_takes_the_long_form(tmp_path: Path) -> None:
    header = "topology: {hosts: {run: , file: }, links: [[run, file]]}\n"
    (step,) = loaded(tmp_path, "  - calls: {on: run, do: getpid()}\n", header).steps
    assert (step.kind, step.host) == (StepKind.CALLS, "run")


def test_a_process_of_a_host_makes_calls_of_its_own(tmp_path: Path) -> None:
    (step,) = loaded(tmp_path, "  - server/worker: getpid()\n").steps
    assert (step.title, step.host) == ("calls on server/worker", "server")


def test_names_assigned_on_one_process_are_not_known_on_another(tmp_path: Path) -> None:
    said = complaint(tmp_path, "  - server: s = socket(AF_INET, SOCK_STREAM)\n  - client: close(s)\n")
    assert "`s` has not been assigned" in said
    assert "it.yaml:4:19" in said


def test_names_are_kept_from_step_to_step(tmp_path: Path) -> None:
    loaded(tmp_path, "  - server: s = socket(AF_INET, SOCK_STREAM)\n  - server: close(s)\n")


def test_a_mistake_in_a_block_of_calls_is_reported_at_its_place(tmp_path: Path) -> None:
    said = complaint(tmp_path, "  - server: |\n      s = socket(AF_INET, SOCK_STREAM)\n      lisen(s, 2)\n")
    assert "it.yaml:5:7" in said
    assert "did you mean `listen`?" in said


def test_a_variable_must_be_set_before_it_is_used(tmp_path: Path) -> None:
    use = '  - run: {on: client, run: [echo, "${pid}"]}\n'
    make = "  - client: $pid = 5\n"
    loaded(tmp_path, make + use)
    assert "a later step sets `pid`" in complaint(tmp_path, use + make)
    assert "there is no variable `pdi`" in complaint(tmp_path, make + use.replace("pid", "pdi"))


def test_inside_parallel_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    use = '      - run: {on: client, run: [echo, "${pid}"]}\n'
    loaded(tmp_path, f"  - parallel:\n{use}      - client: $pid = 5\n")


def test_the_variable_of_a_repeat_is_known_inside_it(tmp_path: Path) -> None:
    loaded(tmp_path, '  - repeat: {times: 2, as: i, steps: [{run: {on: client, run: [echo, "${i}"]}}]}\n')


def test_a_background_program_must_be_started_first(tmp_path: Path) -> None:
    start = "  - start: {on: server, run: [sleep, 9], name: web}\n"
    loaded(tmp_path, start + "  - stop: web\n")
    assert "a later step starts `web`" in complaint(tmp_path, "  - stop: web\n" + start)
    assert "did you mean `web`?" in complaint(tmp_path, start + "  - stop: wbe\n")


@pytest.mark.parametrize(
    "steps",
    [
        "  - build: {source: hello.c, as: no-such-program}\n  - run: {on: client, run: [no-such-program]}\n",
        "  - file: {on: client, path: /tmp/no-such-program, content: x, mode: '0755'}\n"
        "  - run: {on: client, run: [/tmp/no-such-program]}\n",
        "  - run: {on: client, run: [beside]}\n",
        "  - run: {on: client, run: [./beside]}\n",
        "  - run: {on: client, run: ['${x}']}\n",
    ],
)
def test_a_program_may_come_from_the_scenario_itself(tmp_path: Path, steps: str) -> None:
    # The machine that checks has a compiler; that it may lack one is another test.
    if shutil.which("cc") is None:
        pytest.skip("no cc")
    written(tmp_path, "int main(void) { return 0; }\n", "hello.c")
    beside = written(tmp_path, "#!/bin/sh\n", "beside")
    beside.chmod(0o755)
    loaded(tmp_path, steps, "topology: pair\nvariables: {x: y}\n")


def test_a_missing_program_is_reported_before_the_lab_exists(tmp_path: Path) -> None:
    said = complaint(tmp_path, "  - run: {on: client, run: [no-such-program]}\n")
    assert "the program `no-such-program` is not installed on this machine" in said


def test_a_missing_program_that_is_required_is_no_mistake(tmp_path: Path) -> None:
    header = "topology: pair\nrequires: {programs: [no-such-program]}\n"
    assert loaded(tmp_path, "  - run: {on: client, run: [no-such-program]}\n", header).requires.programs


def test_building_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    written(tmp_path, "", "hello.c")
    assert "requires: {programs: [cc]}" in complaint(tmp_path, "  - build: {source: hello.c}\n")


def test_aliases_are_checked_like_their_anchors(tmp_path: Path) -> None:
    steps = "  - client: &listen |\n      s = socket(AF_INET, SOCK_STREAM)\n  - server: *listen\n"
    assert [step.host for step in loaded(tmp_path, steps).steps] == ["client", "server"]


COUNTERS = "  - expect: {{on: server, counters: {{Tcp.OutRsts: 0, {name}: {{at_least: 1}}}}}}\n"


@pytest.mark.skipif(counters_here() is None, reason="not all of the files of /proc/net are there")
@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "ListenOverflow",
            "there is no counter 'ListenOverflow' in this kernel",
            "did you mean `TcpExt.ListenOverflows`",
        ),
        ("Tcp.InErrors", "there is no counter 'Tcp.InErrors' in this kernel", "did you mean "),
        ("InErrors", "counter 'InErrors' is ambiguous in this kernel", "use `Icmp.InErrors` or `Udp.InErrors`"),
    ],
)
def test_a_counter_that_this_kernel_does_not_have_is_a_mistake(
    name: str, message: str, hint: str, tmp_path: Path
) -> None:
    said = complaint(tmp_path, COUNTERS.format(name=name))
    column = COUNTERS.format(name=name).index(f" {name}:") + 2
    assert f"it.yaml:3:{column}: {message}" in said
    assert hint in said


@pytest.mark.parametrize("name", ["ListenOverflows", "udp.inerrors", "Icmp6.OutType133", "IcmpMsg.InType3"])
def test_counters_of_this_kernel_and_of_single_types_of_icmp_are_taken(name: str, tmp_path: Path) -> None:
    loaded(tmp_path, COUNTERS.format(name=name))


def test_counters_of_a_scenario_that_is_not_for_this_machine_are_not_judged(tmp_path: Path) -> None:
    header = "topology: pair\nrequires: {programs: [no-such-program-anywhere]}\n"
    loaded(tmp_path, COUNTERS.format(name="OfAnotherKernel"), header)


def test_where_the_counters_cannot_be_read_none_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labctl.observe.network.COUNTER_FILES", (str(tmp_path / "snmp"),))
    loaded(tmp_path, COUNTERS.format(name="OfAnotherKernel"))


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("drop: {on: server, from: 'fe80::1%eth0'}", "the addresses of a packet have no interface"),
        ("expect: {on: server, listening: 'tcp/10.0.0.1%eth0:81'}", "is neither an address nor a host"),
        ("expect: {on: server, not_listening: 'tcp/servr:81'}", "did you mean `server`"),
    ],
)
def test_an_invalid_address_is_reported(tmp_path: Path, step: str, problem: str) -> None:
    assert problem in complaint(tmp_path, f"  - {step}\n")


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("vrf: rde", "`rde`"),
        ("vrf: red, table: 100", "a route is in one table: remove one of `vrf` and `table`"),
        ("vrf: red", ""),
    ],
)
def test_a_route_is_expected_in_a_vrf_that_the_node_has(tmp_path: Path, route: str, problem: str) -> None:
    header = (
        "requires: {features: [vrf]}\ntopology:\n  hosts: {h: }\n"
        "  routers: {pe: {interfaces: {red: {vrf: 100, members: [eth0]}}}}\n  links: [[pe, h]]\n"
    )
    step = f"  - expect: {{on: pe, route: {{to: 10.0.2.0/24, {route}}}}}\n"
    if problem:
        assert problem in complaint(tmp_path, step, header)
    else:
        loaded(tmp_path, step, header)


@pytest.mark.parametrize(
    ("end", "hint"),
    [
        ("a:eth0", "name the node a; `which: 2` selects the second of several links"),
        ("a:mv0", "a:mv0 is a virtual interface, not the end of a link"),
        ("c", "allowed: a, b"),
        ("both", "it is several nodes: write a step for each, of a, b"),
    ],
)
def test_a_step_about_a_link_names_nodes(tmp_path: Path, end: str, hint: str) -> None:
    header = "topology: {hosts: {a: {interfaces: {mv0: {macvlan: bridge, on: eth0}}}, b: },\n"
    header += "  links: [[a, b]], groups: {both: [a, b]}}\n"
    said = complaint(tmp_path, f"  - link: {{between: ['{end}', b], set: {{loss: 1%}}}}\n", header)
    assert f"there is no node or network `{end}`" in said
    assert hint in said


def test_a_comparison_may_only_use_known_variables() -> None:
    document = parse("that: $n == 1\n", "it.yaml")
    checker = ScriptChecker(document, None)
    assert checker.check_comparison("$n == 1", ("that",), {"n"}) == []
    (diagnostic,) = checker.check_comparison("$n == 1", ("that",), {"m"})
    assert (str(diagnostic.position), diagnostic.message) == ("1:7", "there is no scenario variable `n`")


def test_a_text_in_place_of_a_list_is_answered_with_shell(tmp_path: Path) -> None:
    said = complaint(tmp_path, "  - run: {on: client, run: ls -l}\n")
    assert "expected a list, got the text `ls -l`" in said
    assert "use `shell:` for the text of a shell command" in said


FLEET = (
    "topology: {hosts: {web: {count: 2, labels: [edge]}, db: }, groups: {every: [web, db]},\n"
    "  networks: {lan: {members: [web, db]}}}\n"
)


def test_a_step_on_a_group_is_a_step_on_each_of_its_nodes(tmp_path: Path) -> None:
    steps = "  - start: {on: edge, run: [sleep, '9']}\n  - stop: web-2/sleep\n  - run: {on: every, run: ['true']}\n"
    steps += "  - expect: {on: [web-2, db], reachable: web-1}\n  - wait: web-1/sleep\n"
    start, _, run, expect, _ = loaded(tmp_path, steps, FLEET).steps
    assert ([step.host for (step,) in expect.branches], expect.title) == (
        ["web-2", "db"],
        "expect reachable: web-1 on web-2 db",
    )
    assert [step.host for (step,) in start.branches] == ["web-1", "web-2"]
    assert (start.kind, start.title, run.title) == (StepKind.PARALLEL, "start sleep 9 on edge", "run true on every")
    assert {step.host for (step,) in run.branches} == {"web-1", "web-2", "db"}


def test_calls_on_a_group_are_calls_on_each_of_its_nodes(tmp_path: Path) -> None:
    steps = "  - every: s = socket(AF_INET, SOCK_DGRAM)\n  - web-2: close(s)\n"
    steps += "  - calls: {on: [web-1, db], process: w, do: getpid()}\n  - edge/w: |\n      getpid()\n"
    every, _, listed, labelled = loaded(tmp_path, steps, FLEET).steps
    assert ([step.host for (step,) in every.branches], every.title) == (["web-1", "web-2", "db"], "calls on every")
    assert ([step.host for (step,) in listed.branches], listed.title) == (["web-1", "db"], "calls on web-1 db/w")
    assert [(step.host, step.text_line, step.text_column) for (step,) in labelled.branches] == [
        ("web-1", 8, 7),
        ("web-2", 8, 7),
    ]


def test_a_list_of_one_node_is_that_node(tmp_path: Path) -> None:
    (step,) = loaded(tmp_path, "  - run: {on: [db], run: ['true'], save: {stdout: x}}\n", FLEET).steps
    assert (step.kind, step.host) == (StepKind.RUN, "db")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("  - run: {on: evry, run: ['true']}\n", "there is no host `evry`"),
        ("  - run: {on: [web, evry], run: ['true']}\n", "there is no host `evry`"),
        ("  - run: {on: [], run: ['true']}\n", "expected at least 1 entry"),
        ("  - run: {on: web, run: ['true'], save: {stdout: x}}\n", "`web` is several nodes"),
        ("  - run: {on: web, run: ['true'], color: red}\n", "unknown key `color`"),
        ("  - web: |\n      $pid = getpid()\n", "`web` is several nodes, each with values of its own"),
        ("  - web: getpidd()\n", "did you mean `getpid`?"),
        ("  - stop: [a, b]\n", "`stop` takes one program"),
        ("  - signal: {process: [a, b], signal: HUP}\n", "`signal` takes one program"),
    ],
)
def test_a_mistake_in_a_step_on_a_group_is_reported_once(steps: str, message: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, steps, FLEET).count(message) == 1
