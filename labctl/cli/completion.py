"""Completion in shells: the candidates for the word at the cursor.

The scripts of `labctl completion` are Typer's. They call labctl with the words in variables, and labctl answers as
Typer's application would, but without importing Typer. It prints no errors: a lab that does not answer has no
candidates.
"""

from __future__ import annotations

import os
import sys

from labctl.cli.command_line import Split, split
from labctl.cli.command_table import COMMANDS, COMPLETION_VARIABLE, HELP_OPTION, VERSION_OPTION, Command, Parameter
from labctl.errors import LabctlError
from labctl.lab.client import state_dir
from labctl.lab.client.lab_client import LabClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Candidate = str | tuple[str, str]  # with an explanation

LAB_TIMEOUT_S = 2.0  # a person waits
SHAPES = (
    "pair",
    "star",
    "line",
    "tree",
    "mesh",
    "random",
)  # labctl.topology.draft takes long to import; a test compares both


class Given:
    """The words before the cursor: the command, and the values of its parameters by name."""

    def __init__(self, command: str, values: Mapping[str, object]) -> None:
        self.command = command
        self.values = values

    @property
    def words(self) -> set[str]:
        """Words that parameters with several values have already."""
        return {word for words in self.values.values() if isinstance(words, list | tuple) for word in words}


def answer() -> int | None:
    """Print the candidates in the form of the shell that asks. Return the exit status; None for another request."""
    environ = os.environ
    line = environ.get("_TYPER_COMPLETE_ARGS", "")
    match environ[COMPLETION_VARIABLE]:
        case "complete_bash":
            words = words_of(environ.get("COMP_WORDS", ""))
            number = int(environ.get("COMP_CWORD") or 0)
            found = candidates(words[1:number], words[number] if number < len(words) else "")
            text = "\n".join(_value(each) for each in found)
        case "complete_zsh":
            found = candidates(*_words_and_last(line))
            shown = "\n".join(":".join(f'"{_quoted_for_zsh(part)}"' for part in _parts(each)) for each in found)
            text = f"_arguments '*: :(({shown}))'" if found else "_files"
        case "complete_fish":
            found = candidates(*_words_and_last(line))
            if environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
                return 0 if found else 1
            text = "\n".join("\t".join(" ".join(part.split()) for part in _parts(each)) for each in found)
        case _:
            return None
    if sys.stdout is not None:  # closed
        sys.stdout.write(f"{text}\n")
    return 0


def words_of(line: str) -> list[str]:
    """Split as a shell does; a quote that is not closed, or an escape at the end, ends with the line."""
    if not any(character in line for character in "'\"\\"):
        return line.split()
    import shlex

    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        words.append(lexer.token)
    return words


def _words_and_last(line: str) -> tuple[list[str], str]:
    words = words_of(line)[1:]
    return (words[:-1], words[-1]) if words and not line.endswith(" ") else (words, "")


def _value(candidate: Candidate) -> str:
    return candidate if isinstance(candidate, str) else candidate[0]


def _parts(candidate: Candidate) -> tuple[str, ...]:
    return (candidate,) if isinstance(candidate, str) else tuple(filter(None, candidate))


def _quoted_for_zsh(text: str) -> str:
    for character, quoted in (('"', '""'), ("'", "''"), ("$", "\\$"), ("`", "\\`"), (":", "\\\\:")):
        text = text.replace(character, quoted)
    return text


def candidates(words: Sequence[str], incomplete: str) -> list[Candidate]:
    """Return the candidates for the incomplete word after these words."""
    if not words or list(words) == ["help"]:
        own = _flags((HELP_OPTION, VERSION_OPTION), incomplete) if incomplete.startswith("-") else []
        return own or [(each.name, each.summary) for each in COMMANDS if each.name.startswith(incomplete)]
    command = next((each for each in COMMANDS if each.name == words[0]), None)
    return _candidates_of(command, [word for word in words[1:] if word != "="], incomplete) if command else []


def _candidates_of(command: Command, words: list[str], incomplete: str) -> list[Candidate]:
    if incomplete == "=":  # bash makes three words of `--lab=office`
        incomplete = ""
    elif incomplete.startswith("-") and "=" in incomplete:
        flag, _, incomplete = incomplete.partition("=")
        words.append(flag)
    before = split(command, words)
    given = Given(command.name, _values(before))
    if before.wants_value is not None:
        return candidates_for(before.wants_value, given, incomplete)
    if before.may_take_option and incomplete.startswith("-"):
        options = [each for each in command.options if each.many or each.name not in given.values]
        return _flags((*options, HELP_OPTION), incomplete)
    for number, parameter in enumerate(before.expected):
        if parameter.many or number >= len(before.arguments):
            return candidates_for(parameter, given, incomplete)
    return []


def _values(given: Split) -> dict[str, object]:
    """The values of the parameters that are given."""
    values: dict[str, object] = {}
    for _, option, value in given.options:
        if option is not None and option.many:
            before = values.get(option.name, ())
            assert isinstance(before, tuple)
            values[option.name] = (*before, value)
        elif option is not None:
            values[option.name] = value if option.metavar else True
    for number, (parameter, word) in enumerate(zip(given.expected, given.arguments, strict=False)):
        values[parameter.name] = tuple(given.arguments[number:]) if parameter.many else word
    return values


