"""What measures a sample: y = A(x) + noise, with A's transpose, by name.

All take and give batches, (B, *shape) -> (B, *m); A @ B is A after B. `Operator(forward, transpose)` makes one of any pair
of functions, `Operator(forward, shape=...)` of one function, whose transpose is then its vector-Jacobian product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.checks import whole
from fewstep.samplers.guidance.operator_base import Map, Operator


def mask(known: Any) -> Operator:
    """y = m x: the elements where m (broadcast to a sample) is 1, zeros elsewhere."""
    m = torch.as_tensor(np.asarray(known) if not isinstance(known, Tensor) else known)
    values = m.to(torch.float32)
    if not bool(((values == 0) | (values == 1)).all()):
        raise ValueError("a mask holds 0 (unknown) and 1 (known); scale measurements with an Operator of your own")
    apply = partial(_times, values)
    return Operator(apply, apply, gram=1.0, name="mask")


def _times(values: Tensor, x: Tensor) -> Tensor:
    return x * values.to(x.device, x.dtype)


def points(known: Tensor) -> Operator:
    """The values where `known` (bool, of a sample's shape) is true: (B, *shape) -> (B, count)."""
    if not isinstance(known, Tensor) or known.dtype != torch.bool or not bool(known.any()):
        what = f"{known.dtype} of shape {tuple(known.shape)}" if isinstance(known, Tensor) else type(known).__name__
        raise ValueError(f"`known` must be a bool tensor of a sample's shape that is true somewhere; got {what}")
    of_shape = known.flatten().nonzero()[:, 0], known.shape
    return Operator(partial(_read, *of_shape), partial(_put, *of_shape), gram=1.0, name="points")


def _read(place: Tensor, shape: torch.Size, x: Tensor) -> Tensor:
    if x.shape[1:] != shape:
        raise ValueError(f"samples of shape {tuple(x.shape[1:])} are read where {tuple(shape)} are known")
    return x.flatten(1)[:, place.to(x.device)]


def _put(place: Tensor, shape: torch.Size, y: Tensor) -> Tensor:
    return y.new_zeros(len(y), shape.numel()).index_copy(1, place.to(y.device), y).view(-1, *shape)


def downsample(factor: int) -> Operator:
    """Means of factor x factor squares of the last two axes."""
    factor = whole("factor", factor, hint="Give a whole number of pixels, the side of a square")
    maps = partial(_means, factor), partial(_spread, factor)
    return Operator(*maps, gram=factor**-2.0, name=f"downsample({factor})")


def _means(factor: int, x: Tensor) -> Tensor:
    if x.shape[-1] % factor or x.shape[-2] % factor:
        raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} have no whole squares of {factor}")
    return x.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).mean((-1, -3))


def _spread(factor: int, y: Tensor) -> Tensor:
    return y.repeat_interleave(factor, -1).repeat_interleave(factor, -2) / factor**2


