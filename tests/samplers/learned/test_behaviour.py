"""What is kept of a network is found for that network as it behaves, not for its weights alone; folders are one run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from learned_problems import ring
from torch import Tensor

import fewstep
from fewstep import Denoiser
from fewstep.output.exclusive import exclusive
from fewstep.samplers import NoiseSchedule
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher

SMALL: dict[str, Any] = {
    "rivals": False, "shape": (2,),
    "dtype": torch.float64, "progress": False, "seeds": range(48), "guard_seeds": range(1000, 1048),
    "teacher": {"nfe": 60},
}  # fmt: skip


class Net(torch.nn.Module):
    """The exact network of a mixture behind a weight, an attribute that no state_dict has, and dropout."""

    def __init__(self, strength: float = 1.0, dropped: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.drop = torch.nn.Dropout(dropped)
        self.strength, self.inner = strength, ring()

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        x0: Tensor = self.drop(self.strength * self.weight * self.inner.call(x, tau))
        return x0


def denoiser(**how: Any) -> Denoiser:
    return Denoiser(Net(**how), NoiseSchedule.vp_linear(), "sample")


def learned(model: Denoiser, **how: Any) -> Any:
    return learn(model, "dpmpp_2m", 4, "iia", **{**SMALL, **how})


def test_an_attribute_of_python_is_part_of_the_network(tmp_path: Path) -> None:
    """Cache and stages of the one are not found for the other: what is learned is what is learned without them."""
    alone = [learned(denoiser(strength=s), cache=False) for s in (1.0, 0.97)]
    assert alone[0].model["fingerprint"] == alone[1].model["fingerprint"], "the weights are the same"
    for _ in range(2):
        for s, expected in zip((1.0, 0.97), alone, strict=True):
            assert learned(denoiser(strength=s), cache=tmp_path / "cache", resume=tmp_path / "stages") == expected
    assert alone[0] != alone[1] and len(list((tmp_path / "stages").iterdir())) == 2


def test_what_a_pipeline_answers_is_part_of_it(tmp_path: Path) -> None:
    """An adapter's scale, say, which is no weight: here a hook that scales what the network returns."""
    pipe, scale = fewstep.load_demo_pipeline(), [1.0]
    pipe.unet.register_forward_hook(
        lambda *seen: type(seen[2])(sample=scale[0] * seen[2].sample) if scale[0] != 1 else None
    )
    how: dict[str, Any] = {"classes": range(4), "batch_size": 4}

    def keys() -> list[str]:
        first = Problem(pipe, guidance=None, **how)
        return [Teacher(p, nfe=8, cache=tmp_path).key for p in (first, first.under(2.0))]

    once, again = keys(), keys()
    scale[0] = 0.97
    other = keys()
    assert once == again and len({*once, *other}) == 4


def test_a_network_that_answers_otherwise_each_time_is_not_kept(tmp_path: Path) -> None:
    noisy = denoiser(dropped=0.5)
    teacher = Teacher(Problem(noisy, shape=(2,), dtype=torch.float64), nfe=8, cache=tmp_path)
    with pytest.warns(UserWarning, match=r"answers otherwise when it is asked the same again.*\.eval\(\)"):
        teacher.path(teacher.problem.part(range(4)))
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="`resume` needs a network that answers the same"):
        learned(noisy, cache=False, resume=tmp_path)
    noisy.fn.eval()
    teacher = Teacher(Problem(noisy, shape=(2,), dtype=torch.float64), nfe=8, cache=tmp_path)
    teacher.path(teacher.problem.part(range(4)))
    assert len(list(tmp_path.iterdir())) == 1


def test_stages_of_another_network_are_refused_where_the_folder_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first release named folders after the weights alone: its stages are scored again."""
    with monkeypatch.context() as patch:
        patch.setattr(Problem, "behaviour", "")
        learned(denoiser(), cache=False, resume=tmp_path)
        (folder,) = tmp_path.iterdir()
        (file,) = folder.iterdir()
        assert learned(denoiser(), cache=False, resume=tmp_path).nfes == (4,)
        with pytest.raises(ValueError, match=f"{file} was learned on a network that behaves in another way.*Delete it"):
            learned(denoiser(strength=0.97), cache=False, resume=tmp_path)


def test_a_resume_folder_is_one_runs_at_a_time(tmp_path: Path) -> None:
    learned(denoiser(), cache=False, resume=tmp_path)
    (folder,) = tmp_path.iterdir()
    with exclusive(folder), pytest.raises(ValueError, match=f"the resume folder {folder} is in use by another run"):
        learned(denoiser(), cache=False, resume=tmp_path)
    assert all(file.suffix == ".json" for file in folder.iterdir()), "no lock stays behind"


def test_places_are_proved_before_the_network_is_called(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("", encoding="utf-8")
    model = denoiser()
    for name in ("cache", "resume"):
        with pytest.raises(ValueError, match=f"`{name}` '.*afile/x' cannot be written .*: give another place"):
            learned(model, **{"cache": False, name: tmp_path / "afile" / "x"})
    assert model.nfe == 0
