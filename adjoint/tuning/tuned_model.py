"""What tuning leaves behind: weights and the table that they are for, bound to each other.

tuned.json               what was asked for, measured and decided; the table that the weights are known by; sealed
table.json               the table as an artefact, whose domain is these weights
weights.safetensors      all weights, or
pytorch_lora_weights.safetensors     the low-rank parts, as `pipe.load_lora_weights(folder)` reads them too
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module

from fewstep.adjoint.tuning.low_rank import merged
from fewstep.adjoint.tuning.trained_weights import networks_to_train
from fewstep.output.files import write_text
from fewstep.output.seal import OPEN, SEAL, Damaged, check_tensors, sealed, unsealed, whole_tensors
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.table.jsonfile import plainly, read, understood
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.validity.bound_weights import FILE, bind, bound, told_of

FORMAT, VERSION = "fewstep.tuned", 1
TABLE = "table.json"
FILES = {"all": "weights.safetensors", "trainable": "weights.safetensors", "lora": "pytorch_lora_weights.safetensors"}


@dataclass(frozen=True, eq=False)
class Tuned:
    """Tuned weights with their table.

    Attributes:
        artefact: the table, for `sample` and a Scheduler. kind: "all", "lora" or "trainable".
        tensors: by name, "NETWORK.parameter": the weights, or their low-rank parts. networks: names of what was trained.
        status: "tuned", or "no-gain": they are not certainly better than those of before, which then stay.
        report: JSON, what was measured on untouched seeds. provenance: JSON, how it was made.
    """

    artefact: Artefact
    kind: str
    tensors: Mapping[str, Tensor]
    networks: tuple[str, ...]
    status: str
    report: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def table(self) -> Tableau:
        """The table that the weights are for."""
        return self.artefact.tables[0].tableau

    def apply(self, model: Any, networks: Any = None, refused: bool = False) -> Any:
        """The same pipeline, Denoiser or Module with these weights in it, which then know their table.

        networks: as of `tune`, for a Denoiser whose function is no Module. refused: take weights of status "no-gain" too,
        which otherwise leave the model as it is, with a warning.

        Raises:
            ValueError: weights of another network.
        """
        if self.status == "no-gain" and not refused:
            warnings.warn(
                "nothing was certainly better than the weights of before, and they stay; refused=True takes what was tuned",
                stacklevel=2,
            )
            return model
        found = networks_to_train(model, model if isinstance(model, Module) else networks)
        own = {name: self._of(name) for name in found if self._of(name)}
        if set(own) != set(self.networks):
            raise ValueError(f"these weights are of {', '.join(self.networks)}; this model has {', '.join(found)}")
        told = told_of(self.table)
        if self.kind == "lora" and any(bound(found[name]) == told for name in own):
            raise ValueError("these low-rank parts are in the weights already: apply them to a model as it was before")
        for name, tensors in own.items():
            self._put(found[name], tensors, check=True)
        for name, tensors in own.items():
            self._put(found[name], tensors)
        bind(found.values(), told)
        return model

    def _of(self, network: str) -> dict[str, Tensor]:
        """The tensors of one network by their names in it."""
        begin = network + "."
        return {name[len(begin) :]: v for name, v in self.tensors.items() if name.startswith(begin)}

    def _put(self, network: Module, tensors: Mapping[str, Tensor], check: bool = False) -> None:
        if self.kind == "lora":
            if not check:
                merged(network, tensors)
            return
        there = dict(network.named_parameters())
        for name, value in tensors.items():
            if name not in there or there[name].shape != value.shape:
                raise ValueError(
                    f"these weights belong to another network: it has no {name} of shape {tuple(value.shape)}"
                )
            if not check:
                with torch.no_grad():
                    there[name].copy_(value)

    def save(self, folder: str | os.PathLike[str], weights: bool = True) -> None:
        """Write the files above, each whole or not at all; weights=False where a pipeline is saved beside them."""
        place = Path(folder)
        self.artefact.save(place / TABLE)
        file = FILES[self.kind] if weights else None
        if file is not None:
            with whole_tensors(place / file) as part:
                save_file({k: v.contiguous() for k, v in self.tensors.items()}, part, {SEAL: OPEN, "format": "pt"})
        content = {
            "format": FORMAT, "version": VERSION, "kind": self.kind, "status": self.status, "networks": list(self.networks),
            "bound": told_of(self.table), "weights": file, "report": dict(self.report), "provenance": dict(self.provenance),
        }  # fmt: skip
        write_text(place / FILE, json.dumps(sealed(plainly(content)), indent=1) + "\n")

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Tuned:
        """Read what `save` wrote. ValueError for a folder without it, or with files that are not what was written."""
        place = Path(folder)
        if not (place / FILE).is_file():
            raise ValueError(
                f"{place} holds no tuned weights: there is no {FILE} in it; give what `fewstep tune` wrote"
            )
        with understood(place / FILE):
            told = unsealed(read(place / FILE, "tuned weights"), place / FILE, required=True)
            if told.get("format") != FORMAT or told["version"] > VERSION:
                raise ValueError(f"{place / FILE} is of another format or a newer fewstep: pip install -U fewstep")
            if told["weights"] is None:
                raise ValueError(
                    f"the weights in {place} are those of its pipeline: open that, from_pretrained({str(place)!r})"
                )
            artefact = as_artefact(place / TABLE)
            tensors = _tensors(place / FILES[told["kind"]])
            return Tuned(
                artefact,
                told["kind"],
                tensors,
                tuple(told["networks"]),
                told["status"],
                told["report"],
                told["provenance"],
            )

    def __str__(self) -> str:
        return "\n".join(lines(self))


def _tensors(path: Path) -> dict[str, Tensor]:
    check_tensors(path, required=True)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Damaged(f"{path} cannot be read: {error}") from error


def lines(tuned: Tuned) -> list[str]:
    """What was won, in lines."""
    report, t = tuned.report, tuned.table
    test = report["test"]["rms"]
    numbers = sum(v.numel() for v in tuned.tensors.values())
    found = [
        f"{tuned.status}: {t.name} at {t.nfe} evaluations, {numbers:,} weights ({tuned.kind}), decided by "
        f"{report['decided_by']} on {report['samples']} untouched seeds",
        f"  error to the teacher  {report['before']['error']['rms']:.4g} -> {report['after']['error']['rms']:.4g}, ratio "
        f"{test['ratio']:.3g} [{test['interval'][0]:.3g}, {test['interval'][1]:.3g}]",
    ]
    for name in ("loss", "reward"):
        if name in report:
            d = report[name]
            found.append(
                f"  {name:<20}  {d['before']:.4g} -> {d['after']:.4g}, difference {d['difference']:.3g} "
                f"[{d['interval'][0]:.3g}, {d['interval'][1]:.3g}]"
            )
    if "fd" in report:
        d = report["fd"]
        bounds = "" if d["interval"] is None else f", difference [{d['interval'][0]:.3g}, {d['interval'][1]:.3g}]"
        found.append(f"  FD-{d['extractor']:<17}  {d['before']:.4g} -> {d['after']:.4g}{bounds}")
    return found
