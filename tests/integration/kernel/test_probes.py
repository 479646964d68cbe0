"""Probes of kernel features, in namespaces of their own."""

from __future__ import annotations

import pytest

from labctl.kernel.probes import FEATURES, Probed, module_remedy, probe, remedy
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel


@pytest.mark.parametrize("name", ["veth", "bridge", "ipv6", "nftables", "sock_diag", "unix_diag", "packet"])
@inside
def test_a_feature_that_every_test_machine_has_works(name: str) -> None:
    assert probe(name) == Probed(name)


@inside
def test_probes_in_one_namespace_do_not_disturb_each_other() -> None:
    assert [probe(name) for name in ("veth", "bridge", "ipv6")] == [Probed("veth"), Probed("bridge"), Probed("ipv6")]


@pytest.mark.parametrize("name", FEATURES)
@inside
def test_a_refused_probe_has_a_reason_and_a_remedy(name: str) -> None:
    probed = probe(name)
    assert probed.errno == 0 or (probed.detail and remedy(name))


def test_labs_need_no_feature_that_only_programs_on_hosts_use() -> None:
    assert [name for name, feature in FEATURES.items() if feature.needed and not feature.own] == []


def test_a_remedy_names_the_option_that_no_kernel_was_built_with() -> None:
    assert module_remedy("no_such_module", "NO_SUCH_OPTION").endswith(
        "CONFIG_NO_SUCH_OPTION; another kernel is needed."
    )
