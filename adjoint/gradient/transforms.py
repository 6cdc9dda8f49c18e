"""Function transforms of torch (torch.func.grad, vmap, jvp) around a sample, of which the way back here knows nothing."""

from __future__ import annotations

import torch
from torch import Tensor

BY_AUTOGRAD = ("Grad", "Functionalize")  # what autograd through the loop goes along with


def refuse_transforms(x: Tensor, method: str, what_is: str = "adjoint.sample") -> None:
    """ValueError under a transform that would give no gradient, or a wrong one, and for forward mode.

    A way back of its own is made by torch.autograd on plain tensors; torch.func.grad and vjp go through the loop itself.
    """
    if not isinstance(x, Tensor):
        return
    found = [name for name in _transforms() if method != "direct" or name not in BY_AUTOGRAD]
    if not found and torch.autograd.forward_ad.unpack_dual(x).tangent is None:
        return
    what = {"Grad": "torch.func.grad or vjp", "Vmap": "torch.func.vmap"}.get(
        found[0] if found else "", "forward mode (jvp)"
    )
    raise ValueError(
        f"{what_is} does not go under {what} (asked as {method!r}): call x.requires_grad_() and torch.autograd.grad (a batch "
        'takes the place of vmap), or adjoint.sample(..., method="direct", check="none") under torch.func.grad'
    )


def _transforms() -> list[str]:
    """Names of the transforms that are being made, outermost first."""
    stack = torch._C._functorch.get_interpreter_stack()  # None where there is none
    return [level.key().name for level in stack or ()]
