"""Files with a few of their bits or bytes changed, and what a reader makes of them."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DIGITS = b"0123456789"


def damaged(data: bytes, number: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(what was done, the bytes after it): a bit turned, a byte or a digit replaced, an end cut off, bytes doubled."""
    chance = random.Random(seed)
    digits = [i for i, byte in enumerate(data) if byte in DIGITS]
    for k in range(number):
        hit = bytearray(data)
        at = chance.randrange(len(data))
        kind = ("bit", "digit", "byte", "bit", "digit", "cut", "twice")[k % 7]
        if kind == "bit":
            hit[at] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            hit[at] = chance.randrange(256)
        elif kind == "digit" and digits:
            at = chance.choice(digits)
            hit[at] = chance.choice(DIGITS)
        elif kind == "cut":
            del hit[at:]
        else:
            hit[at:at] = hit[at : at + chance.randrange(1, 40)]
        if hit != data:
            yield f"{kind} at {at} of {len(data)}", bytes(hit)


def outcomes(file: Path, read: Callable[[], Any], number: int, seed: int = 0) -> Counter[str]:
    """How often a damaged `file` was refused in words or found to hold the same; AssertionError for anything else.

    read: gives what is in the file, as something that can be compared. The file is put back at the end.
    """
    whole, expected = file.read_bytes(), read()
    assert read() == expected, "a file is read the same twice"
    found: Counter[str] = Counter()
    try:
        for what, data in damaged(whole, number, seed):
            file.write_bytes(data)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    got = read()
            except ValueError as error:
                assert file.name in str(error) or file.parent.name in str(error), f"{what}: which file? {error}"
                found["refused"] += 1
                continue
            except Exception as error:
                raise AssertionError(f"{file.name}, {what}: {error!r}") from error
            assert got == expected, f"{file.name}, {what}: something else was read"
            found["same"] += 1
    finally:
        file.write_bytes(whole)
    return found


def hold(kind: Callable[[Path], tuple[Path, Callable[[], Any]]], number: int, folder: Path) -> None:
    """Of a kind of file: what was changed is refused, or read as the same."""
    file, read = kind(folder)
    found = outcomes(file, read, number, seed=number)
    assert found["refused"] > 0.8 * found.total()
