"""Read the words of a command line by the table of commands, and carry the command out."""

from __future__ import annotations

from labctl.cli.command_table import COMMANDS, Command, Parameter
from labctl.cli.exit import complain, report_bug, stopped_status
from labctl.errors import InputError, LabctlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from typing import Any
else:
    import _signal as signal  # without the enums of `signal`

HELP = ("-h", "--help")
Value = str | int | bool | None | object  # a Path is an object: importing pathlib for a name costs


class HelpWanted(Exception):
    """The command line asks for help."""


class MissingArgument(InputError):
    """A required argument is missing. `lab` is the value of `--lab`, if it was given."""

    def __init__(self, message: str, parameter: Parameter, lab: str | None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.lab = lab


def command_named(name: str) -> Command:
    """Return the command. InputError if there is none of that name."""
    for command in COMMANDS:
        if command.name == name:
            return command
    if not name:
        raise InputError('labctl: an argument is empty (""). Is a variable unset in your shell?')
    what = "option" if name.startswith("-") else "command"
    raise InputError(
        f"labctl: no such {what}: {name}. {_near(name, [each.name for each in COMMANDS], 'labctl --help')}"
    )


def function_of(command: Command) -> Callable[..., int]:
    """Import the module of the command, and return its function."""
    module, _, name = command.function.partition(":")
    function: Callable[..., int] = getattr(__import__(f"labctl.cli.{module}", fromlist=[name]), name)
    return function


class Split:
    """The words of a command line by their kinds.

    `options` has (flag as given, its option or None, its value or None) for each option in order. `may_take_option` is
    False after `--`, and after the first word of a command line; `wants_value` is the option that the last word names.
    """

    def __init__(self) -> None:
        self.options: list[tuple[str, Parameter | None, str | None]] = []
        self.arguments: list[str] = []
        self.command_line: list[str] = []  # after `--`, if any number of arguments may come before
        self.may_take_option = True
        self.wants_value: Parameter | None = None
        self.expected: Sequence[Parameter] = ()  # the arguments, without those that options stand for


def split(command: Command, words: Sequence[str]) -> Split:
    """Tell options from arguments; judge neither.

    Options may stand before, between and after the arguments; after `--` all words are arguments. A command that takes
    a command line takes the first word after its other arguments, and everything after that, as it is. If it takes any
    number of other arguments, the command line begins after `--`.
    """
    flags = {flag: each for each in command.options for flag in each.flags}
    # Arguments before the command line; None: any number, up to `--`.
    own = len(command.arguments) - 1 if command.takes_command and not command.arguments[0].many else None
    found = Split()
    found.expected = command.arguments
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            if own and len(found.arguments) < own and queue[1:2] == ["--"]:
                del queue[1]  # `exec -- NODE -- COMMAND`
            found.may_take_option = False
            if command.takes_command and own is None:
                found.command_line = queue
            else:
                found.arguments += queue
            break
        if not word.startswith("-") or word == "-":
            found.arguments.append(word)
            if own is not None and len(found.arguments) > own:
                found.may_take_option = False
                found.arguments += queue
                break
            continue
        flag, joined = _split(word, flags)
        option = flags.get(flag)
        if option is not None and option.replaces and not found.arguments:
            found.expected = [each for each in command.arguments if each.name != option.replaces]
            own = len(found.expected) - 1
        if option is not None and option.metavar:
            if joined is None and not queue:
                found.wants_value = option
            found.options.append((flag, option, joined if joined is not None or not queue else queue.pop(0)))
        elif option is not None and joined is not None and not flag.startswith("--"):
            queue.insert(0, f"-{joined}")  # `-it`
            found.options.append((flag, option, None))
        else:
            found.options.append((flag, option, joined))
    return found


def read(command: Command, words: Sequence[str]) -> dict[str, Value]:
    """Return the values of all parameters by name. HelpWanted; InputError if the words do not fit."""
    values: dict[str, Value] = {each.name: _default(each) for each in command.parameters}
    given = split(command, words)
    for flag, option, value in given.options:
        if flag in HELP:
            raise HelpWanted
        if option is None:
            raise InputError(f"labctl {command.name}: no such option: {flag}. {_unknown_flag(command, flag)}")
        if option.metavar:
            if not value:
                reason = "is missing" if value is None else "is empty"
                raise InputError(f"labctl {command.name}: {flag}: the value {option.metavar} {reason}.")
            _store(values, option, _converted(command, option, value, flag))
        elif value is not None:
            raise InputError(f"labctl {command.name}: {flag} takes no value.")
        else:
            values[option.name] = True
        if option.replaces and option.replaces in (each.name for each in given.expected):
            raise InputError(f"labctl {command.name}: {given.arguments[0]} and {flag}: give one of them.")
    _assign(command, given, values)
    if given.command_line:
        values[command.arguments[-1].name] = tuple(given.command_line)
    return values


def _default(parameter: Parameter) -> Value:
    if parameter.many:
        return ()
    if parameter.choices and not parameter.required:
        return parameter.choices[0]
    return False if not parameter.metavar else parameter.default


def _split(word: str, flags: dict[str, Parameter]) -> tuple[str, str | None]:
    """`--name=value` and `-nvalue` in two parts; None where no value is joined."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag, value if equals else None
    if word in flags or word in HELP:
        return word, None
    return word[:2], word[2:] or None


def _store(values: dict[str, Value], parameter: Parameter, value: Value) -> None:
    if parameter.many:
        before = values[parameter.name]
        assert isinstance(before, tuple)
        value = (*before, value)
    values[parameter.name] = value


def _assign(command: Command, given: Split, values: dict[str, Value]) -> None:
    """Give the words to the command's arguments in order. The last argument may take many."""
    left = list(given.arguments)
    for parameter in given.expected:
        taken = left[:] if parameter.many else left[:1]
        del left[: len(taken)]
        is_command_line = command.takes_command and parameter is command.arguments[-1]
        for word in taken:
            if not word and not is_command_line:
                raise InputError(
                    f'labctl {command.name}: {parameter.metavar} is empty (""). Is a variable unset in your shell?'
                )
            value = word if is_command_line else _converted(command, parameter, word, parameter.metavar)
            _store(values, parameter, value)
        if parameter.required and not taken:
            lab = values.get("lab")
            usage = command.synopsis.replace(" [OPTIONS]", "").removesuffix("...")
            message = (
                f"labctl {command.name}: {parameter.metavar} is missing. Try: {usage} or labctl {command.name} --help"
            )
            raise MissingArgument(message, parameter, lab if isinstance(lab, str) else None)
    if left:
        hint = f"labctl exec -t {values['node']} -- {left[0]}" if command.name == "shell" else command.synopsis
        raise InputError(f"labctl {command.name}: unexpected argument: {left[0]}. Try: {hint}")


def _converted(command: Command, parameter: Parameter, text: str, given_as: str) -> Value:
    if parameter.choices and text not in parameter.choices:
        allowed = ", ".join(parameter.choices)
        if "=" in text and "set" in parameter.choices:
            before = command.arguments[: command.arguments.index(parameter)]
            usage = " ".join(("labctl", command.name, *(each.metavar for each in before), "set", text))
            raise InputError(f"labctl {command.name}: {text} is a value for `set`. Try: {usage}")
        raise InputError(f"labctl {command.name}: {given_as}: {text} is not one of {allowed}.")
    if parameter.kind is int:
        is_number = text.isascii() and text.isdecimal()
        too_large = is_number and (len(text) > 19 or int(text) > parameter.maximum)
        if not is_number or too_large or int(text) < parameter.minimum:
            limit = f"at most {parameter.maximum}" if too_large else f"{parameter.minimum} or more"
            raise InputError(f"labctl {command.name}: {given_as}: {text} is not a whole number of {limit}.")
    return parameter.kind(text)


def _unknown_flag(command: Command, flag: str) -> str:
    flags = [each for option in command.options for each in option.flags]
    hint = _near(flag, flags, f"labctl {command.name} --help")
    return f"{hint} (options of the program come after its name)" if command.takes_command else hint


def _near(word: str, known: Sequence[str], help_command: str) -> str:
    import difflib  # with the regular expressions that it imports, a tenth of the time of `exec`

    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Try: {help_command}"


def status_of(command: Command, values: Callable[[], dict[str, Any]]) -> int:
    """Read the values of the parameters, carry out the command, report errors, and return the exit status."""
    return reported(lambda: _carried_out(command, values), command.failure_status)


def _carried_out(command: Command, read: Callable[[], dict[str, Any]]) -> int:
    try:
        values = read()
    except HelpWanted:
        from labctl.cli.help import show_help

        show_help(command)
        return 0
    except MissingArgument as error:
        from labctl.cli.lab_selection import nodes_to_choose

        nodes = nodes_to_choose(error.lab) if error.parameter.completes == "node_names" else []
        raise InputError("\n".join([str(error), *nodes])) from error
    return _run(values) if command.name == "run" else function_of(command)(**values)


def reported(action: Callable[[], int], failure_status: int | None = None) -> int:
    """Call the function; report errors and return the exit status."""
    try:
        return action()
    except KeyboardInterrupt as stopped:
        return stopped_status(stopped)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except LabctlError as error:
        complain(str(error))
        return failure_status or error.exit_status
    except Exception as error:  # noqa: BLE001  # the outermost frame: reported in full
        status = report_bug(error)
        return failure_status or status


def _run(values: dict[str, Any]) -> int:
    """Carry out `labctl run`."""
    from labctl.cli.run import RunRequest, run_scenarios

    return run_scenarios(RunRequest(**values))
