"""Which rows of the fault table are measured here, and by what?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.integration.faults import (
    clients,
    clocks,
    death,
    draining,
    flapping,
    malformed,
    overload,
    pools,
    refusals,
    reloads,
    soak,
    timers,
)
from tests.integration.faults.figure import Measure


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    fault: str
    measure: Measure


ROWS: Mapping[str, Row] = {
    "1": Row("kill -9 of one of three at 50 requests/s", death.row_01),
    "2": Row("it returns", death.row_02),
    "3": Row("one host answers 500 at once", refusals.row_03),
    "4": Row("all hosts answer 500", refusals.row_04),
    "5": Row("overloaded hosts: 429, 503", refusals.row_05),
    "6": Row("connect black hole; half-open mid-stream", timers.row_06),
    "7": Row("head, then silence; tokens, then silence", timers.row_07),
    "8": Row("broken streams and answers", malformed.row_08),
    "9": Row("huge head; never-ending event", malformed.row_09),
    "10": Row("upstream closes idle connections", pools.row_10),
    "11": Row("200 clients leave mid-stream", pools.row_11),
    "12": Row("slow readers of long streams", clients.row_12),
    "13": Row("slow-loris, slow bodies, slow readers", clients.row_13),
    "14": Row("SIGTERM under load", draining.row_14),
    "15": Row("reloads under load", reloads.row_15),
    "19": Row("wall clock ± 1 h", clocks.row_19),
    "20": Row("EMFILE at 256 descriptors", clients.row_20),
    "21": Row("3x overload", overload.row_21),
    "22": Row("client deadline of 2 s", timers.row_22),
    "23": Row("every endpoint dies, then returns", death.row_23),
    "25": Row("soak, half of the clients cancelling", soak.row_25),
    "sdk": Row("a provider that flaps", flapping.flap),
}
"""By the row's number; `sdk` is the catalogue of provider faults."""


@dataclass(frozen=True, slots=True)
class Tested:
    """What is wanted beside the rows' figures, or is no row at all, and the file that tests it."""

    row: str
    """Its key among the rows."""
    fault: str
    wanted: str
    path: str


_HERE = "tests/integration/faults"

TESTED: Sequence[Tested] = (
    Tested(
        "1",
        "kill -9 under 200 streams; the same with real vLLM",
        "no failure; the uninterrupted text",
        f"{_HERE}/test_survival.py",
    ),
    Tested(
        "8",
        "broken streams: LangChain, openai-node, AI SDK",
        "all raise",
        "tests/integration/test_cut_streams.py",
    ),
    Tested(
        "14",
        "SIGTERM under a WebSocket",
        "the answer, then 1012",
        f"{_HERE}/test_drain.py",
    ),
    Tested(
        "21",
        "overload: priorities, tenants, deadlines, leavers",
        "who should be served is",
        f"{_HERE}/test_overload.py",
    ),
    Tested(
        "sdk",
        "the catalogue of provider faults",
        "the whole answer in bounded time",
        f"{_HERE}/test_catalogue.py",
    ),
)
