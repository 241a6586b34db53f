"""How large an engine's response head may be, however its bytes come."""

from __future__ import annotations

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.gateway.wire.test_contract_errors import check
from tests.support.engine import Script, Then, response

LARGE = response(fields=[(b"x-large", b"a" * (100 << 10))])
FITTING = response(b'"' + b"b" * (200 << 10) + b'"', fields=[(b"x-large", b"a" * (60 << 10))])


@pytest.mark.parametrize(
    "script",
    [[LARGE], [LARGE[: 80 << 10], Then.YIELD, LARGE[80 << 10 :]], [LARGE[:-20], Then.HANG]],
    ids=["at once", "in two pieces", "never whole"],
)
async def test_a_head_past_64_kib_is_no_answer(serve: MakeRig, script: Script) -> None:
    """502, also where one read brings all of it."""
    async with serve(script) as rig:
        check(await rig.post(), 502, "upstream_error")


async def test_a_large_body_does_not_count_as_head(serve: MakeRig) -> None:
    """Head and body in one read: only the head is measured."""
    async with serve([FITTING]) as rig:
        answer = await rig.post()
        assert answer.status == 200
        assert len(answer.body) == (200 << 10) + 2
