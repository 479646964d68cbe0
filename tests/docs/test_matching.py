"""What the test of the pages itself lets pass, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import Kind, blocks_of, commands_of
from tests.docs.matching import says_the_same
from tests.docs.terminal import Terminal

PAGE = """\
# Title

```yaml
# a/pair.yaml
hosts: {a: {}}
```

<!-- not run: a drawing -->
```text
a -- b
```

1. In a list

   ```console
   $ echo one \\
   > two
   one two
   $ false
   $ echo $?
   1
   ```

```{toctree}
other
```

```python
print("x")
```

```text
x
```

```text
alone
```
"""


def test_blocks_are_told_apart_by_language_comment_and_neighbour() -> None:
    blocks = blocks_of(PAGE)
    kinds = [block.kind for block in blocks]
    assert kinds == [Kind.FILE, Kind.NOT_RUN, Kind.COMMANDS, Kind.PROGRAM, Kind.OUTPUT, Kind.UNKNOWN]
    assert blocks[0].name == "a/pair.yaml"
    assert (blocks[1].reason, blocks[1].line) == ("a drawing", 9)


def test_commands_have_their_lines_and_outputs() -> None:
    commands = commands_of(blocks_of(PAGE)[2])
    assert [command.text for command in commands] == ["echo one \\\ntwo", "false", "echo $?"]
    assert [command.output for command in commands] == [("one two",), (), ("1",)]
    assert commands[0].line == 16


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a\n...\nz", "a\nb\nc\nz\n"),
        ("a\n...\nz", "a\nz\n"),
        ("pid ...", "pid 17\n"),
        ("16.94 │ socket() → 3", "  6.01 │ socket() → 3\n"),
        ("├─ ✓ expect  [8.7 ms]", "├─ ✓ expect\n"),
        ("passed in 0.29 s", "passed in 1.5 s\n"),
        ("1 passed in 0.12s", "1 passed in 3.40s"),
        ("from 10.0.0.1:40112", "from 10.0.0.1:51000"),
        (" 0.3 │ connect(3, :80) ─ SYN ──►│", " 0.9 │ connect(3, :80)         │\n 1.0 ├─ SYN seq 0 ────────────►│\n"),
        (" 0.1 │◄─ FIN ACK ─┤ close(4) → 0", " 0.1 │            │ close(4) → 0\n 0.2 │◄─ FIN ACK ─┤\n"),
        ("", ""),
    ],
)
def test_what_varies_is_not_compared(expected: str, printed: str) -> None:
    assert says_the_same(expected.splitlines(), printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("", "something\n"),
        ("a", "a\nb\n"),
        ("a\nb", "a\n"),
        ("connect() → 0", "connect() → -1\n"),
        ("to 10.0.0.2:5000", "to 10.0.0.2:5001"),
        ("2 passed in 0.12s", "1 passed in 0.12s"),
        ("a...z", "a\nz"),
        (" 0.3 │ connect(3, :80) ─ SYN ──►│", " 0.9 │ connect(3, :80) ─ FIN ──►│\n"),
        (" 0.3 │ connect(3, :80) ─ SYN ──►│", " 0.9 │ connect(3, :80)          │\n"),
    ],
)
def test_what_is_said_and_does_not_come_is_noticed(expected: str, printed: str) -> None:
    assert not says_the_same(expected.splitlines(), printed)


def test_a_terminal_keeps_its_folder_its_variables_and_its_last_status(tmp_path: Path) -> None:
    with Terminal(tmp_path, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, tmp_path / "output") as terminal:
        assert terminal.enter("mkdir x && cd x && word=hello; false").status == 1
        answer = terminal.enter('echo $?; echo $word; basename "$PWD" >&2')
        assert (answer.status, answer.output) == (0, "1\nhello\nx\n")
