"""The Vagrantfile, checked by vagrant itself; no provider runs here, so no machine is started."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.provisioning.machine import ROOT, require

VAGRANTFILE = (ROOT / "Vagrantfile").read_text()
TIMEOUT_S = 120

# What vagrant says of each wrong setting, which stands in the Vagrantfile in place of a right one.
WRONG = {
    "config.vm.hostname = ": ("config.vm.hostnam = ", "hostnam"),
    'config.vm.hostname = "labctl"': ('config.vm.hostname = "lab_ctl!"', "hostname"),
    'config.vm.provision "shell", name: "machine", inline:': (
        'config.vm.provision "shell", name: "machine", inlin:',
        "inlin",
    ),
    'config.vm.provision "shell", name: "doctor"': ('config.vm.provision "shel", name: "doctor"', "shel"),
    "config.vm.box = ": ("config.vm.bux = ", "bux"),
    "disabled: true": ("disabled:", "syntax error"),
}

ARM64 = r"/\A(aarch64|arm64)/"  # the Vagrantfile's question for its host

# Stands in for VirtualBox, so that vagrant takes its settings for those of a provider that is there.
VBOXMANAGE = """#!/bin/sh
echo 7.0.10r158379
"""


def vagrant(folder: Path, *words: str, vagrantfile: str = VAGRANTFILE, **env: str) -> subprocess.CompletedProcess[str]:
    """`vagrant WORDS` in that folder, which is its home, too, with the Vagrantfile in it."""
    require("vagrant", "vagrant")
    (folder / "Vagrantfile").write_text(vagrantfile)
    environment = {
        "PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(folder),
        "VAGRANT_HOME": str(folder / "home"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "LANG": "C.UTF-8",
    }
    return subprocess.run(
        ["vagrant", *words],
        cwd=folder,
        env=environment | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def validate(folder: Path, *, vagrantfile: str = VAGRANTFILE, **env: str) -> subprocess.CompletedProcess[str]:
    return vagrant(folder, "validate", "--ignore-provider", vagrantfile=vagrantfile, **env)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LABCTL_VM_CPUS": "4", "LABCTL_VM_MEMORY_MB": "4096"},
        {"LABCTL_VM_BOX": "mine", "LABCTL_VM_BOX_URL": "/my.box"},
    ],
    ids=["as it is", "larger", "another box"],
)
def test_vagrant_accepts_the_vagrantfile(tmp_path: Path, env: dict[str, str]) -> None:
    told = validate(tmp_path, **env)
    assert told.returncode == 0, told.stderr
    assert "Vagrantfile validated successfully." in told.stdout


@pytest.mark.parametrize("right", WRONG)
def test_vagrant_rejects_a_wrong_setting(tmp_path: Path, right: str) -> None:
    wrong, word = WRONG[right]
    assert right in VAGRANTFILE
    told = validate(tmp_path, vagrantfile=VAGRANTFILE.replace(right, wrong, 1))
    assert told.returncode != 0
    assert word in told.stderr


@pytest.mark.parametrize("variable", ["LABCTL_VM_CPUS", "LABCTL_VM_MEMORY_MB"])
def test_a_size_that_is_no_number_is_told(tmp_path: Path, variable: str) -> None:
    told = validate(tmp_path, **{variable: "a lot"})
    assert told.returncode != 0
    assert f'{variable} is "a lot"; a whole number is expected' in told.stderr


@pytest.mark.parametrize("provider", ["virtualbox", "libvirt", "libvirt on arm64"])
def test_a_provider_s_settings_are_ones_that_it_has(tmp_path: Path, provider: str) -> None:
    name, _, architecture = provider.partition(" on ")
    if name == "virtualbox":
        (tmp_path / "VBoxManage").write_text(VBOXMANAGE)
        (tmp_path / "VBoxManage").chmod(0o755)
    elif not list(Path("/usr/share").glob("rubygems-integration/all/specifications/vagrant-libvirt-*")):
        pytest.skip("needs vagrant's plugin for libvirt: apt-get install vagrant-libvirt")
    right = VAGRANTFILE.replace(ARM64, "/./") if architecture else VAGRANTFILE
    setting = "machine.nvram =" if architecture else "machine.memory ="
    for text, is_accepted in ((right, True), (right.replace(setting, "machine.memery ="), False)):
        told = vagrant(tmp_path, "validate", vagrantfile=text, VAGRANT_DEFAULT_PROVIDER=name)
        assert (told.returncode == 0) is is_accepted, told.stderr
        assert ("memery" in told.stderr) is not is_accepted


def test_the_provisioner_runs_the_script_of_the_checkout() -> None:
    assert (ROOT / "tools" / "provision").stat().st_mode & 0o111
    checkout = re.search(r'^CHECKOUT = "(.*)"', VAGRANTFILE, flags=re.MULTILINE)
    assert checkout is not None
    assert 'inline: "exec #{CHECKOUT}/tools/provision --machine vagrant"' in VAGRANTFILE
    assert checkout[1] in (ROOT / "docs" / "vagrant.md").read_text()


def test_the_scripts_pass_shellcheck() -> None:
    require("shellcheck", "shellcheck")
    folders = [ROOT / "tools", ROOT / "tests" / "provisioning"]
    scripts = [path for folder in folders for path in folder.iterdir() if path.is_file() and not path.suffix]
    assert len(scripts) >= 7
    told = subprocess.run(["shellcheck", "--severity=warning", *scripts], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stdout
