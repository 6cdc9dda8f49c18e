"""What is kept of a network is found for that network as it behaves, not for its weights alone; folders are one run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring
from torch import Tensor

import fewstep
from fewstep import Denoiser
from fewstep.output.exclusive import exclusive
from fewstep.samplers import NoiseSchedule
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.problem.fingerprint import alike, behaviour
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

    def files() -> list[Path]:
        first = Problem(pipe, guidance=None, **how)
        teachers = [Teacher(p, nfe=2, cache=tmp_path) for p in (first, first.under(2.0))]
        for teacher in teachers:
            teacher.path(teacher.problem.part([0]))
        return sorted(tmp_path.iterdir())

    once, again = files(), files()
    scale[0] = 0.97
    assert once == again and len(once) == 2 and len(files()) == 4


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
        patch.setattr(Problem, "weights", Problem.fingerprint)
        learned(denoiser(), cache=False, resume=tmp_path)
    (folder,) = tmp_path.iterdir()
    folder = folder.rename(tmp_path / folder.name.partition("-")[0])
    (folder / "answers.json").unlink()
    (file,) = folder.iterdir()
    assert learned(denoiser(), cache=False, resume=tmp_path).nfes == (4,)
    assert list(tmp_path.iterdir()) == [folder] and list(folder.iterdir()) == [file]
    with pytest.raises(ValueError, match=f"{file} was learned on a network that behaves in another way.*Delete it"):
        learned(denoiser(strength=0.97), cache=False, resume=tmp_path)


class Adapted(torch.nn.Module):
    """A layer and an adapter of low rank beside it, whose scale no tensor tells; both add in an order of their own."""

    def __init__(self, scale: float, order: int, dtype: torch.dtype) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight, self.down, self.up = (
            torch.nn.Parameter(torch.randn(*shape, generator=draw) / 100) for shape in ((600, 600), (4, 600), (600, 4))
        )
        self.scale, self.order, self.shown = scale, order, dtype

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        parts = x.to(self.shown) @ self.weight.to(self.shown).T, 0.2 * self.scale * (x @ self.down.T @ self.up.T)
        sums = [part.roll(self.order, -1) for part in (parts[0].to(x.dtype), parts[1])]
        return (sums[0] + sums[1]).roll(-self.order, -1) * (1 + 3e-7 * self.order)


def adapted(scale: float = 1.0, order: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    model = Denoiser(Adapted(scale, order, dtype), NoiseSchedule.vp_linear(), "epsilon")
    return Problem(model, shape=(600,), dtype=torch.float32)


def test_rounding_is_no_other_network_and_an_adapter_is(tmp_path: Path) -> None:
    """Another machine, or number of threads, differs in last bits: its runs are found. An adapter of 1 % at 0.97 is seen."""

    def run(problem: Problem) -> Tensor:
        teacher = Teacher(problem, nfe=8, cache=tmp_path)
        return teacher.path(problem.part(range(4))).end

    first, other, turned = adapted(), adapted(order=1), adapted(scale=0.97)
    assert first.behaviour != other.behaviour, "they differ in last bits"
    sizes = [np.linalg.norm(np.subtract(one, two)) / np.linalg.norm(two)
             for one, two in zip(turned.behaviour or (), first.behaviour or (), strict=True)]  # fmt: skip
    assert 1e-4 < min(sizes) and max(sizes) < 1e-3, "an adapter that hardly matters"
    end, calls = run(first), other.model.nfe
    assert torch.equal(run(other), end) and other.model.nfe == calls, "no run was needed"
    assert len(list(tmp_path.iterdir())) == 1
    assert not torch.equal(run(turned), end) and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(run(adapted()), end) and len(list(tmp_path.iterdir())) == 2


def test_no_edge_of_rounding_is_missed_and_no_change_is_lost() -> None:
    """A sketch keeps distances: of every answer, however small a part of it changes, and near any number."""
    chance = np.random.default_rng(0)
    for size in (1, 7, 256, 257, 5000):
        a = torch.from_numpy(chance.standard_normal(size))
        for relative, same in ((1e-6, True), (5e-5, True), (3e-4, False), (1e-2, False)):
            for places in (size, 1):
                change = torch.zeros(size, dtype=torch.float64)
                change[:places] = torch.from_numpy(chance.standard_normal(places))
                other = a + relative * float(a.norm() / change.norm()) * change
                one, two = behaviour(lambda a=a: [a]), behaviour(lambda b=other: [b])
                assert one is not None and two is not None and alike(one, two) is same, (size, relative, places)
    nothing = behaviour(lambda: [torch.zeros(9)])
    assert nothing is not None and alike(nothing, nothing)
    undefined = behaviour(lambda: [torch.tensor([float("nan")])])
    assert undefined is not None and not alike(undefined, nothing[:1])


def test_a_resume_folder_is_found_by_a_network_that_rounds_otherwise(tmp_path: Path) -> None:
    learned(denoiser(), cache=False, resume=tmp_path)
    expected = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    learned(denoiser(strength=1 + 1e-9), cache=False, resume=tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.json")} == expected
    (answers,) = tmp_path.rglob("answers.json")
    answers.write_text(answers.read_text(encoding="utf-8").replace("0.", "1.", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{answers} was changed or damaged.*Remove {answers.parent}"):
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