def _flags(options: Sequence[Parameter], incomplete: str) -> list[Candidate]:
    return [flag for each in options for flag in each.flags if flag.startswith(incomplete)]


def candidates_for(parameter: Parameter, given: Given, incomplete: str) -> list[Candidate]:
    """Return the candidates for a value of the parameter."""
    if parameter.choices:
        return [each for each in parameter.choices if each.startswith(incomplete)]
    if not parameter.completes:
        return []
    offer: Callable[[Given, str], list[Candidate]] = globals()[parameter.completes]
    return [each for each in offer(given, incomplete) if _value(each).startswith(incomplete)]


def lab_names(given: Given, incomplete: str) -> list[Candidate]:
    """Names of running labs."""
    return [name for name in _running() if name not in given.words]


def node_names(given: Given, incomplete: str) -> list[Candidate]:
    """Nodes of the running labs, or of the lab of --lab, each with the name of its lab."""
    return [*_nodes(given)]


def other_ends(given: Given, incomplete: str) -> list[Candidate]:
    """Nodes for the second end of a link: all except the first."""
    return [found for found in _nodes(given) if found[0] != given.values.get("first")]


def node_paths(given: Given, incomplete: str) -> list[Candidate]:
    """`NODE:` for `labctl cp`. The shell completes a word with `:` or `/`, which is a path."""
    return [] if ":" in incomplete or "/" in incomplete else [f"{node}:" for node, _ in _nodes(given)]


def example_names(given: Given, incomplete: str) -> list[Candidate]:
    """Names of shipped scenarios and topologies, and files of this directory."""
    from labctl.cli import files

    return _beside_files([*files.shipped_scenarios(), *files.shipped_topologies()], incomplete)


def scenario_names(given: Given, incomplete: str) -> list[Candidate]:
    """Names of shipped scenarios, and files of this directory."""
    from labctl.cli import files

    return _beside_files([*files.shipped_scenarios()], incomplete)


def topology_names(given: Given, incomplete: str) -> list[Candidate]:
    """Shapes, names of shipped topologies, and files of this directory."""
    from labctl.cli import files

    shipped = files.shipped_topologies()
    names = dict.fromkeys([*SHAPES, *shipped])
    return _beside_files([name if name in ("pair", *shipped) else f"{name}:" for name in names], incomplete)


def graph_sources(given: Given, incomplete: str) -> list[Candidate]:
    """Running labs, and what `topology_names` offers."""
    labs = [name for name in lab_names(given, incomplete) if name not in topology_names(given, incomplete)]
    return [*labs, *topology_names(given, incomplete)]


def link_values(given: Given, incomplete: str) -> list[Candidate]:
    """`delay=` and the other keys after `set`, or the values of `preset=` and the like."""
    if given.values.get("action") != "set":
        return []
    from labctl.topology.impairments import WORDS, choices

    key, equals, _ = incomplete.partition("=")
    return [f"{key}={choice}" for choice in choices(key)] if equals else [f"{word}=" for word in WORDS]


def commands(given: Given, incomplete: str) -> list[Candidate]:
    """Programs on PATH for the first word of a command. The shell completes paths and the other words."""
    words = given.values.get("command")
    if "/" in incomplete or (isinstance(words, list | tuple) and any(word != "--" for word in words)):  # Typer keeps --
        return []
    return sorted({name for directory in os.get_exec_path() for name in _names_in(directory, incomplete)})


def process_names(given: Given, incomplete: str) -> list[Candidate]:
    """NODE/NAME of the background programs, or NAME if the word begins so; only running ones for `stop`."""
    found: list[str] = []
    with_ended = given.command != "stop"
    for lab in _labs(given.values.get("lab")):
        try:
            with LabClient.attach(lab, deadline_s=LAB_TIMEOUT_S) as attached:
                programs = [each for each in attached.processes() if each.is_detached]
        except (LabctlError, OSError):
            continue
        programs = [each for each in programs if with_ended or each.state.value != "ended"]
        found += [f"{each.node}/{each.name}" for each in programs]
        found += [each.name for each in programs if incomplete]
    return [name for name in dict.fromkeys(found) if name not in given.words]


def _running() -> list[str]:
    try:
        return state_dir.labs()
    except (LabctlError, OSError):
        return []


def _labs(name: object) -> list[str]:
    return [each for each in _running() if name in (None, "", each)]


def _nodes(given: Given) -> Iterator[tuple[str, str]]:
    for lab in _labs(given.values.get("lab")):
        try:
            with LabClient.attach(lab, deadline_s=LAB_TIMEOUT_S) as attached:
                nodes = attached.nodes
        except (LabctlError, OSError):
            continue
        yield from ((node, f"in lab {lab}") for node in nodes if node not in given.words)


def _beside_files(names: Sequence[str], incomplete: str) -> list[Candidate]:
    """Matching names, and files; [] without a name, so that the shell completes files in its own way."""
    names = [name for name in names if name.startswith(incomplete)]
    if not names:
        return []
    directory, slash, start = incomplete.rpartition("/")
    files = []
    for name in _names_in(directory or slash or ".", start):
        if name.startswith("."):
            continue
        path = f"{directory}{slash}{name}"
        if os.path.isdir(path):
            files.append(f"{path}/")
        elif name.endswith((".yaml", ".yml", ".graphml", ".gml", ".mn")):
            files.append(path)
    return [*sorted(files), *names]


def _names_in(directory: str, start: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.startswith(start)]
    except OSError:
        return []
