"""Rewards without a gradient on the embedded digits, by GRPO and DDPO, beside the exact gradient of a smooth stand-in.

    python tests/benchmarks/policies.py         # examples/policy_gradients.py three times, small: about 3 minutes of processor

Images before and after are of the same noise, none of which was trained on; the gain is paired. FD-digits is of 100 images to
the MNIST test set, which knows it to about 1.4: it shows what breaks, not what improves.
"""

from __future__ import annotations

import re
import subprocess
import sys

import click
import kept

SIZE = "--classes 4 --group 6 --nfe 4 --held-out 50 --images 100"
RUNS = {
    ("grpo", "ink"): "--rounds 5",
    ("ddpo", "ink"): "--rounds 5",
    ("exact", "ink"): "--rounds 5",
}
COLUMNS = ("method", "reward", "before", "after", "gain, standard errors", "read as asked", "FD-digits", "samples", "s")


def row(method: str, reward: str, output: str, samples: int) -> list[str]:
    """A line of the table, out of what the example prints."""
    values = re.findall(rf"{reward} ([-\d.]+) \+- [\d.]+, +(\d+%) as asked, FD-digits ([\d.]+)", output)
    gain = re.search(rf"{method}: ([+-][\d.]+), ([-\d.]+) standard errors; .* (\d+) s of processor", output)
    if len(values) != 2 or gain is None:
        raise click.ClickException(f"the example printed something else:\n{output}")
    (a, b, c), (d, e, f) = values
    told = [method, reward, a, d, f"{gain[1]}, {gain[2]}", f"{b} to {e}", f"{float(c):.1f} to {float(f):.1f}"]
    return [*told, str(samples), gain[3]]


@click.command()
@kept.keep
def main(keep: bool) -> None:
    rows = []
    for (method, reward), rounds in RUNS.items():
        example = str(kept.ROOT / "examples" / "policy_gradients.py")
        arguments = ["--method", method, "--reward", reward, *rounds.split(), *SIZE.split()]
        out = subprocess.run(
            [sys.executable, example, *arguments, "--out", f"policies-{method}.png"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows.append(row(method, reward, out.stdout, 24 * int(rounds.split()[1])))
    kept.show("policies", COLUMNS, rows, keep)


if __name__ == "__main__":
    main()
