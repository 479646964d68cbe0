"""What `run`, `up` and `from labctl import Lab` import. Each module costs 0.05 to 1 ms of every start.

A module that is not in these sets may be needed now: then add it, with a look at `python -X importtime`. More often it
can be imported in the function that needs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import ECHO, TIMEOUT_S

PROGRAM = """
import atexit, sys
before = set(sys.modules)
atexit.register(lambda: print("MODULES", *(set(sys.modules) - before), file=sys.stderr))
"""
COMMAND = "from labctl.cli.main import main; main()"
# Of the standard library and of dependencies: top-level names, without those of C modules that begin with `_`.
COMMON = """
abc array ast atexit base64 binascii bisect codecs collections contextlib copyreg cython_runtime datetime decimal
encodings enum errno fcntl fnmatch functools gc genericpath glob importlib io ipaddress itertools keyword linecache
math msgspec ntpath numbers operator os pathlib platform posixpath re reprlib resource select selectors signal socket
stat string struct threading types typing unicodedata urllib uuid warnings weakref yaml zlib
"""
MODEL = """
clock errors names patterns plan plan.drop_rules plan.fault_effects plan.operations plan.packet_tables structs
submodules topology topology.devices topology.endpoints topology.model topology.netem topology.packet_rules
topology.switching unpatched
"""
CLIENT = """
kernel kernel.processes kernel.sockaddr lab lab.client lab.client.boot_process lab.client.connection lab.client.handle
lab.client.lab_client lab.client.lab_directory lab.client.nursery lab.client.nursery_fork lab.client.process
lab.client.registry lab.client.rpc_client lab.client.state_dir lab.description lab.frames lab.protocol
"""
CLI = """
cli cli.command_line cli.command_table cli.exit cli.files cli.lab_selection cli.main printable report report.terminal
units
"""
FILES = """
documents documents.diagnostics documents.schema documents.yaml_events documents.yaml_tree plan.bridges plan.build
topology.address_variables topology.addressing topology.draft topology.impairments topology.resolve topology.routing
"""
RUN = """
cli.cancellation cli.run kernel.bpf_records kernel.capabilities
kernel.netlink kernel.packet_ring kernel.sock_diag kernel.socket_calls kernel.socket_network kernel.softnet
lab.agent
lab.agent.addresses lab.agent.client lab.agent.constants lab.agent.messages programs programs.output programs.program
programs.waiting report.ladder report.plain report.progress scenario scenario.call_steps scenario.file_schema
scenario.language scenario.language.checker scenario.language.evaluate scenario.language.parser
scenario.language.session scenario.language.syntax scenario.loader scenario.model scenario.network_steps
scenario.observations scenario.requirements scenario.results scenario.run_order scenario.runner
scenario.scenario_recording scenario.state scenario.step_checker scenario.steps scenario.timeline_events timeline
topology.filter_schema
timeline.decoding timeline.events timeline.evidence timeline.fold timeline.inferred_drops timeline.joins
timeline.ladder_layout timeline.merge timeline.packet_headers timeline.packet_source timeline.protocol_names
timeline.recorder
timeline.recorder_process timeline.recorder_settings timeline.recording timeline.sources timeline.sources.kernel
timeline.sources.packets timeline.sources.sockets timeline.sources.tls_keys timeline.spool timeline.tcp_numbers
timeline.upkeep timeline.wires topology.impairment_schema
"""
UP = """
cli.lifecycle kernel.capabilities topology.impairment_schema topology.parse topology.parse_node
topology.parse_switching topology.schema
"""
API = """
api api.core api.host api.journal api.lab api.program api.sockets plan.hosts_files programs programs.output
programs.program programs.waiting scenario scenario.model scenario.results
"""
NAME = f"imports-{os.getpid()}"


def imported_by(program: str, *words: str | Path) -> set[str]:
    command = [sys.executable, "-c", PROGRAM + program, *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # it imports shutil
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stderr.rpartition("MODULES")[2].split())


def needless(imported: set[str], *allowed: str) -> list[str]:
    """Return what was imported beside labctl's `allowed` modules and `COMMON`."""
    own = {"labctl", *(f"labctl.{name}" for names in allowed for name in names.split())}
    others = {name.partition(".")[0] for name in imported} - {"labctl", *COMMON.split()}
    return sorted([each for each in imported if each.startswith("labctl") and each not in own]) + sorted(
        [name for name in others if not name.startswith("_")]
    )


@pytest.fixture
def lab_name() -> Iterator[str]:
    yield NAME
    subprocess.run([sys.executable, "-m", "labctl", "down", NAME], capture_output=True, timeout=TIMEOUT_S, check=False)


def test_a_run_of_calls_on_a_shape_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    scenario = tmp_path / "echo.yaml"
    scenario.write_text(ECHO)
    imported = imported_by(COMMAND, "run", scenario)
    recorder = {"mmap"}  # of the standard library
    ours = {name for name in imported if name.partition(".")[0] not in recorder}
    assert needless(ours, MODEL, CLIENT, CLI, FILES, RUN) == []
    whole = {"yaml.resolver", "yaml.loader", "msgspec.json"} & imported
    assert whole == set(), "PyYAML and msgspec are imported in parts"


def test_a_validation_of_calls_imports_no_client_of_a_lab(tmp_path: Path) -> None:
    scenario = tmp_path / "echo.yaml"
    scenario.write_text(ECHO)
    imported = imported_by(COMMAND, "validate", scenario)
    assert needless(imported - {"labctl.cli.file_commands", "shlex"}, MODEL, CLI, FILES, RUN, "lab") == []


def test_up_of_a_shape_imports_no_more_than_it_needs(lab_name: str) -> None:
    assert needless(imported_by(COMMAND, "up", "star:2", "--name", lab_name), MODEL, CLIENT, CLI, FILES, UP) == []


def test_the_api_imports_no_more_than_a_lab_and_its_hosts_need() -> None:
    assert needless(imported_by("from labctl import Lab"), MODEL, CLIENT, API) == []
