"""Where does `python -m vision` begin?"""

from __future__ import annotations

from vision.cli import build


def main() -> None:
    """Run the command line; exits with 0, 1 (something is wrong) or 2 (called wrongly)."""
    build()(prog_name="python -m vision")


if __name__ == "__main__":
    main()
