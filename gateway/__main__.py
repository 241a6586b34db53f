"""Where does the `sluice` command begin?"""

from __future__ import annotations

from gateway.cli.root import build


def main() -> None:
    """Run the command line; exits with 0, 1 (something is wrong) or 2 (called wrongly)."""
    build()(prog_name="sluice")


if __name__ == "__main__":
    main()
