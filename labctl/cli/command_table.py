"""The commands of labctl with their arguments and options: one table for the reader, help, completion and man pages.

Importing it must stay cheap, because every command pays for it: its classes are plain, without msgspec.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMPLETION_VARIABLE = "_LABCTL_COMPLETE"  # set by the completion scripts, beside the words to complete


def path(text: str) -> Path:
    """Return the path that a word of the command line names."""
    from pathlib import Path

    return Path(text)


class Parameter:
    """An argument (`usage` is `NODE`, `[LAB]`, `PATH...`) or an option (`-j, --jobs N`; a switch has no value).

    `name` is the keyword under which the command gets the value. Three dots in `usage`: the argument or option may be
    repeated, and the value is a tuple. `completes` names the function of labctl.cli.completion that offers values.
    """

    def __init__(
        self,
        name: str,
        usage: str,
        help: str,
        completes: str = "",
        *,
        choices: tuple[str, ...] = (),
        kind: Callable[[str], str | int | Path] = str,
        minimum: int = 0,
        maximum: int = (1 << 63) - 1,
        default: int | None = None,
        group: str = "Options",
        replaces: str = "",
    ) -> None:
        self.name = name
        self.usage = usage
        self.help = help
        self.completes = completes
        self.choices = choices  # the first is the default of an optional parameter
        self.kind = kind  # makes the value of the word
        self.minimum = minimum  # of an integer
        self.maximum = maximum
        self.default = default
        self.group = group  # heading in the help
        self.replaces = replaces  # the name of an argument that is not given beside this option

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of an option; () for an argument."""
        if not self.usage.startswith("-"):
            return ()
        return tuple(word.rstrip(",") for word in self.usage.split() if word.startswith("-"))

    @property
    def metavar(self) -> str:
        """The name of the value; "" for a switch."""
        value = self.usage.strip("[]").removesuffix("...")
        return value.removeprefix(", ".join(self.flags)).lstrip()

    @property
    def required(self) -> bool:
        """Whether this is an argument that must be given."""
        return not self.usage.startswith(("-", "["))

    @property
    def many(self) -> bool:
        """Whether the value is a tuple."""
        return "..." in self.usage


