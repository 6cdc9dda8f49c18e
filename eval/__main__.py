"""`python -m fewstep.eval` and `accelerate launch -m fewstep.eval` are `fewstep eval`."""

import sys

from fewstep.cli import main

main(["eval", *sys.argv[1:]], prog_name="fewstep")
