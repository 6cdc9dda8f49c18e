"""`python -m fewstep` is the `fewstep` command."""

import sys

from fewstep.lazy import optional


def start() -> None:
    """The command, or the sentence that says what it needs."""
    try:
        with optional("the command line"):
            from fewstep.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"Error: {error}")
    main(prog_name="fewstep")


if __name__ == "__main__":
    start()
