"""What a gradient through sampling costs, in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """What `adjoint.sample(..., method=method)` and the gradient of its sample cost.

    nfe: network evaluations of the sample alone. evaluations: of the sample and the way back. gradients: vector-Jacobian
    products, each of one of these evaluations. states: latents kept from the sample for the way back. remade: whole states
    that the way back makes anew and holds beside them, at most. bytes: of both. calls: network calls whose activations are
    held at once. call_bytes: activations of one call, where they were measured. offload: kept latents wait in host memory.
    """

    method: str
    nfe: int
    evaluations: int
    gradients: int
    states: int
    remade: int
    bytes: int
    calls: int
    call_bytes: int | None = None
    offload: bool = False

    def __str__(self) -> str:
        remade = f" and {self.remade} states made anew" if self.remade else ""
        held = f"{self.states} latents{remade}, {told(self.bytes)}{' in host memory' if self.offload else ''}"
        one = "" if self.call_bytes is None else f", {told(self.calls * self.call_bytes)}"
        calls = "one network call" if self.calls == 1 else f"{self.calls} network calls"
        return (
            f"{self.method}: {self.evaluations} network evaluations ({self.nfe} for the sample), {self.gradients} with a "
            f"vector-Jacobian product; holds {held}, and the activations of {calls}{one}"
        )


@dataclass(frozen=True)
class CostTable:
    """The cost of every method by its name; refused: why the others do not go with this solver."""

    costs: dict[str, Cost]
    refused: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, method: str) -> Cost:
        return self.costs[method]

    def __iter__(self) -> Iterator[Cost]:
        return iter(self.costs.values())

    def __str__(self) -> str:
        return "\n".join([*map(str, self), *(f"{name}: not here. {why}" for name, why in self.refused.items())])


def told(size: float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.4g} {unit}"