def blur(kernel: Any = 2.0, size: int = 9, padding: str = "zero") -> Operator:
    """Every channel convolved with a kernel (h, w), or a Gaussian of that deviation, cut to `size` pixels a side.

    padding: "zero", "reflect" or "circular", what lies beyond the edge.
    """
    if padding not in ("zero", "reflect", "circular"):
        raise ValueError(f'`padding` must be "zero", "reflect" or "circular"; got {padding!r}')
    if isinstance(kernel, (int, float)):
        if kernel <= 0 or size < 1 or size % 2 == 0:
            raise ValueError(f"a Gaussian blur has a positive deviation and an odd size; got {kernel!r} and {size!r}")
        line = torch.exp(-0.5 * (torch.arange(size, dtype=torch.float64) - size // 2) ** 2 / kernel**2)
        window = torch.outer(line, line) / line.sum() ** 2
    else:
        window = torch.as_tensor(kernel, dtype=torch.float64)
    if window.ndim != 2 or window.shape[0] % 2 == 0 or window.shape[1] % 2 == 0:
        raise ValueError(f"a kernel is a matrix of odd sides; got shape {tuple(window.shape)}")
    forward = partial(_convolved, window, padding)
    return Operator(forward, partial(_transposed, forward), name="blur")


def _convolved(window: Tensor, padding: str, x: Tensor) -> Tensor:
    h, w = (n // 2 for n in window.shape)
    padded = F.pad(x, (w, w, h, h), mode="constant" if padding == "zero" else padding)
    return F.conv2d(padded, window.to(x.device, x.dtype).expand(x.shape[1], 1, *window.shape), groups=x.shape[1])


def colour(weights: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)) -> Operator:
    """One gray channel, the weighted sum of the channels: (B, C, H, W) -> (B, 1, H, W)."""
    w = torch.tensor(list(weights), dtype=torch.float64).view(1, -1, 1, 1)
    if not bool(w.any()):
        raise ValueError(f"`weights` must not all be zero; got {tuple(weights)}")
    return Operator(partial(_gray, w), partial(_times, w), gram=float(w.square().sum()), name="colour")


def _gray(weights: Tensor, x: Tensor) -> Tensor:
    if x.shape[1] != weights.shape[1]:
        raise ValueError(f"{weights.shape[1]} weights for images of {x.shape[1]} channels")
    return _times(weights, x).sum(1, keepdim=True)


def matrix(A: Any) -> Operator:
    """y = A x of flat samples, (B, d) -> (B, m), with A of shape (m, d)."""
    M = torch.as_tensor(A)
    if M.ndim != 2:
        raise ValueError(f"a matrix has two axes; got shape {tuple(M.shape)}")
    norm = float(torch.linalg.matrix_norm(M.double(), 2))
    return Operator(partial(_product, M.mT), partial(_product, M), norm=norm, name="matrix")


def _product(M: Tensor, x: Tensor) -> Tensor:
    return x @ M.to(x)


def phase(oversample: float = 2.0) -> Operator:
    """Moduli of the orthonormal Fourier transform of zero-padded images: not linear, blind to signs and shifts."""
    if oversample < 1:
        raise ValueError(f"`oversample` is the padded side over the image's, at least 1; got {oversample}")
    return Operator(partial(_moduli, oversample), linear=False, norm=1.0, name="phase")


def _moduli(oversample: float, x: Tensor) -> Tensor:
    sides = [round(n * oversample) for n in x.shape[-2:]]
    spectrum = torch.fft.fft2(F.pad(x, (0, sides[1] - x.shape[-1], 0, sides[0] - x.shape[-2])), norm="ortho")
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def fourier(known: Any) -> Operator:
    """Known frequencies of the orthonormal Fourier transform, real and imaginary parts as channels: (B, C, ..) -> (B, 2 C, ..).

    known: (H, W) of zeros and ones in the order of torch.fft.fft2.
    """
    m = torch.as_tensor(known).to(torch.float32)
    return Operator(partial(_frequencies, m), partial(_of_frequencies, m), norm=1.0, name="fourier")


def _frequencies(known: Tensor, x: Tensor) -> Tensor:
    spectrum = torch.fft.fft2(x, norm="ortho") * known.to(x.device, x.dtype)
    return torch.cat([spectrum.real, spectrum.imag], 1)


def _of_frequencies(known: Tensor, y: Tensor) -> Tensor:
    real, imaginary = y.chunk(2, 1)
    return torch.fft.ifft2(torch.complex(real, imaginary) * known.to(y.device, y.dtype), norm="ortho").real


def projection(angles: Any) -> Operator:
    """Parallel-beam projections at angles (radians): (B, C, n, n) -> (B, C, angles, n), sums over lines one pixel apart.

    Every pixel's weight is shared by the two lines nearest to its centre; what falls outside the n lines is lost.
    """
    turns = tuple(torch.as_tensor(angles, dtype=torch.float64).flatten().tolist())
    return Operator(partial(_line_sums, turns), partial(_along_lines, turns), name="projection")


def _line_sums(turns: tuple[float, ...], x: Tensor) -> Tensor:
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"projections are of square images; got {x.shape[-2]} x {x.shape[-1]}")
    places, weights = _beams(x.shape[-1], turns, x)
    flat = x.flatten(-2)[..., None, :] * weights  # (B, C, 2 angles, n n)
    sums = x.new_zeros(*x.shape[:2], len(turns) * (x.shape[-1] + 2))
    found = sums.index_add(-1, places.flatten(), flat.flatten(-2))
    return found.unflatten(-1, (len(turns), -1))[..., 1:-1]


def _along_lines(turns: tuple[float, ...], y: Tensor) -> Tensor:
    n = y.shape[-1]
    places, weights = _beams(n, turns, y)
    read = F.pad(y, (1, 1)).flatten(-2)[..., places.flatten()].unflatten(-1, places.shape)
    return (read * weights).sum(-2).unflatten(-1, (n, n))


def _beams(n: int, turns: tuple[float, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Line and weight of every pixel, twice: (2 angles, n n); lines of an angle are numbered with one spare at each end."""
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    angle = torch.tensor(turns, dtype=torch.float64)[:, None, None]
    place = (angle.cos() * at + angle.sin() * at[:, None] + (n - 1) / 2).flatten(1)
    low = place.floor()
    lines = (torch.stack([low, low + 1]).clamp(-1, n) + 1).long() + (torch.arange(len(turns)) * (n + 2))[:, None]
    weights = torch.stack([1 - (place - low), place - low])
    return lines.flatten(0, 1).to(like.device), weights.flatten(0, 1).to(like)


def _transposed(forward: Map, y: Tensor) -> Tensor:
    """The transpose of a linear map that keeps the shape: its vector-Jacobian product."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        at = torch.zeros(*y.shape, dtype=y.dtype, device=y.device, requires_grad=True)
        (found,) = torch.autograd.grad(forward(at), at, y, create_graph=again)
    return found
