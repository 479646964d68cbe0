"""Runs hello.yaml as a test, and a program of its own on the same topology: `pytest` in this directory."""

from pathlib import Path

from labctl import plan, scenario, topology
from labctl.lab import Lab
from labctl.scenario.listener import SilentListener
from labctl.scenario.result import Outcome

HERE = Path(__file__).parent


def test_hello() -> None:
    """The scenario passes; on failure the reason says which step, what was expected and what came back."""
    result = scenario.run_scenario(scenario.load(HERE / "hello.yaml"), scenario.RunOptions(), SilentListener())
    assert result.outcome is Outcome.PASSED, result.reason


def test_the_server_knows_the_client_by_name() -> None:
    """A lab goes away with its block, however the block is left, and everything in it with it."""
    with Lab.open(plan.build(topology.load(HERE / "topology.yaml"))) as lab:
        lookup = lab.spawn("server", ["getent", "hosts", "client"])
        assert lookup.wait(10) == 0
