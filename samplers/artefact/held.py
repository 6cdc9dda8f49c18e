"""Plain JSON within a config that remembers what it was read into, so that it is read, proved and hashed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Held(dict[str, Any]):
    """A dict for reading only, equal to the JSON of `made` (a Tableau or an Artefact); a copy is the dict itself."""

    def __init__(self, content: Mapping[str, Any], made: Any) -> None:
        super().__init__(content)
        self.made = made

    def __deepcopy__(self, memo: object) -> Held:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.made)
