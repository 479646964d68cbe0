"""`labctl ping`: which host reaches which, in both families, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from labctl.cli.labs import attach, check_node
from labctl.report.reachability import render
from labctl.report.screen import standard_output
from labctl.report.waiting import waiting

EXIT_UNREACHABLE = 1


def show_reachability(nodes: Sequence[str], *, routers: bool, every_pair: bool, lab_name: str | None) -> int:
    """Prints the matrix of the hosts (`routers`: and routers; or of `nodes`); 1 when an address is unreachable.

    Of many nodes a sample of the pairs is tested, unless `every_pair` is.
    """
    from labctl.observe.reachability import attempt, is_sample, pairs, talking

    with attach(lab_name) as lab:
        for node in nodes:
            check_node(lab, node)
        plan = lab.describe().plan
        chosen = list(dict.fromkeys(nodes)) or talking(plan, routers=routers)
        asked = pairs(plan, chosen, every_pair=every_pair)
        with waiting(f"sending {len(asked)} pings in lab {lab.name}"):
            tries = attempt(lab, plan, asked)
    screen = standard_output()
    screen.write(render(chosen, tries, screen.look, sampled=is_sample(chosen, every_pair=every_pair)))
    return EXIT_UNREACHABLE if any(each.problem for each in tries) else 0
