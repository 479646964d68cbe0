"""How a shell starts on a node."""

from __future__ import annotations

from labctl.cli.shell import shell_of, shell_start


def test_the_users_own_shell_is_used_unless_it_is_no_shell() -> None:
    assert shell_of("/bin/sh") == "/bin/sh"
    assert shell_of("/usr/sbin/nologin").endswith("sh")
    assert shell_of("bash").startswith("/")
    assert shell_of(None).endswith("sh")


def test_each_shell_reads_the_prompt_from_its_own_start_up_file() -> None:
    assert shell_start("/bin/bash").argv == ("/bin/bash", "--rcfile", "/run/lab/shell/bashrc", "-i")
    assert shell_start("/bin/dash").environment == ("ENV=/run/lab/shell/shrc",)
    assert shell_start("/usr/bin/zsh", "/home/u/zsh").environment[1] == "LABCTL_ZDOTDIR=/home/u/zsh"
    assert shell_start("/usr/bin/fish").argv == ("/usr/bin/fish",)