class Command:
    """A command. `function` is `module:function` below labctl.cli, which gets the values as keyword arguments."""

    def __init__(
        self,
        name: str,
        function: str,
        group: str,
        summary: str,
        description: str,
        parameters: tuple[Parameter, ...],
        example: str,
        exit_status: tuple[str, ...] = (),
        *,
        takes_command: bool = False,
        failure_status: int | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.group = group
        self.summary = summary
        self.description = description  # paragraphs, separated by an empty line
        self.parameters = parameters
        self.example = example
        self.exit_status = exit_status
        self.takes_command = takes_command  # the last argument is a command line: its first word ends labctl's options
        self.failure_status = failure_status  # of labctl's own errors, if the other statuses are a program's

    @property
    def arguments(self) -> tuple[Parameter, ...]:
        """The parameters without flags."""
        return tuple(each for each in self.parameters if not each.flags)

    @property
    def options(self) -> tuple[Parameter, ...]:
        """The parameters with flags."""
        return tuple(each for each in self.parameters if each.flags)

    @property
    def synopsis(self) -> str:
        """`labctl plan [OPTIONS] [TOPOLOGY]`."""
        words = ["labctl", self.name, "[OPTIONS]" if self.options else "", *(each.usage for each in self.arguments)]
        if self.takes_command:
            words.insert(-1, "--")
        return " ".join(filter(None, words))


SUMMARY = "Small networks of Linux network namespaces, and scenarios that run servers and clients across them."
GROUPS = ("Scenarios", "Labs", "Nodes and programs", "Network", "Setup")
_SCENARIOS, _LABS, _NODES, _NETWORK, _SETUP = GROUPS
_REPORTS, _ORDER = "Reports", "Order and repetition"

HELP_OPTION = Parameter("help", "-h, --help", "Show help and exit.")  # of labctl and of every command
VERSION_OPTION = Parameter("version", "--version", "Show the version and exit.")
_LAB = Parameter(
    "lab",
    "--lab LAB",
    "The lab. Required if several labs run and the node's name does not identify one. [env: LABCTL_LAB]",
    "lab_names",
)
_LAB_ARGUMENT = Parameter("lab", "[LAB]", "The lab. Required if several labs run. [env: LABCTL_LAB]", "lab_names")
_LAB_AS_OPTION = Parameter("lab_option", "--lab LAB", "The lab: the same as the argument.", "lab_names")
_NODE = Parameter("node", "NODE", "A node of the lab.", "node_names")
_COMMAND = Parameter("command", "COMMAND...", "The program and its arguments.", "commands")
_PROCESS = (
    Parameter("environment", "-e, --env K=V...", "Set a variable. K alone passes the value that it has here."),
    Parameter("directory", "-w, --workdir DIR", "Working directory (default: the current one if the node has it)."),
    Parameter("user", "-u, --user USER", "Run as this user: a name or a number."),
)
_VALUES = Parameter("values", "--set NAME=VALUE...", "A parameter of the topology file: n=12. May be repeated.")
_TOPOLOGY = (
    Parameter("topology", "[TOPOLOGY]", "A topology file, a shape (star:10), or a shipped name.", "topology_names"),
    Parameter(
        "topo", "--topo SHAPE", "A shape: pair, star:10, line:5, tree:2,3, mesh:6 or random:20,30.", "topology_names"
    ),
    _VALUES,
)
_SOURCE = Parameter(
    "source", "[SOURCE]", "A topology file, a shape, a shipped name, or a running lab.", "graph_sources"
)
_FAILURES = ("125 labctl itself failed", "126 the command cannot be executed", "127 the command was not found")
_OWN_STATUS = ("N the exit status of the command", "128 + N signal N ended the command", *_FAILURES)

COMMANDS = (
    Command(
        "run",
        "run:run_scenarios",
        _SCENARIOS,
        "Run scenarios and show the calls of each host.",
        "Run each scenario in a lab of its own, and show what each host called and what each call returned.",
        (
            Parameter(
                "paths", "SCENARIO...", "A file, a directory, or the name of a shipped scenario.", "scenario_names"
            ),
            Parameter("jobs", "-j, --jobs N", "Run N scenarios at a time.", kind=int, minimum=1, default=1),
            Parameter("topology", "--topo TOPOLOGY", "Use this topology instead of the scenario's.", "topology_names"),
            Parameter("lab", "--lab LAB", "Run in this running lab, and restore it after each scenario.", "lab_names"),
            Parameter(
                "keep_on_failure", "--keep-on-failure", "Keep the lab of a failed scenario until you press Enter."
            ),
            Parameter("step", "--step", "Wait before each statement, and show the effect of the last one."),
            Parameter(
                "verbose", "-v, --verbose", "Show the ladder of each scenario, and program output as it arrives."
            ),
            Parameter("trace", "--trace", "Record the system calls of all programs on sockets."),
            Parameter("junit", "--junit FILE", "Write the results to FILE as JUnit XML.", kind=path, group=_REPORTS),
            Parameter("json", "--json FILE", "Write the results as JSON; - is stdout.", kind=path, group=_REPORTS),
            Parameter("artifacts", "--artifacts DIR", "Write results and outputs to DIR.", kind=path, group=_REPORTS),
            Parameter("html", "--html DIR", "Write a page for each scenario, and an index.", kind=path, group=_REPORTS),
            Parameter("timeline", "--timeline FILE", "Write all events as JSON.", kind=path, group=_REPORTS),
            Parameter("pcap", "--pcap FILE", "Write packets and calls for Wireshark.", kind=path, group=_REPORTS),
            Parameter("svg", "--svg FILE", "Write the ladder as a picture.", kind=path, group=_REPORTS),
            Parameter("perfetto", "--perfetto FILE", "Write a trace for ui.perfetto.dev.", kind=path, group=_REPORTS),
            Parameter(
                "durations",
                "--durations FILE",
                "Read durations of scenarios for --shard from FILE, and update it.",
                kind=path,
                group=_REPORTS,
            ),
            Parameter("shard", "--shard K/N", "Run part K of N parts of about equal duration.", group=_ORDER),
            Parameter("repeat", "--repeat N", "Run each scenario N times.", kind=int, minimum=1, group=_ORDER),
            Parameter("until_fail", "--until-fail", "Repeat until one fails (at most --repeat times).", group=_ORDER),
            Parameter(
                "seed", "--seed N", "Seed of random choices; programs get it as LABCTL_SEED.", kind=int, group=_ORDER
            ),
            Parameter("shuffle", "--shuffle", "Run the scenarios in random order.", group=_ORDER),
        ),
        "labctl run tcp-echo",
        (
            "0 all scenarios passed or were skipped",
            "1 an expectation failed",
            "2 a file or the command line is wrong",
            "3 this machine cannot run a scenario",
            "4 a lab failed",
        ),
    ),
    Command(
        "play",
        "play:play",
        _SCENARIOS,
        "Make socket calls on hosts, one line at a time.",
        "Open a prompt at which you make socket calls on the hosts of a lab: `s = socket(AF_INET, SOCK_STREAM)`. After "
        "each line labctl shows what the call returned, what crossed the wire, and how the queues of the sockets "
        "stand. `HOST:` changes the host, `why` explains a failure, `save FILE` writes the session as a scenario.\n\n"
        "labctl play also reads lines from a file or pipe; its exit status is then that of the first that failed.",
        (
            Parameter(
                "target",
                "[TOPOLOGY]",
                "A topology file, a shape, a shipped name (default: pair); or the name of a running lab.",
                "topology_names",
            ),
            Parameter("lab_option", "--lab LAB", "Play in this running lab.", "lab_names"),
        ),
        "labctl play",
        ("0 all lines of a script succeeded", "1 a call failed although nothing expected that"),
    ),
    Command(
        "validate",
        "file_commands:validate",
        _SCENARIOS,
        "Check topology and scenario files.",
        "Check topology and scenario files and report all errors. Needs no privilege and builds nothing.",
        (Parameter("paths", "FILE...", "A file, a directory, or the name of a shipped file.", "example_names"),),
        "labctl validate office.yaml",
    ),
    Command(
        "examples",
        "file_commands:examples",
        _SCENARIOS,
        "List, print or copy the shipped examples.",
        "List the scenarios and topologies that ship with labctl, in the order to read them; or print or copy one.",
        (
            Parameter("name", "[NAME]", "Print this example's file.", "example_names"),
            Parameter("copy_to", "--copy DIR", "Copy the file, and the files that it uses, to DIR.", kind=path),
        ),
        "labctl examples tcp-echo --copy mine && labctl run mine/tcp-echo.yaml",
    ),
    Command(
        "init",
        "file_commands:init",
        _SCENARIOS,
        "Write a starter topology, scenario and test.",
        "Write a commented topology, scenario and test into DIR. Existing files are never overwritten.",
        (Parameter("directory", "DIR", "Created if it does not exist.", kind=path),),
        "labctl init mylab && labctl run mylab",
    ),
    Command(
        "import",
        "importing:import_file",
        _SCENARIOS,
        "Make a topology file of another tool's file.",
        "Read a file of another tool, print the corresponding topology file, and report on standard error what "
        "differs. The format is recognised: GraphML and GML (Internet Topology Zoo), containerlab, Kathara (a "
        "directory), Mininet (a Python file with `topos`) and MiniEdit, netlab, Docker Compose.\n\n"
        "Commands that take a topology read such files directly, too. A Mininet program is run, as mn --custom does, "
        "without access to the network and to programs.",
        (
            Parameter("file", "FILE", "The file, or the directory of a Kathara lab.", "topology_names"),
            Parameter("output", "-o, --output OUT", "Write to OUT instead of standard output.", kind=path),
            Parameter("without", "--without PART...", "Leave out delay, rate, loss or commands. May be repeated."),
            Parameter("hosts", "--hosts", "Attach a host to each router of a graph."),
            Parameter(
                "choice", "--topo NAME[,ARG]", "Of several topologies in a Mininet program: this one, with arguments."
            ),
            Parameter("force", "--force", "Replace OUT if it exists."),
        ),
        "labctl import Abilene.graphml -o abilene.yaml",
    ),
    Command(
        "schema",
        "file_commands:schema",
        _SCENARIOS,
        "Print the JSON Schema of a kind of file.",
        "Print the JSON Schema of topology or scenario files (for editors), or of labctl's JSON output (for programs).",
        (
            Parameter(
                "kind",
                "KIND",
                "topology, scenario, result, inspect or timeline.",
                choices=("topology", "scenario", "result", "inspect", "timeline"),
            ),
        ),
        "labctl schema topology > topology.schema.json",
    ),
    Command(
        "up",
        "lifecycle:up",
        _LABS,
        "Create a lab that stays, or update it.",
        "Create a lab that runs until labctl down; or update the running lab of that name to match its file.\n\n"
        "An update changes only what differs: everything else keeps running, with its open connections. If one change "
        "fails, labctl rolls back all of them.",
        (
            *_TOPOLOGY,
            Parameter("name", "--name LAB", "Name of the lab (default: the topology's name).", "lab_names"),
            Parameter("dry_run", "--dry-run", "Show the changes without making them."),
            Parameter("strict", "--strict", "Fail if a command or service fails that may fail, as in foreign files."),
        ),
        "labctl up office.yaml",
    ),
    Command(
        "down",
        "down:down",
        _LABS,
        "Stop labs and remove them.",
        "Stop labs with all their programs, and return when the kernel has removed them.",
        (
            Parameter("labs", "[LAB...]", _LAB_ARGUMENT.help, "lab_names"),
            Parameter("every", "--all", "All labs of yours."),
            Parameter("force", "--force", "Kill the lab's process without a request to it first."),
        ),
        "labctl down office",
    ),
    Command(
        "ps",
        "ps:ps",
        _LABS,
        "List running labs, or the programs in them.",
        "List the running labs with age, nodes, processes and owner. With names of labs, list the processes in them.",
        (
            Parameter("labs", "[LAB...]", "List the processes of this lab.", "lab_names"),
            Parameter("format", "-f, --format FORMAT", "json includes nodes and processes.", choices=("table", "json")),
        ),
        "labctl ps office",
    ),
    Command(
        "inspect",
        "network:inspect",
        _LABS,
        "Show the state of a lab in the kernel.",
        "Show the nodes, interfaces, addresses, routes, links and processes of a lab as the kernel reports them, and "
        "the differences from the lab's file.",
        (
            _LAB_ARGUMENT,
            _LAB_AS_OPTION,
            Parameter(
                "format",
                "-f, --format FORMAT",
                "labctl schema inspect prints the schema of json. yaml is a topology file that labctl up accepts.",
                choices=("table", "json", "yaml"),
            ),
        ),
        "labctl inspect office",
    ),
    Command(
        "graph",
        "graph:graph",
        _LABS,
        "Draw a network, with the state of a running lab.",
        "Draw the network of a topology file, of a shape, or of a running lab: as text for the terminal, as SVG for a "
        "report, or in the languages of Mermaid and Graphviz.\n\n"
        "For a running lab the drawing has its present state: links that are down, impairments, services that do not "
        "run. Many hosts of a network that differ in nothing become one symbol.",
        (
            _SOURCE,
            Parameter(
                "format",
                "-f, --format FORMAT",
                "auto follows the name of --output; without one it is text.",
                choices=("auto", "text", "svg", "mermaid", "dot"),
            ),
            Parameter("output", "-o, --output FILE", "Write to FILE.", kind=path),
            Parameter(
                "labels",
                "--labels LABELS",
                "auto is addresses for up to 24 lines, else names. interfaces shows both.",
                choices=("auto", "names", "addresses", "interfaces"),
            ),
            Parameter("every_host", "--all", "Draw every host."),
            Parameter("ascii", "--ascii", "Use no box-drawing characters."),
            _VALUES,
        ),
        "labctl graph office -o office.svg",
    ),
    Command(
        "watch",
        "watch:watch",
        _LABS,
        "Report changes of a running lab as they happen.",
        "Report changes of a running lab as they happen, a line each: links, addresses, routes, rules, impairments, "
        "programs and faults, whoever makes them. It begins with the differences from the lab's file. With a topology "
        "file it also reports, whenever the file is saved, what labctl up would change; --apply changes it.",
        (
            Parameter("source", "[SOURCE]", "A running lab, or the topology file of one.", "graph_sources"),
            Parameter("as_json", "--json", "Write a JSON object for each change."),
            Parameter("apply", "--apply", "Do labctl up with the file now and whenever it is saved."),
            _LAB,
        ),
        "labctl watch office",
    ),
    Command(
        "export",
        "export:export",
        _LABS,
        "Write a network for another tool.",
        "Write the network of a topology file, of a shape, or of a running lab as a file of another tool. svg, mermaid "
        "and dot are the drawings of labctl graph; sh is what labctl plan prints; yaml is one topology file with all "
        "derived values. What a format cannot express is a comment in the file.",
        (
            Parameter(
                "format",
                "FORMAT",
                "graphml, containerlab, yaml, sh, svg, mermaid or dot.",
                choices=("graphml", "containerlab", "yaml", "sh", "svg", "mermaid", "dot"),
            ),
            _SOURCE,
            Parameter("output", "-o, --output FILE", "Write to FILE.", kind=path),
            _VALUES,
        ),
        "labctl export containerlab office -o office.clab.yml",
    ),
    Command(
        "plan",
        "file_commands:plan",
        _LABS,
        "Show what labctl up would create or change.",
        "Show what labctl would create for a topology, or change in a running lab. Changes nothing.",
        (
            *_TOPOLOGY,
            Parameter(
                "format",
                "-f, --format FORMAT",
                "sh is a script of ip commands that builds the same network, yaml the file with all derived values.",
                choices=("text", "json", "sh", "yaml"),
            ),
            Parameter("lab", "--lab LAB", "Show what labctl up would change in this lab.", "lab_names"),
        ),
        "labctl plan star:3 --format sh",
    ),
    Command(
        "gc",
        "down:gc",
        _LABS,
        "Remove leftovers of dead labs.",
        "Remove names and logs that your dead labs left, and stop labs whose state directory was deleted.",
        (),
        "labctl gc",
    ),
    Command(
        "exec",
        "exec:exec_command",
        _NODES,
        "Run a command on a node, or on several.",
        "Run a command on a node with the standard input and output, signals and exit status that it would have here."
        "\n\nWith --group or --label, run it on several nodes at the same time, without standard input. Each line of "
        "output has the node in front, and the exit status is the highest one.",
        (
            _NODE,
            _COMMAND,
            _LAB,
            Parameter("terminal", "-t, --tty", "Run the command on a terminal of its own."),
            Parameter("interactive", "-i, --interactive", "Ignored: standard input is always passed on."),
            Parameter("detach", "-d, --detach", "Run in the background like labctl start, and print the name."),
            *_PROCESS,
            Parameter("name", "--name NAME", "With -d: the name of the program."),
            Parameter("groups", "--group NAME...", "Instead of NODE: all nodes of this group.", replaces="node"),
            Parameter("labels", "--label KEY[=VALUE]...", "Instead of NODE: nodes with this label.", replaces="node"),
        ),
        "labctl exec client -- ping -c1 server",
        _OWN_STATUS,
        takes_command=True,
        failure_status=125,
    ),
    Command(
        "shell",
        "shell:shell",
        _NODES,
        "Open a shell on a node.",
        "Open your shell on a node, on a terminal of its own. The prompt shows the node's name.",
        (_NODE, _LAB, *_PROCESS),
        "labctl shell client",
        ("N the exit status of the shell", *_FAILURES[:1]),
        failure_status=125,
    ),
    Command(
        "console",
        "console:console",
        _NODES,
        "Open a prompt for all nodes of a lab.",
        "Open a prompt for a lab. Lines are commands such as `h1 ping -c1 h2`, `h1,h2 hostname`, `@all ip address`, "
        "`nodes`, `pingall` or `help`.\n\n"
        "The console also reads commands from a file or pipe; its exit status is then that of the first that failed.",
        (_LAB_ARGUMENT, _LAB_AS_OPTION),
        "labctl console office",
    ),
    Command(
        "start",
        "programs:start",
        _NODES,
        "Start a background program.",
        "Start a program on a node in the background, and print NODE/NAME. labctl ps LAB lists it, labctl logs shows "
        "its output, labctl stop ends it.",
        (
            _NODE,
            _COMMAND,
            Parameter("name", "--name NAME", "Name of the program (default: the name of its file)."),
            Parameter(
                "restart", "--restart WHEN", "Restart the program when it ends.", choices=("no", "on-failure", "always")
            ),
            _LAB,
            *_PROCESS,
        ),
        "labctl start server --name web -- python3 -m http.server 80",
        ("0 the program was started", *_FAILURES[1:]),
        takes_command=True,
    ),
    Command(
        "stop",
        "programs:stop",
        _NODES,
        "Stop background programs and services.",
        "Stop programs that labctl start started, or services: send SIGTERM, and after two seconds SIGKILL.",
        (
            Parameter("processes", "PROCESS...", "NODE/NAME, NAME, or NODE for all programs of it.", "process_names"),
            _LAB,
        ),
        "labctl stop server/web",
    ),
    Command(
        "logs",
        "programs:logs",
        _NODES,
        "Show the output of background programs.",
        "Show the standard output and error of background programs and services.",
        (
            Parameter("processes", "[PROCESS...]", "NODE/NAME, NAME or NODE (default: all).", "process_names"),
            Parameter("follow", "-f, --follow", "Show new output until the programs end."),
            Parameter("lines", "-n, --lines N", "Show only the last N lines.", kind=int),
            _LAB,
        ),
        "labctl logs -f server/web",
    ),
    Command(
        "cp",
        "cp:cp",
        _NODES,
        "Copy files to and from nodes.",
        "Copy files and directories between nodes and this machine. Modes and modification times are kept.",
        (Parameter("paths", "SOURCE... TARGET", "NODE:/PATH, or a path on this machine.", "node_paths"), _LAB),
        "labctl cp page.html server:/tmp/",
    ),
    Command(
        "env",
        "exec:env",
        _NODES,
        "Show how other tools reach a node.",
        "Print commands with which ip, nsenter and tcpdump reach a node.",
        (_NODE, _LAB),
        "labctl env server",
    ),
    Command(
        "link",
        "network:link",
        _NETWORK,
        "Take a link down or up; add delay, loss or a rate limit.",
        "Take the links between two nodes down, bring them up again, impair them, or show their state.\n\n"
        "`set` changes the given values for packets sent from now on, and leaves the others; `delay=0` removes one. "
        "`preset=4g` sets those of a kind of link, whose access is A's. `clear` removes all. For two hosts on one "
        "network these are values of packets from one to the other.",
        (
            Parameter("first", "A", "A node, or NODE:INTERFACE.", "node_names"),
            Parameter("second", "B", "The other node, or NODE:INTERFACE.", "other_ends"),
            Parameter("action", "[ACTION]", "What to do.", choices=("show", "down", "up", "set", "clear")),
            Parameter(
                "values", "[KEY=VALUE...]", "For set: delay=20ms, loss=1%, rate=10mbit, preset=4g, ...", "link_values"
            ),
            Parameter("sender", "--from NODE", "Only the packets that this node sends (default: all).", "node_names"),
            _LAB,
        ),
        "labctl link client server set delay=20ms loss=1%",
    ),
    Command(
        "fault",
        "fault:fault",
        _NETWORK,
        "Inject faults: partitions, flapping links, lost routes, ...",
        "Inject a fault into a running lab, list the faults, or heal them. A fault lasts until it is healed, its "
        "--for is over, or labctl up or down ends it.\n\n"
        "partition GROUP... (nodes with commas between them), isolate NODE..., blackhole DESTINATION..., "
        "down A B, flap A B, mtu A B BYTES, remove-address NODE ADDRESS, remove-route NODE PREFIX, "
        "pause and kill NODE/NAME..., dns NAME...; list; heal [NUMBER or NAME...]. Groups and labels stand for nodes.",
        (
            Parameter(
                "action",
                "[ACTION]",
                "A kind of fault, list or heal.",
                choices=(
                    "list",
                    "heal",
                    "partition",
                    "isolate",
                    "blackhole",
                    "down",
                    "flap",
                    "mtu",
                    "remove-address",
                    "remove-route",
                    "pause",
                    "kill",
                    "dns",
                ),
            ),
            Parameter("words", "[WORD...]", "What the fault is about.", "node_names"),
            Parameter("on", "--on NODE...", "For blackhole, dns: only these nodes (default: all).", "node_names"),
            Parameter("one_way", "--one-way", "For partition: only what the first group sends is lost."),
            Parameter("times", "--times N", "For flap: how often (default: until it is healed).", kind=int, minimum=1),
            Parameter("period", "--period DURATION", "For flap: from one time down to the next (default: 1s)."),
            Parameter("via", "--via ADDRESS", "For remove-route: only the routes through this gateway."),
            Parameter("port", "--port PORT", "For blackhole: only packets to this port, such as udp/53, or 53."),
            Parameter("duration", "--for DURATION", "Heal it after this time: 500ms, 10s."),
            Parameter("name", "--name NAME", "A name to heal it by."),
            Parameter("format", "-f, --format FORMAT", "json: of list.", choices=("table", "json")),
            _LAB,
        ),
        "labctl fault partition h1,h2 h3 --for 10s",
    ),
    Command(
        "ping",
        "network:ping",
        _NETWORK,
        "Show which hosts reach each other.",
        "Ping each host from each other host, by IPv4 and IPv6, and show the results as a table.\n\n"
        "With more than 100 nodes a sample of the pairs is tested, in which every node has the same number of pings.",
        (
            Parameter("nodes", "[NODE...]", "Ping between these nodes only.", "node_names"),
            Parameter("every", "--all", "Include routers."),
            Parameter("every_pair", "--every-pair", "Test all pairs, however many there are."),
            _LAB,
        ),
        "labctl ping client server",
        ("0 all addresses are reachable", "1 an address is unreachable"),
    ),
    Command(
        "sockets",
        "sockets:show_sockets",
        _NETWORK,
        "Show the sockets of all nodes, their queues and programs.",
        "Show the sockets of all nodes of a lab, as ss(8) shows those of one machine: state, ends, queues as bars, and "
        "the programs that have them open.\n\n"
        "The accept queue of a listener is `N of BACKLOG`; the kernel queues one connection more than the backlog.",
        (
            Parameter("nodes", "[NODE...]", "Only the sockets of these nodes; the first may be a lab.", "node_names"),
            Parameter("follow", "-f, --follow", "Refresh the table until Ctrl-C; in a pipe, print each change."),
            Parameter("listening", "-l, --listening", "Only listeners, and bound datagram sockets without a peer."),
            Parameter(
                "format", "--format FORMAT", "json includes all that the kernel reports.", choices=("table", "json")
            ),
            _LAB,
        ),
        "labctl sockets -f",
    ),
    Command(
        "capture",
        "capture:capture",
        _NETWORK,
        "Show the packets of a link, network or node.",
        "Show the packets of a link, network, node or interface as they cross it, one a line, with names of hosts and "
        "relative TCP numbers; or write them as pcapng, for Wireshark.\n\n"
        "It ends with Ctrl-C, after --for or --count, or with the lab, and prints the numbers of captured and lost "
        "packets. A FILTER is an expression of pcap-filter(7): `tcp port 5000`.",
        (
            Parameter("target", "TARGET", "NODE, NODE:INTERFACE, a network, or a link A-B.", "node_names"),
            Parameter("expression", "[FILTER...]", "Only packets that match, such as `udp` or `host 10.0.0.2`."),
            Parameter("write", "-w, --write FILE", "Write whole packets to FILE as pcapng; - is standard output."),
            Parameter("duration", "--for DURATION", "End after this time: 10s, 1m."),
            Parameter("count", "-c, --count N", "End after N packets.", kind=int, minimum=1),
            _LAB,
        ),
        "labctl capture client-server tcp port 5000",
    ),
    Command(
        "trace",
        "trace:trace",
        _NETWORK,
        "Record a lab: calls, packets and sockets on one timeline.",
        "Record a running lab until Ctrl-C, for a duration, or while a command runs on a node, and show what happened "
        "as a ladder: nodes as columns, packets as arrows between them.\n\n"
        "The command runs as with labctl exec, and its system calls on sockets are recorded, with those of its threads "
        "and children. The ladder then goes to standard error.",
        (
            Parameter("nodes", "[NODE...]", "Record these nodes (default: all); the first may be a lab.", "node_names"),
            Parameter("command", "[COMMAND...]", "A command to run on the node, traced.", "commands"),
            _LAB,
            Parameter("duration", "--for DURATION", "End after this time: 500ms, 10s, 2m."),
            Parameter("follow", "-f, --follow", "Show the ladder as it happens."),
            Parameter("packet_filter", "--filter EXPR", "Only packets that match: tcp port 80 (see pcap-filter(7))."),
            Parameter("html", "--html FILE", "Write the timeline as an HTML page.", kind=path, group=_REPORTS),
            Parameter("pcap", "--pcap FILE", "Write it as pcapng, for Wireshark.", kind=path, group=_REPORTS),
            Parameter("svg", "--svg FILE", "Write the ladder as a picture.", kind=path, group=_REPORTS),
            Parameter("json", "--json FILE", "Write all events as JSON.", kind=path, group=_REPORTS),
            Parameter("perfetto", "--perfetto FILE", "Write it for ui.perfetto.dev.", kind=path, group=_REPORTS),
        ),
        "labctl trace client -- curl http://server/",
        ("0 the recording has ended", *_OWN_STATUS),
        takes_command=True,
        failure_status=125,
    ),
    Command(
        "top",
        "top:top",
        _NETWORK,
        "Watch a lab: nodes, links, sockets, programs, logs.",
        "Show a running lab on the full screen and refresh it every second: nodes, links with throughput and lost "
        "packets, sockets with their queues, programs, and the tail of a log.\n\n"
        "Keys cut and heal the selected link, open a shell on the selected node, and show its packets; `?` lists them.",
        (_LAB_ARGUMENT, _LAB_AS_OPTION),
        "labctl top",
    ),
    Command(
        "doctor",
        "doctor:doctor",
        _SETUP,
        "Check whether this machine can run labs.",
        "Check whether this machine can run labs, and show a remedy for each problem.",
        (
            Parameter("every", "--all", "Show all checks, limits and optional programs."),
            Parameter("fix", "--fix", "Change by sudo the settings that prevent labs; print each command."),
            Parameter("format", "-f, --format FORMAT", "json includes all checks.", choices=("table", "json")),
        ),
        "labctl doctor",
        ("0 labs can run", "3 labs cannot run"),
    ),
    Command(
        "completion",
        "app:completion",
        _SETUP,
        "Print the completion script of a shell.",
        "Print the script that makes the Tab key complete commands, options, labs and nodes.",
        (Parameter("shell", "SHELL", "bash, zsh or fish.", choices=("bash", "zsh", "fish")),),
        'eval "$(labctl completion bash)"',
    ),
)
