"""What is diffusers' own of a Scheduler: the output of a step, and the mixins, which tell type checkers nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from diffusers.utils import BaseOutput
from torch import Tensor

if TYPE_CHECKING:
    S = TypeVar("S")

    class SchedulerMixin:
        """As a saved pipeline's part: what diffusers' class of this name offers."""

        @classmethod
        def from_pretrained(cls: type[S], pretrained_model_name_or_path: Any = None, **how: Any) -> S: ...
        def save_pretrained(self, save_directory: str | os.PathLike[str], **how: Any) -> None: ...
        @property
        def compatibles(self) -> list[type]: ...
        @classmethod
        def _get_compatibles(cls) -> list[type]: ...

    class ConfigMixin:
        """As an object of a config: what diffusers' class of this name offers."""

        _internal_dict: Any

        @property
        def config(self) -> Mapping[str, Any]: ...
        @classmethod
        def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **entries: Any) -> Any: ...
        def register_to_config(self, **entries: Any) -> None: ...
        def save_config(self, save_directory: str | os.PathLike[str], **how: Any) -> None: ...
        def to_json_string(self) -> str: ...
        @classmethod
        def _get_init_keys(cls, input_class: type) -> set[str]: ...
else:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

__all__ = ["ConfigMixin", "SchedulerMixin", "SchedulerOutput", "StepTuple"]


@dataclass
class SchedulerOutput(BaseOutput):
    """prev_sample: input of the next network call, (B, ...). pred_original_sample: the clean sample now predicted."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class StepTuple(tuple):
    """(prev_sample, pred_original_sample), made of prev_sample and a function for the other, called when it is read."""

    __slots__ = ()

    def __getitem__(self, i: Any) -> Any:
        return tuple.__getitem__(self, 0) if i == 0 else tuple(self)[i]

    def __iter__(self) -> Iterator[Tensor]:
        yield tuple.__getitem__(self, 0)
        yield tuple.__getitem__(self, 1)()

    def __reduce__(self) -> Any:
        return tuple, (tuple(self),)
