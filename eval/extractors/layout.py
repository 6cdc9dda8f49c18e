"""The blocks and stages of the Inception network under torchvision's names: which convolutions, in what order, and the taps."""

from __future__ import annotations

from dataclasses import dataclass

Chain = tuple["str | tuple[str, str]", ...]


@dataclass(frozen=True)
class Block:
    """The chains of convolutions of a block, in the order of its output, and the pool of its last branch.

    A pair in a chain is two convolutions side by side. "average" and "maximum" (3x3, stride 1) stand before the last chain;
    "reduce" (maximum, stride 2) is a branch of its own.
    """

    pool: str
    chains: tuple[Chain, ...]


_A = (
    ("branch1x1",),
    ("branch5x5_1", "branch5x5_2"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    ("branch_pool",),
)
_B = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
_C = (
    ("branch1x1",),
    ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
    ("branch_pool",),
)
_D = (("branch3x3_1", "branch3x3_2"), ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"))
_E = (
    ("branch1x1",),
    ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
    ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    ("branch_pool",),
)

BLOCKS = {
    **{name: Block("average", _A) for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d")},
    "Mixed_6a": Block("reduce", _B),
    **{name: Block("average", _C) for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")},
    "Mixed_7a": Block("reduce", _D),
    "Mixed_7b": Block("average", _E),
    "Mixed_7c": Block("maximum", _E),
}

# The modules up to each tap. sFID reads the first 7 channels of Mixed_6d, which are those of its branch1x1.
STAGES = {
    "64": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1"),
    "192": ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    "sfid": ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
    "768": ("Mixed_6e",),
    "2048": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}
