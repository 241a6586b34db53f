"""That a fake which is not like the real library is found out."""

from __future__ import annotations

import pytest

from scripts.fakes import differences

REAL = """
cudaFlag: int = 4
class Code:
    FINE = 0
class Context:
    def shape(self, name: str) -> int: ...
    def run(self, stream: int) -> bool: ...
    @property
    def size(self) -> int: ...
    @staticmethod
    def of(name: str) -> Context: ...
def cudaFree(address) -> tuple[Code]: ...
"""


@pytest.mark.parametrize(
    ("fake", "found"),
    [
        ("class Context:\n def run(self, stream): ...\n def _own(self): ...", []),
        (
            "class Context:\n @property\n def size(self): ...\n @staticmethod\n def of(name): ...",
            [],
        ),
        ("class Code:\n FINE = 0", []),
        ("class Mine:\n def run(self): ...\ndef mine(): ...\nMINE = 3", []),
        (
            "class Fake:\n cudaFlag = 4\n def cudaFree(self, address): ...\n def leaks(self): ...",
            [],
        ),
        ("class Context:\n def run_v2(self, stream): ...", ["Context.run_v2 is not in"]),
        ("class Context:\n def run(self, handle): ...", ["Context.run takes [('handle',)]"]),
        ("class Context:\n def run(self, stream, wait): ...", ["Context.run takes"]),
        ("class Code:\n FINE = 1", ["Code.FINE is 1, in the bindings 0"]),
        ("class Code:\n BAD = 1", ["Code.BAD is not in"]),
        ("class Fake:\n cudaFlag = 5", ["cudaFlag is 5, in the bindings 4"]),
        ("class Fake:\n def cudaFree(self, pointer): ...", ["cudaFree takes [('pointer',)]"]),
        ("class Fake:\n def cudaFreeAll(self): ...", ["cudaFreeAll is not in"]),
    ],
)
def test_what_the_real_library_has_not_is_named(fake: str, found: list[str]) -> None:
    named = list(differences(fake, REAL, "Fake"))
    assert len(named) == len(found)
    assert all(one.startswith(start) for one, start in zip(named, found, strict=True))
