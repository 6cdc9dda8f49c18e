"""Where the weights of the 2015 Inception network are: peers keep the same trained graph in files of several names.

    pt_inception-2015-12-05-6726825d.pth        torch's hub folder: pytorch-fid and its relatives
    weights-inception-2015-12-05-6726825d.pth   torch's hub folder: torch-fidelity, torchmetrics
    inception-2015-12-05.pt                     clean-fid, StyleGAN; TorchScript with other names and no gamma (it is 1)

A file's bytes are hashed before anything is made of them, and what is loaded is those bytes. Only the first two are searched
for: clean-fid keeps the third in the system's temporary folder, where everybody writes, so it is read where it is named. A
TorchScript of another sha256 than the published one is read too, but values of it are not called FID. Pickles of the graph
are not read: that would run code out of them.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.eval.extractors.layout import BLOCKS, STAGES
from fewstep.eval.published.fetching import fetched

VARIABLE = "FEWSTEP_INCEPTION"
# sha256 of the published files: of both .pth, and of the TorchScript.
DIGEST = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SCRIPT_DIGEST = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
SCRIPT = "inception-2015-12-05.pt"
LARGEST = 1 << 30  # bytes of a file that is taken for weights; the published ones have 91 MiB
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAMES[0]}"
SCRIPT_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{SCRIPT}"

State = Mapping[str, Tensor]


class Weights(NamedTuple):
    """A state under torchvision's names, and whether its file was one of the published ones, by its sha256."""

    state: State
    published: bool


def places() -> list[Path]:
    """The files of peers that are searched for, in the order of the search."""
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    return [hub / name for name in NAMES]


def load_weights(weights: str | os.PathLike[str] | State | None, expected: State, download: bool = False) -> Weights:
    """The network's weights under torchvision's names, checked against `expected` names and shapes.

    Args:
        weights: a file; or a state dict, which is taken as it is; None takes the file that the environment variable
            FEWSTEP_INCEPTION names, else the first sound one among `places()`.
        expected: what the network has.
        download: fetch the file into torch's hub folder where none is found.

    Raises:
        FileNotFoundError: no such file, or none found and not allowed to fetch it.
        ValueError: another file than it should be (its hash), unreadable, or weights of another network.
    """
    if isinstance(weights, Mapping):
        return Weights(_checked(weights, expected, "the state dict"), False)
    named = weights or os.environ.get(VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            told = "" if weights else f" (the environment variable {VARIABLE})"
            raise FileNotFoundError(f"no file {str(path)!r}{told}; it should be {NAMES[0]}. {_facts()}")
        return _read(path, expected)
    damaged = []
    for path in (p for p in places() if p.is_file()):
        try:
            return _read(path, expected)
        except ValueError as error:
            damaged.append(str(error))
    if download:
        remedy = "Bring the file here another way and name it with --weights PATH."
        return _read(fetched(URL, places()[0], DIGEST, remedy), expected)
    searched = ", ".join(str(p) for p in places())
    raise FileNotFoundError(
        f"the Inception weights {NAMES[0]} are not on this machine; searched the environment variable {VARIABLE} and "
        f"{searched}. {''.join(e + ' ' for e in damaged)}{_facts()} Bring it here and name it (--weights PATH; "
        f"clean-fid's {SCRIPT} too), or allow the download (--download)."
    )


def _facts() -> str:
    """Of the published files, for somebody who has to bring one here."""
    return f"It has 91 MiB, the sha256 {DIGEST}, and is published at {URL} ({SCRIPT}: sha256 {SCRIPT_DIGEST}, at {SCRIPT_URL})."


def _read(path: Path, expected: State) -> Weights:
    """The weights in a file: a published .pth, or a TorchScript under torchvision's names."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} has more than {LARGEST >> 20} MiB: it is not the FID network.")
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if path.suffix == ".pt":
            state: State = _renamed(torch.jit.load(BytesIO(data), map_location="cpu").state_dict())
            return Weights(_checked(state, expected, str(path)), found == SCRIPT_DIGEST)
        if found != DIGEST:
            raise ValueError(
                f"{path} is not the 2015-12-05 Inception network, or not all of it: its sha256 begins with "
                f"{found[:8]}, expected {DIGEST[:8]}. Fetch it again from {URL}."
            )
        state = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as weights ({reason}); fetch it again.") from error
    return Weights(_checked(state, expected, str(path)), True)


def _checked(state: State, expected: State, source: str) -> State:
    """The state in float32 in the expected order, without counters; ValueError where it is another network's."""
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    wanted = {name: tuple(w.shape) for name, w in expected.items() if name not in counters}
    given = {name: tuple(w.shape) for name, w in state.items() if not name.endswith("num_batches_tracked")}
    wrong = sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{source} does not hold the weights of the FID network: {len(wrong)} of {len(wanted)} differ, e.g. {name} is "
            f"{given.get(name, 'missing')}, expected {wanted.get(name, 'none')}. torchvision's ImageNet weights are another "
            "network's."
        )
    if bad := [name for name in wanted if not state[name].isfinite().all()]:
        raise ValueError(f"{source} holds values that are not finite, e.g. in {bad[0]}; fetch the weights again.")
    return {name: state[name].detach().float() for name in wanted}


def _renamed(script: Mapping[str, Any]) -> dict[str, Tensor]:
    """TorchScript's names -> torchvision's: its blocks name convolutions by the tower and the place in it."""
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    state: dict[str, Tensor] = {}
    for theirs, ours in _modules():
        for part, name in parts.items():
            if (key := f"layers.{theirs}.{part}") in script:
                state[f"{ours}.{name}"] = script[key]
        if f"{ours}.bn.bias" in state:
            state[f"{ours}.bn.weight"] = torch.ones_like(state[f"{ours}.bn.bias"])
    state.update({f"fc.{p}": script[f"output.{p}"] for p in ("weight", "bias") if f"output.{p}" in script})
    return state


def _modules() -> Iterator[tuple[str, str]]:
    """(module in the TorchScript, torchvision's module) of every convolution.

    A chain that is one convolution from the block's input is "conv"; the others are "tower", "tower_1" ... in turn, in which
    convolutions count "conv", "conv_1" ...; the last blocks write "tower_1_conv" for "tower_1.conv" and call the two that end
    a chain "mixed_conv" and "mixed_conv_1".
    """

    def numbered(stem: str, k: int) -> str:
        return f"{stem}_{k}" if k else stem

    modules = [name for stage in STAGES.values() for name in stage]
    plain = [name for name in modules if name.startswith("Conv2d")]
    yield from ((numbered("conv", k), name) for k, name in enumerate(plain))
    for k, name in enumerate(name for name in modules if name.startswith("Mixed")):
        chains = list(BLOCKS[name].chains)
        flat = any(isinstance(conv, tuple) for chain in chains for conv in chain)
        if len(chains[0]) == 1:
            yield f"{numbered('mixed', k)}.conv", f"{name}.{chains.pop(0)[0]}"
        for j, chain in enumerate(chains):
            prefix = f"{numbered('mixed', k)}.{numbered('tower', j)}{'_' if flat else '.'}"
            for i, conv in enumerate(chain):
                if isinstance(conv, tuple):
                    yield from ((prefix + numbered("mixed_conv", m), f"{name}.{c}") for m, c in enumerate(conv))
                else:
                    yield prefix + numbered("conv", i), f"{name}.{conv}"
