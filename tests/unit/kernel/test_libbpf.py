"""The BPF object is that of its sources; names of enums come from the kernel itself."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from labctl.kernel import libbpf
from tests import skips

PROGRAMS = Path(libbpf.__file__).with_name("bpf_programs")
HAS_TYPES = os.path.exists(libbpf.KERNEL_TYPES)


def test_the_object_was_compiled_from_these_sources() -> None:
    lines = (PROGRAMS / "sources.sha256").read_text().splitlines()
    recorded = {name: digest for digest, name in map(str.split, lines)}
    sources = sorted(path for path in PROGRAMS.iterdir() if path.suffix in (".c", ".h"))
    assert recorded == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}, "run tools/bpf"


def test_the_object_names_no_directory_of_who_compiled_it() -> None:
    assert b"/labctl/kernel/" not in (PROGRAMS / "tracer.bpf.o").read_bytes()


@skips.needs_programs("clang")
@pytest.mark.skipif(not Path("/usr/include/bpf/bpf_helpers.h").exists(), reason="not installed: libbpf-dev")
def test_the_sources_compile(tmp_path: Path) -> None:
    for path in PROGRAMS.glob("*.[ch]"):
        shutil.copy(path, tmp_path)
    command = [
        "clang",
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-mcpu=v3",
        "-Wall",
        "-Werror",
        "-c",
        "tracer.bpf.c",
        "-o",
        "tracer.bpf.o",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)


@skips.needs_feature("BTF", HAS_TYPES, libbpf.KERNEL_TYPES)
def test_names_of_an_enum_of_the_kernel() -> None:
    names = libbpf.kernel_enum("skb_drop_reason", "SKB_DROP_REASON_")
    assert names[2] == "NOT_SPECIFIED"
    assert "NO_SOCKET" in names.values()
    assert libbpf.kernel_enum("no_such_enum") == {}
