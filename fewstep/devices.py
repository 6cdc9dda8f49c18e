"""Which device things run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def chosen_device(name: str | torch.device | None) -> torch.device:
    """The named device, or the best there is; ValueError for one this machine or this torch does not have."""
    import torch

    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name or best)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); this machine offers {best}") from error
    return device


def loaded_in(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """What `from_pretrained` of diffusers calls a precision: `dtype`, before 0.40 `torch_dtype`."""
    from diffusers import __version__
    from packaging.version import Version

    return {"dtype" if Version(__version__) >= Version("0.40") else "torch_dtype": dtype}
