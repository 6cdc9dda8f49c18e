"""Names that others give to solvers: each resolves to a solver with options, or says why it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import Mixture, starts

from fewstep.samplers import SOLVERS, NoiseSchedule, build, sample
from fewstep.samplers.building.folk_names import BOUND, REFUSED
from fewstep.samplers.building.names import resolve, solver_of

# the samplers of ComfyUI -> (solver, options); None: it says why not
SAMPLERS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "euler": ("euler", {}), "euler_cfg_pp": None, "euler_ancestral": ("euler_ancestral", {}),
    "euler_ancestral_cfg_pp": None, "heun": ("heun", {}), "heunpp2": ("heunpp2", {}),
    "exp_heun_2_x0": ("etd_rk2", {"c2": 1.0, "form": "x0"}),
    "exp_heun_2_x0_sde": ("dpmpp_sde", {"variant": "heun", "r": 1.0}), "dpm_2": ("dpm_2", {}),
    "dpm_2_ancestral": ("dpm_2_ancestral", {}), "lms": ("lms", {}), "dpm_fast": ("dpm_fast", {}),
    "dpm_adaptive": ("dpm_adaptive", {}), "dpmpp_2s_ancestral": ("dpmpp_2s_ancestral", {}),
    "dpmpp_2s_ancestral_cfg_pp": None, "dpmpp_sde": ("dpmpp_sde", {}), "dpmpp_sde_gpu": ("dpmpp_sde", {}),
    "dpmpp_2m": ("dpmpp_2m", {}), "dpmpp_2m_cfg_pp": None, "dpmpp_2m_sde": ("dpmpp_2m_sde", {}),
    "dpmpp_2m_sde_gpu": ("dpmpp_2m_sde", {}), "dpmpp_2m_sde_heun": ("dpmpp_2m_sde", {"variant": "heun"}),
    "dpmpp_2m_sde_heun_gpu": ("dpmpp_2m_sde", {"variant": "heun"}), "dpmpp_3m_sde": ("dpmpp_3m_sde", {}),
    "dpmpp_3m_sde_gpu": ("dpmpp_3m_sde", {}), "ddpm": ("ddpm", {}), "lcm": ("renoise", {}), "ipndm": ("ipndm", {}),
    "ipndm_v": ("ipndm_v", {}), "deis": ("deis", {}), "res_multistep": ("res_multistep", {}),
    "res_multistep_cfg_pp": None, "res_multistep_ancestral": ("res_multistep_ancestral", {}),
    "res_multistep_ancestral_cfg_pp": None, "gradient_estimation": ("gradient_estimation", {}),
    "gradient_estimation_cfg_pp": None, "er_sde": ("er_sde", {}), "seeds_2": ("seeds", {"order": 2, "form": "x0"}),
    "seeds_3": ("seeds", {"order": 3, "form": "x0"}), "sa_solver": ("sa_solver", {}),
    "sa_solver_pece": ("sa_solver", {"pece": True, "tau_at": "target"}), "ddim": ("ddim", {}),
    "uni_pc": ("unipc", {"weights": "bh1", "lower_order_final": "always"}),
    "uni_pc_bh2": ("unipc", {"weights": "bh2", "lower_order_final": "always"}),
}  # fmt: skip
VP = NoiseSchedule.vp_linear()


def test_there_are_forty_four() -> None:
    assert len(SAMPLERS) == 44


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_name_means_a_solver_or_says_why_not(name: str) -> None:
    wanted = SAMPLERS[name]
    if wanted is None:
        with pytest.raises(ValueError, match=r"guidance\.cfg_pp\(.*with solver="):
            solver_of(name)
        return
    entry, grid = solver_of(name)
    assert (entry.name, grid) == (wanted[0], None) and resolve(name) == (wanted[0], None)
    assert dict(entry.bound) == wanted[1]
    assert entry.options == {**SOLVERS[wanted[0]].options, **wanted[1]}
    assert solver_of(name.replace("_", "-").upper())[0] == entry or name.startswith("uni_pc")


def test_every_scheduler_class_means_a_solver_or_says_why_not() -> None:
    import diffusers

    classes = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
    refused = set()
    for name in classes:
        try:
            assert solver_of(name)[0].name in SOLVERS
        except ValueError as error:
            assert "is no solver here: " in str(error) and len(str(error)) < 300
            refused.add(name)
    assert len(classes) >= 46  # of the oldest release that is declared; 49 of the newest
    assert len(refused) <= 14 and "AmusedScheduler" in refused and "KDPM2DiscreteScheduler" not in refused


def test_bound_names_exist_and_their_options_too() -> None:
    for name, (solver, options) in BOUND.items():
        assert set(options) <= set(SOLVERS[solver].options), name
        assert solver_of(name)[0].options == {**SOLVERS[solver].options, **options}
    assert not set(BOUND) & set(REFUSED)


@pytest.mark.parametrize(
    ("folk", "solver", "grid"),
    [
        ("DPM++ 2M SDE Karras", "dpmpp_2m_sde", "karras"),
        ("dpmpp_2m_sde_gpu_karras", "dpmpp_2m_sde", "karras"),
        ("Euler Normal", "euler", "normal"),
        ("uni_pc_simple", "unipc", "simple"),
        ("Euler a SGM Uniform", "euler_ancestral", "sgm_uniform"),
        ("heun kl optimal", "heun", "kl_optimal"),
    ],
)
def test_folk_names_bring_their_grids(folk: str, solver: str, grid: str) -> None:
    assert resolve(folk) == (solver, grid)


def test_options_that_a_name_binds_are_played_everywhere() -> None:
    """In build, sample, a Scheduler, and beneath restart; options given beside the name win."""
    plain, bound = (build("unipc", VP, 8, weights=w, lower_order_final="always").W for w in ("bh2", "bh1"))
    assert abs(plain - bound).max() > 1e-3
    np.testing.assert_array_equal(build("uni_pc", VP, 8).W, bound)
    np.testing.assert_array_equal(build("uni_pc", VP, 8, weights="bh2").W, plain)
    denoiser, x = Mixture().denoiser(VP, "sample"), starts(VP, 1.0)
    table = build("unipc", VP, 8, weights="bh1", lower_order_final="always")
    assert (sample(denoiser, x, "uni_pc", 8) == sample(denoiser, x, table)).all()
    config = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    from fewstep import Scheduler

    ours = Scheduler.from_config(config, solver="seeds_3")
    ours.set_timesteps(9)
    assert ours._model.options["order"] == 3 and ours._model.options["form"] == "x0"
    assert build("restart", VP, 24, base="exp_heun_2_x0").W.shape == build("restart", VP, 24, base="etd_rk2").W.shape


def test_a_saved_table_of_a_bound_name_is_resumed_as_it_was_made() -> None:
    table = build("uni_pc", VP, 8)
    assert table.name == "unipc" and table.options["weights"] == "bh1"


def test_unknown_names_are_told_with_near_ones() -> None:
    with pytest.raises(ValueError, match="Did you mean 'seeds_2'"):
        solver_of("seedz_2")
    with pytest.raises(ValueError, match="it samples tokens"):
        build("VQDiffusionScheduler", VP, 5)


def test_a_name_may_bring_its_grid() -> None:
    """SOLVER on GRID, of any of their names; it plays in `sample` and in a `Scheduler` as the two arguments do."""
    assert resolve("unipc on quadratic") == ("unipc", "quadratic") and resolve("DPM++ 2M on ays sdxl") == (
        "dpmpp_2m",
        "ays sdxl",
    )
    entry, grid = solver_of("uni_pc on karras")
    assert (entry.name, grid, dict(entry.bound)["weights"]) == ("unipc", "karras", "bh1")
    with pytest.raises(ValueError, match="unknown grid 'karas'"):
        resolve("unipc on karas")
    with pytest.raises(ValueError, match="unknown solver 'unipq'"):
        resolve("unipq on karras")
    denoiser, x = Mixture().denoiser(VP, "sample"), starts(VP, 1.0)
    said, two = sample(denoiser, x, "deis on quadratic", 5), sample(denoiser, x, "deis", 5, "quadratic")
    assert (said == two).all() and not (said == sample(denoiser, x, "deis", 5)).all()
    from fewstep import Scheduler

    config = {"_class_name": "DDIMScheduler"}
    schedulers = [Scheduler.from_config(config, *how) for how in (("deis on quadratic",), ("deis", "quadratic"))]
    for scheduler in schedulers:
        scheduler.set_timesteps(5)
    assert (schedulers[0].timesteps == schedulers[1].timesteps).all()
