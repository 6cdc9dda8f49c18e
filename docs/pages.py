"""What the pages show of the code itself, made when the site is built: `<!-- word: argument -->` becomes text.

    measured: NAME      the table of docs/measured/NAME.json, with its command and its date
    names: PROJECT      what the names of docs/names_of_others.json mean here
    registry: KIND      solvers, grids, learners, metrics, guidance: a line for each entry
    commands            the commands with their first sentence
    examples            a section for each page of examples/, from its docstring
    contributing        the pages of CONTRIBUTING.md, one for each kind of thing
    api: MODULE         every public name of a module, from its stub

A figure is never typed into a page: it lies in a JSON, which `make bench` writes.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
MATHS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
MARK = re.compile(r"^<!-- (\w+)(?:: ([\w.-]+))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with every mark replaced: called by mkdocs."""
    return filled(markdown)


def filled(markdown: str) -> str:
    """The text with what its marks stand for. KeyError for a mark that nobody knows."""
    made = MARK.sub(lambda found: MAKERS[found[1]](*filter(None, [found[2]])), markdown)
    parts = CODE.split(made)  # formulas are no code: every second part is
    return "".join(part if k % 2 else MATHS.sub(formula, part) for k, part in enumerate(parts))


def formula(found: re.Match[str]) -> str:
    """LaTeX between dollars as MathML, which browsers draw by themselves."""
    from latex2mathml.converter import convert

    made = str(convert((found[1] or found[2]).strip(), display="block" if found[1] else "inline"))
    return made if found[1] else f"<span>{made}</span>"  # a line that begins with a formula goes on


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def measured(name: str) -> str:
    """The table of a measurement, where and when it was made."""
    told = json.loads((ROOT / "docs" / "measured" / f"{name}.json").read_text(encoding="utf-8"))
    body = told["rows"] if not told.get("code") else [[f"`{row[0]}`", *row[1:]] for row in told["rows"]]
    return f"{table(told['columns'], body)}\n\n<small>`{told['command']}`, {told['measured']}</small>"


def names(project: str) -> str:
    """What another project's names mean."""
    from fewstep.samplers.building.names import solver_of
    from fewstep.samplers.grids.making import find

    known = json.loads((ROOT / "docs" / "names_of_others.json").read_text(encoding="utf-8"))[project]
    if project == "diffusers":
        import diffusers.schedulers

        known = {"solvers": sorted(n for n in dir(diffusers.schedulers) if n.endswith("Scheduler"))}
    rows = []
    for name in known.get("solvers", ()):
        try:
            entry, grid = solver_of(name.removeprefix("sample_"))
            bound = ", ".join(f"{k}={v!r}" for k, v in dict(entry.bound).items())
            means = f"`{entry.name}`" + (f" with `{bound}`" if bound else "") + (f" on `{grid}`" if grid else "")
        except ValueError as why:
            means = "no solver here: " + str(why).partition(": ")[2]
        rows.append((f"`{name}`", means))
    rows += [(f"`{name}`", f"grid `{find(name)[0].name}`") for name in known.get("grids", ())]
    rows += [(f"`{name}`", means) for name, means in known.get("words", {}).items()]
    return table(("theirs", "here"), rows)


def registry(kind: str) -> str:
    """A line for each entry of a registry: its name, and the first line of what it says of itself."""
    from fewstep.eval import METRICS as metrics
    from fewstep.samplers import GRIDS, SOLVERS
    from fewstep.samplers.guidance import GUIDANCE
    from fewstep.samplers.learned import METHODS

    found: Any = {"solvers": SOLVERS, "grids": GRIDS, "learners": METHODS, "metrics": metrics, "guidance": GUIDANCE}[
        kind
    ]
    rows = [(f"`{name}`", first_line(entry)) for name, entry in found.items()]
    return table(("name", "what it is"), rows)


def first_line(entry: Any) -> str:
    """Of an entry's docstring."""
    thing = next(
        (
            getattr(entry, at)
            for at in ("function", "fn", "build", "run", "rule", "make", "compute")
            if getattr(entry, at, None)
        ),
        entry,
    )
    return (thing.__doc__ or "").strip().partition("\n")[0]


def commands() -> str:
    """The commands of `fewstep`."""
    import click

    from fewstep.cli import main

    context = click.Context(main)
    found = [(name, main.get_command(context, name)) for name in main.list_commands(context)]
    return table(("command", "what it does"), [(f"`fewstep {n}`", c.get_short_help_str(200)) for n, c in found if c])


def examples() -> str:
    """Every example that is a page to run: what it shows, how it is called."""
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if f"python examples/{path.name}" not in told:
            continue  # a helper of another
        title, _, rest = told.partition("\n")
        calls = "\n".join(line.strip() for line in rest.splitlines() if line.strip().startswith("python "))
        prose = "\n".join(line for line in rest.splitlines() if not line.strip().startswith("python ")).strip()
        picture = PICTURES.get(path.stem)
        shown = f"\n\n![{title}]({picture})" if picture else ""
        parts.append(f"## {path.stem}\n\n{title}\n\n```sh\n{calls}\n```\n\n{prose}{shown}")
    return "\n\n".join(parts)


PICTURES = {"optimise_noise": "noise.png", "restore_digits": "restored.png", "plug_into_pipeline": "samples.png"}


def contributing() -> str:
    """CONTRIBUTING.md from the first kind of thing on."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text[text.index("A new kind of anything") :]


def api(module: str) -> str:
    """mkdocstrings' marks for what a face makes public, as its stub lists it: `samplers` for fewstep.samplers."""
    import inspect
    from importlib import import_module

    shown, values, told = [], [], {} if module == "fewstep" else public("fewstep")
    for name, home in public(module).items():
        if told.get(name) == home:
            shown.append(f"[`{name}`](fewstep.md#{home}) is one of the first names.")
            continue
        where, _, own = home.rpartition(".")
        thing = getattr(import_module(where), own)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            shown.append(f"::: {home}")
        else:
            said = f"the {thing.kind}s by name, {len(thing)} of them" if hasattr(thing, "homes") else f"`{thing!r}`"
            values.append((f"`{name}`", said))
    listed = f"## Values\n\n{table(('name', 'what it is'), values)}" if values else ""
    return "\n\n".join([*shown, listed])


def public(module: str) -> dict[str, str]:
    """Public names of a face -> where each is defined."""
    stub = ROOT.joinpath("fewstep", *([] if module == "fewstep" else module.split(".")), "__init__.pyi")
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update({a.asname or a.name: f"{node.module}.{a.name}" for a in node.names})
    modules = {name for name in found if (ROOT / found[name].replace(".", "/") / "__init__.py").exists()}
    return {name: home for name, home in found.items() if name not in modules and not name.startswith("_")}


MAKERS: dict[str, Callable[..., str]] = {
    f.__name__: f for f in (measured, names, registry, commands, examples, contributing, api)
}
