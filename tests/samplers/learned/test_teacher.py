"""References: any grid, any batch and any run finds the same ends and states, and nothing that belongs to another model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring, sixteen

from fewstep.samplers import Denoiser, NoiseSchedule, build
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.problem.kept_runs import write
from fewstep.samplers.learned.problem.problem import Problem, squared_errors
from fewstep.samplers.learned.problem.teacher import Teacher

ZERO_SNR = NoiseSchedule.discrete(np.append(np.linspace(0.9999, 1e-4, 999), 0.0))
SCHEDULES = {
    "vp": NoiseSchedule.vp_linear(),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(),
    "zero snr": ZERO_SNR,
}
FLOWS = {name: schedule for name, schedule in SCHEDULES.items() if name != "zero snr"}


def problem(schedule: NoiseSchedule | None = None, **how: Any) -> Problem:
    return Problem(ring(schedule), **{"shape": (2,), "dtype": torch.float64, "batch_size": 16, **how})


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_clock(schedule: NoiseSchedule) -> None:
    """c is finite, increases towards data, and leads back to the time; away from the ends it is lam."""
    clock = Coordinate(schedule, schedule.t_max, schedule.t_end)
    times = np.linspace(schedule.t_max, schedule.t_end, 301)
    c = clock.c(times)
    assert np.isfinite(c).all() and (np.diff(c) > 0).all()
    np.testing.assert_allclose(clock.t(c), times, rtol=1e-6, atol=1e-9 * schedule.t_max)
    middle = float(schedule.t_of_lam(0.3))
    assert clock.c(middle) == pytest.approx(0.3, abs=0.03)
    dense = clock.dense(40)
    assert dense[0] == schedule.t_max and dense[-1] == schedule.t_end and (np.diff(dense) < 0).all()


@pytest.mark.parametrize("schedule", FLOWS.values(), ids=FLOWS)
def test_states_between_nodes(schedule: NoiseSchedule) -> None:
    """Interpolation alone, against a long run: of fourth order, and far below what a teacher errs by."""
    p = problem(schedule)
    part = p.part(range(16))
    fine = Teacher(p, nfe=600, cache=False).path(part)
    clock = Coordinate(schedule, p.t_start, p.t_end)
    probes = clock.dense(61)[1:-1]
    errors = []
    for keep in (10, 5):  # nodes of the same run: the interpolation alone
        path = type(fine)(schedule, fine.times[::keep], fine.x[::keep], fine.v[: len(fine.x) - 1 : keep])
        distance = [float((path.at(t) - fine.at(t)).abs().max() / fine.at(t).abs().max()) for t in probes]
        errors.append(max(distance))
    assert errors[1] < 1e-4 and errors[1] < errors[0] / 3
    for t in probes[::7]:  # dy/dr of the same interpolation
        near = t * np.array([1 + 1e-6, 1 - 1e-6])
        size = schedule.alpha(near) + schedule.sigma(near)
        r, y = schedule.sigma(near) / size, [path.at(u) / s for u, s in zip(near, size, strict=True)]
        torch.testing.assert_close(path.flow(t), (y[0] - y[1]) / (r[0] - r[1]), rtol=1e-5, atol=1e-5)
    at_node = fine.at(float(fine.times[30]))
    assert torch.equal(at_node, fine.state(30)) and torch.equal(fine.at(p.t_end), fine.end)


def test_predicted_x0_and_velocity_are_those_of_the_network() -> None:
    p = problem()
    part = p.part(range(4))
    path = Teacher(p, nfe=30, cache=False).path(part)
    t = float(path.times[12])
    torch.testing.assert_close(path.x0(12), part.denoiser.x0(path.state(12), t))
    expected = part.denoiser.eps(path.state(12), t) - part.denoiser.x0(path.state(12), t)
    torch.testing.assert_close(path.velocity(12), expected)


def test_smaller_batches_are_looked_up() -> None:
    """Samples in another order and from several parts are those that were run, and cost nothing."""
    p = problem(batch_size=8)
    teacher = Teacher(p, nfe=20, cache=False)
    teacher.prepare(p.parts(range(16)))
    spent = p.spent
    assert spent == 16 * 20
    mixed = p.part([11, 2, 9])
    whole = [teacher.path(part) for part in p.parts(range(16))]
    expected = torch.stack([whole[1].state(7)[3], whole[0].state(7)[2], whole[1].state(7)[1]])
    assert torch.equal(teacher.path(mixed).state(7), expected)
    assert torch.equal(teacher.end(mixed)[0], teacher.end(p.part(range(8, 16)))[3]) and p.spent == spent


def test_a_sample_is_the_same_in_every_batch() -> None:
    p = problem()
    table = build("dpmpp_2m", p.schedule, 5)
    together = p.draw(table, p.part(range(6)))
    alone = torch.cat([p.draw(table, p.part([seed])) for seed in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-13)
    noisy = build("dpmpp_2m_sde", p.schedule, 5)
    drawn = p.draw(noisy, p.part(range(6)))
    torch.testing.assert_close(drawn[4:5], p.draw(noisy, p.part([4])), rtol=1e-12, atol=1e-13)


def test_kept_on_disk(tmp_path: Any) -> None:
    """A second teacher of the same model reads what the first one ran; spent counts are the same."""
    p, q = problem(), problem()
    part = p.part(range(5))
    first, second = Teacher(p, nfe=20, cache=tmp_path), Teacher(q, nfe=20, cache=tmp_path)
    x = first.path(part).state(9).clone()
    files = list(tmp_path.iterdir())
    assert len(files) == 1 and files[0].suffix == ".safetensors"
    calls = q.model.nfe
    assert torch.equal(second.path(q.part(range(5))).state(9), x) and torch.equal(second.end(part), first.end(part))
    assert q.model.nfe - calls <= 2 + 2 * 3  # the fingerprint's, and three states asked twice for its behaviour
    assert p.spent == q.spent == 5 * 20


@pytest.mark.parametrize("other", ["model", "schedule", "nfe", "solver", "guidance", "dtype", "option"])
def test_another_model_or_run_is_not_found(tmp_path: Any, other: str) -> None:
    keys = [Teacher(problem(), nfe=20, cache=tmp_path).key]
    how: dict[str, Any] = {"nfe": 20, "cache": tmp_path}
    p = problem()
    if other == "model":
        p = Problem(sixteen(), shape=(16,), dtype=torch.float64)
    elif other == "schedule":
        p = problem(NoiseSchedule.vp_linear(0.1, 19.0))
    elif other == "guidance":
        p = problem(guidance=2.0)
    elif other == "dtype":
        p = problem(dtype=torch.float32)
    else:
        how |= {"nfe": {"nfe": 21}, "solver": {"solver": "deis"}, "option": {"variant": "public"}}[other]
    keys.append(Teacher(p, **how).key)
    assert keys[0] != keys[1]


def test_broken_and_foreign_files(tmp_path: Any) -> None:
    p = problem()
    part = p.part(range(3))
    Teacher(p, nfe=10, cache=tmp_path).path(part)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{file} (carries no sha256|was changed).*Delete it"):
        Teacher(p, nfe=10, cache=tmp_path).path(part)
    write(file, "another", (0,), p.behaviour or (), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match="belongs to another model"):
        Teacher(p, nfe=10, cache=tmp_path).path(part)


def test_own_error_falls_with_length() -> None:
    p = problem()
    short, long = (Teacher(p, nfe=n, cache=False).self_error(range(16)) for n in (30, 240))
    assert long < 0.02 * short < 0.02


def test_stochastic_reference_has_ends_only() -> None:
    p = problem()
    teacher = Teacher(p, "dpmpp_2m_sde", 64, cache=False)
    coarse = p.draw(build("dpmpp_2m_sde", p.schedule, 16), p.part(range(16)))
    fine = p.draw(build("dpmpp_2m_sde", p.schedule, 48), p.part(range(16)))
    end = teacher.end(p.part(range(16)))
    assert squared_errors(fine, end).mean() < squared_errors(coarse, end).mean()
    with pytest.raises(ValueError, match="only its ends are known"):
        teacher.path(p.part(range(16)))


def test_bad_input(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="`shape` is missing"):
        Problem(ring())
    broken = Denoiser(lambda x, tau: x * float("nan"), NoiseSchedule.vp_linear(), "sample")
    p = Problem(broken, shape=(2,))
    with pytest.raises(ValueError, match="not finite"):
        Teacher(p, nfe=5, cache=tmp_path).path(p.part([0, 1]))
    assert not list(tmp_path.iterdir())


def test_errors_that_are_not_finite_count_as_infinite() -> None:
    x = torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])
    assert squared_errors(x, torch.zeros(2, 2)).tolist() == [2.5, float("inf")]
