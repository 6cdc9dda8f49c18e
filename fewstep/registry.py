"""Registries: things of one kind by name, the library's own and what other packages bring.

The library's own entries live in modules that are imported when somebody looks for a name, one after another until it is
there, or all of them for a list. Others come at any time: by a decorator (`@fewstep.samplers.solver(...)`), or with an
installed package whose metadata name a module in the entry-point group `fewstep`:

    [project.entry-points.fewstep]
    mine = "my_package.solvers"    # importing it registers
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from threading import RLock
from typing import Any, Generic, TypeVar

from fewstep.checks import unknown

GROUP = "fewstep"  # of entry points
E = TypeVar("E")


def source_of(thing: Any) -> str:
    """The source of a function, of a class or of an object's class, by which one from outside is told from what it was.

    Of one that was typed at a prompt its `repr`: nothing of it is found again by another process.
    """
    try:
        return inspect.getsource(thing if hasattr(thing, "__qualname__") else type(thing))
    except (OSError, TypeError):
        return repr(thing)


def plain(name: str) -> str:
    """A name without case, spaces, dashes and underscores: "DPM++ 2M" -> "dpm++2m"."""
    return re.sub(r"[\s_\-]+", "", name.lower())


class Registry(Mapping[str, E], Generic[E]):
    """Entries of one kind by name, in the order of their modules, then of their coming.

    Args:
        kind: what an entry is, in a word for messages. entry: its class. homes: modules of the library that register its
            own entries, the most asked for first. register: how outsiders register, for messages.
    """

    def __init__(self, kind: str, entry: type[E], homes: Iterable[str] = (), register: str = "") -> None:
        self.kind, self.entry, self.register = kind, entry, register
        self.homes = tuple(homes)
        self.edition = 0  # grows when a name changes its meaning: what is cached by name ends with it
        self._entries: dict[str, tuple[str, E]] = {}  # name -> (module, entry)
        self._aliases: dict[str, str] = {}  # plain spelling -> name
        self._pending, self._lock = list(self.homes), RLock()

    def add(self, name: str, entry: E, module: str, aliases: Iterable[str] = ()) -> None:
        """Register an entry that `module` defines; the same module may define it again, as notebooks do.

        Raises:
            ValueError: a name that is no word or is taken, an entry of another kind.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise ValueError(f"the name of a {self.kind} is a word of letters, digits and _; got {name!r}")
        if not isinstance(entry, self.entry):
            raise ValueError(
                f"{name!r} is no {self.kind} but {type(entry).__name__}; register one with {self.register or self.entry}"
            )
        if module not in self.homes:
            self._load_all()  # whoever comes from outside meets all names of the library
        spelled = [name, *aliases]
        for one in spelled:
            owner = self._aliases.get(plain(one))
            if owner is not None and (owner != name or self._entries[owner][0] != module or module in self.homes):
                raise ValueError(
                    f"{self.kind} {one!r} exists already, by {self._entries[owner][0]}: take another name"
                    + ("" if self._own(owner) else f", or first take that one away with .remove({owner!r})")
                )
        self.edition += name in self._entries
        self._entries[name] = (module, entry)
        self._aliases.update({plain(one): name for one in spelled})

    def remove(self, name: str) -> None:
        """Forget an entry that came from outside; ValueError for one of the library's own or an unknown name."""
        self.find(name)
        if self._own(name):
            raise ValueError(f"{self.kind} {name!r} belongs to the library and stays")
        del self._entries[name]
        self._aliases = {alias: owner for alias, owner in self._aliases.items() if owner != name}
        self.edition += 1

    def named(self, name: str) -> str | None:
        """The registered name of a spelling or alias; None for one nobody knows."""
        return self._sought(lambda: name if name in self._entries else self._aliases.get(plain(name)))

    def find(self, name: Any) -> E:
        """The entry of that name or alias; ValueError with near names for an unknown one."""
        found = self.named(name) if isinstance(name, str) else None
        if found is None:
            raise unknown(self.kind, name, self)
        return self._entries[found][1]

    def _own(self, name: str) -> bool:
        return self._entries[name][0] in self.homes

    def _sought(self, known: Callable[[], str | None]) -> str | None:
        """What `known` tells, as soon as it tells something: of the library's modules, then of plugins."""
        found = known()
        while found is None and self._load_next():
            found = known()
        if found is None:
            load_plugins()
            found = known()
        return found

    def _load_next(self) -> bool:
        """Import the next module of ours; False where none is left. Another thread waits until it is there."""
        with self._lock:
            if not self._pending:
                return False
            home = self._pending.pop(0)  # first: a module that looks while it is imported goes on with the next one
            try:
                import_module(home)
            except BaseException:
                self._pending.insert(0, home)  # the next look tells the same
                raise
            return True

    def _load_all(self) -> None:
        while self._load_next():
            pass

    def _in_order(self) -> tuple[str, ...]:
        """All names: the library's by its modules, whichever was imported first, then others as they came."""
        self._load_all()
        load_plugins()
        place = {home: i for i, home in enumerate(self.homes)}
        return tuple(sorted(self._entries, key=lambda name: place.get(self._entries[name][0], len(place))))

    def __getitem__(self, name: str) -> E:
        if self._sought(lambda: name if name in self._entries else None) is None:
            raise KeyError(name)
        return self._entries[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_order())

    def __len__(self) -> int:
        return len(self._in_order())

    def __repr__(self) -> str:
        return f"<{len(self)} of kind {self.kind}: {', '.join(self)}>"


_loaded = False


def load_plugins() -> None:
    """Import the modules that installed packages name in the entry-point group, once; a broken one is a warning."""
    global _loaded
    if _loaded:
        return
    _loaded = True  # first: a plugin that looks into a registry comes here again
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"the plugin {point.name} = {point.value} could not be loaded ({type(error).__name__}: {error}); what it "
                "registers is missing. Mend or uninstall it",
                stacklevel=3,
            )
