"""Which simulated engine does the command line ask for?"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import sys

import uvloop

from engines.sim import faults
from engines.sim.api.model import Served
from engines.sim.scheduler import Limits, Timing
from engines.sim.server import RunningServer, run
from engines.sim.settings import FaultSettings, Settings

_UNITS_S = {"": 0.001, "ms": 0.001, "s": 1.0}


def duration_s(text: str) -> float:
    """Return seconds of `20`, `20ms` (milliseconds, as with llm-d-inference-sim) or `1.5s`."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(ms|s|)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r} (try 20ms or 1.5s)")
    return float(match[1]) * _UNITS_S[match[2]]


def _fault(text: str) -> faults.Faults:
    try:
        return faults.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _fault_types(text: str) -> tuple[faults.Faults, ...]:
    try:
        return faults.parse_types(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _percent(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError("must be a percentage from 0 to 100")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engines.sim",
        description="A simulated vLLM engine: its API, its timing, its failures, no model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_server(parser.add_argument_group("server"))
    _add_engine(parser.add_argument_group("engine"))
    _add_faults(parser.add_argument_group("faults"))
    return parser


def _add_server(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1")
    group.add_argument("--port", type=int, default=8000, help="0 lets the system choose")
    group.add_argument("--api-key", help="bearer token that /v1 routes require")
    group.add_argument("--keep-alive-s", type=float, default=5.0, help="idle connections close")
    group.add_argument("--startup-duration", type=duration_s, default="0s", help="port closed for")
    group.add_argument("--shutdown-timeout", type=float, default=0.0, help="drain, in seconds")
    group.add_argument("--enable-request-id-headers", action="store_true")
    group.add_argument("--lenient", action="store_true", help="refuse no more than a mock would")
    group.add_argument("--ready-line", action="store_true", help="print one JSON line when ready")
    group.add_argument("--log-level", default="warning", choices=("debug", "info", "warning"))


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="sim", help="model id")
    group.add_argument("--served-model-name", nargs="+", help="names; '*' serves any name")
    group.add_argument("--max-model-len", type=_positive, default=32768)
    group.add_argument("--max-num-seqs", type=_positive, default=256)
    group.add_argument("--max-num-queued-reqs", type=int, help="503 beyond; default: no limit")
    group.add_argument("--block-size", type=_positive, default=16)
    group.add_argument("--num-gpu-blocks", type=_positive, help="default: 4 full contexts")
    group.add_argument("--no-enable-prefix-caching", action="store_true")
    group.add_argument("--seed", type=int, default=0)
    # As text: argparse reads it as it reads what is given, and help shows it with its unit.
    for name, default in (
        ("--time-to-first-token", "20ms"),
        ("--inter-token-latency", "5ms"),
        ("--prefill-time-per-token", "0.02ms"),
        ("--time-to-first-token-std-dev", "0ms"),
        ("--inter-token-latency-std-dev", "0ms"),
    ):
        group.add_argument(name, type=duration_s, default=default, help="ms, or with a unit")
    group.add_argument("--time-factor-under-load", type=float, default=2.0)


def _add_faults(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--fault", type=_fault, default=faults.NONE, help="spec for every request")
    group.add_argument("--allow-fault-headers", action="store_true", help="obey x-sim-fault")
    group.add_argument("--failure-injection-rate", type=_percent, default=0.0)
    group.add_argument("--failure-types", type=_fault_types, default=faults.parse_types(""))


def parse_settings(arguments: list[str]) -> tuple[Settings, argparse.Namespace]:
    """Return the settings that the arguments describe; SystemExit with a message for wrong ones."""
    given = _parser().parse_args(arguments)
    context_blocks = math.ceil(given.max_model_len / given.block_size)
    settings = Settings(
        served=Served(
            tuple(given.served_model_name or (given.model,)),
            given.model,
            given.max_model_len,
            given.seed,
        ),
        host=given.host,
        port=given.port,
        timing=Timing(
            first_token_s=given.time_to_first_token,
            inter_token_s=given.inter_token_latency,
            # An engine asked to be instant does not charge for prompts either.
            prefill_token_s=given.prefill_time_per_token if given.time_to_first_token else 0.0,
            load_factor=given.time_factor_under_load,
            first_token_deviation_s=given.time_to_first_token_std_dev,
            inter_token_deviation_s=given.inter_token_latency_std_dev,
        ),
        limits=Limits(
            given.max_num_seqs,
            given.max_num_queued_reqs,
            given.block_size,
            given.num_gpu_blocks or 4 * context_blocks,
        ),
        prefix_caching=not given.no_enable_prefix_caching,
        api_key=given.api_key,
        faults=FaultSettings(
            given.fault,
            given.failure_injection_rate,
            given.failure_types,
            given.allow_fault_headers,
        ),
        startup_s=given.startup_duration,
        shutdown_timeout_s=given.shutdown_timeout,
        keep_alive_s=given.keep_alive_s,
        request_id_headers=given.enable_request_id_headers,
        lenient=given.lenient,
    )
    return settings, given


def main() -> int:
    """Run one engine until it is told to stop; return the exit status."""
    settings, given = parse_settings(sys.argv[1:])
    logging.basicConfig(
        level=given.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )

    def announce(server: RunningServer) -> None:
        if given.ready_line:
            ready = {"host": server.host, "port": server.port, "pid": os.getpid()}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()

    try:
        uvloop.run(run(settings, announce))
    except OSError as error:
        sys.stderr.write(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
