"""A file carries the sha256 of its content, so that what was changed after it was written is not taken for what was written.

JSON by its content:         "sha256" = sha256 of the shortest JSON with sorted keys of everything else.
Safetensors by their bytes:  metadata "sha256" = sha256 of the whole file with 64 zeros in that place.
Arrays of an archive:        sha256 of names, dtypes, shapes and bytes, which the archive keeps as one more of them.

A file without a seal was made by hand, by another tool or by an earlier release: who reads it checks what can be checked.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fewstep.output.files import not_written, whole

SEAL = "sha256"
OPEN = "0" * 64  # where a safetensors file will be told its sha256
AGAIN = "Write it again, or take it from where it is whole"
BY_HAND = f'Write it again, or remove its "{SEAL}" entry if the change was meant to be'
_PLACE = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_PIECE = 1 << 20  # bytes read at once
_LONGEST_HEADER = 100 << 20  # of safetensors


class Damaged(ValueError):
    """A file whose content is not what was written."""


def digest(content: Any, default: Callable[[Any], Any] | None = None) -> str:
    """sha256 of a content's shortest JSON with sorted keys; default: how JSON takes what it does not know."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":"), default=default).encode()
    ).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON content with its seal as the last entry; the content must be plain JSON already."""
    own = {key: value for key, value in content.items() if key != SEAL}
    return {**own, SEAL: digest(own)}


def unsealed(
    content: Mapping[str, Any],
    name: Any,
    *,
    remedy: str = AGAIN,
    known: Collection[str] | None = None,
    required: bool = False,
) -> dict[str, Any]:
    """A JSON content without its seal, which was found to be right where there is one.

    name: of the file, for the sentence. required: a content without a seal is refused, as one always is whose seal has all but
    its name. known: the entries there may be.
    """
    own = {key: value for key, value in content.items() if key != SEAL}
    if SEAL in content and content[SEAL] != digest(own):
        raise changed(name, remedy)
    if known is not None and not set(own) <= set(known):
        odd = ", ".join(repr(key) for key in own if key not in known)
        raise Damaged(f"{name} has entries that no such file has, {odd[:80]}: it was changed or damaged. {remedy}")
    if SEAL not in content and get_close_matches(SEAL, own, cutoff=0.7):
        raise changed(name, remedy)
    if required and SEAL not in content:
        raise Damaged(f"{name} carries no sha256 of its content, which this version writes. {remedy}")
    return own


def changed(name: Any, remedy: str = AGAIN) -> Damaged:
    """The sentence for a file whose content has another sha256 than it carries."""
    return Damaged(
        f"{name} was changed or damaged after it was written: its content has another sha256 than it carries. {remedy}"
    )


def digest_of_file(path: str | os.PathLike[str], size: int | None = None) -> str:
    """sha256 of a file's bytes, or of the first `size` of them; Damaged where there are fewer."""
    found, left = hashlib.sha256(), size
    with open(path, "rb") as stream:
        while left != 0:
            piece = stream.read(_PIECE if left is None else min(_PIECE, left))
            if not piece:
                break
            found.update(piece)
            left = None if left is None else left - len(piece)
    if left:
        raise Damaged(f"{path} is {left} bytes shorter than it was written. {AGAIN}")
    return found.hexdigest()


def digest_of_arrays(arrays: Mapping[str, Any]) -> str:
    """sha256 of numpy arrays by name: names, dtypes, shapes and bytes, in the order of the names; `SEAL` is left out."""
    found = hashlib.sha256()
    for name in sorted(set(arrays) - {SEAL}):
        array = arrays[name]
        found.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _header(path: Path) -> tuple[bytes, int]:
    """The header of a safetensors file, and where it begins."""
    if path.exists() and not path.is_file():
        raise Damaged(f"{path} is no ordinary file")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return (stream.read(length) if length <= _LONGEST_HEADER else b""), 8


def _place(path: Path) -> tuple[int, str] | None:
    """(offset, digits) of a safetensors file's seal, None where it has none or several."""
    header, begin = _header(path)
    found = list(_PLACE.finditer(header))
    return (begin + found[0].start(1), found[0][1].decode()) if len(found) == 1 else None


def _digest_around(path: Path, offset: int) -> str:
    """sha256 of a file with 64 zeros at `offset`."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        found.update(stream.read(offset) + OPEN.encode())
        stream.seek(offset + len(OPEN))
        while piece := stream.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


@contextmanager
def whole_tensors(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`whole` for a safetensors file: the block writes it with {SEAL: OPEN} among its metadata, then it is sealed."""
    with whole(path) as part:
        try:
            yield part
        except SafetensorError as error:  # how safetensors tells of a full disk
            raise not_written(path, error) from error
        seal_tensors(part)


def seal_tensors(path: str | os.PathLike[str]) -> None:
    """Seal a safetensors file whose metadata say {SEAL: OPEN}, in its place: for use within `whole`."""
    file = Path(path)
    place = _place(file)
    assert place is not None and place[1] == OPEN, f"{file} has no open seal"
    code = _digest_around(file, place[0])
    with file.open("r+b") as stream:
        stream.seek(place[0])
        stream.write(code.encode())


def check_tensors(path: str | os.PathLike[str], *, remedy: str = AGAIN, required: bool = False) -> bool:
    """Whether a safetensors file is sealed; Damaged where its bytes are others than were sealed."""
    place = _place(Path(path))
    if place is None:
        if required:
            raise Damaged(
                f"{path} carries no sha256 of its content, which this version writes: it is damaged. {remedy}"
            )
        return False
    if _digest_around(Path(path), place[0]) != place[1]:
        raise changed(path, remedy)
    return True
