"""Bad input to `sample`, `build`, `Denoiser` and `NoiseSchedule`: refused before the first network call, with a remedy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from problems import BLIND, Mixture, starts

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample

NAN = float("nan")
VP = NoiseSchedule.vp_linear()
LAW = VP.alpha(np.arange(1, 101) / 100) ** 2
ZERO_SNR = NoiseSchedule.discrete(np.append(LAW[:-1], 0.0))
X = starts(VP, 1.0, 3)


def refused(message: str, call: Any) -> None:
    """ValueError with these words, and the sentence ends in something to do or to expect."""
    with pytest.raises(ValueError, match=message):
        call()


def refused_by_sample(message: str, *args: Any, x: Any = X, **options: Any) -> None:
    denoiser = Mixture().denoiser(VP)
    refused(message, lambda: sample(denoiser, x, *args, **options))
    assert denoiser.nfe == 0


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("dpmpp2m_", None),
        ("dpmpp_2x", "dpmpp_2m"),
        ("unipk", "unipc"),
        ("eular", "euler"),
        ("deiss", "deis"),
    ],
)
def test_unknown_solver_names_near_matches(given: str, near: str | None) -> None:
    if near is None:  # spelling apart, this is a name
        assert build(given, VP, 3).name == "dpmpp_2m"
    else:
        refused_by_sample(f"unknown solver {re.escape(repr(given))}. Did you mean .*{near}", given, 5)


def test_unknown_names_with_nothing_near_list_everything() -> None:
    refused_by_sample("unknown solver 'qqqq'. Known: abnorsett, .*unipc", "qqqq", 5)
    refused_by_sample("`solver` must be a name; got int. Names: auto", 3, 5)
    refused_by_sample("unknown grid 'karas'. Did you mean 'karras'", "ddim", 5, "karas")
    refused_by_sample("solver 'euler' has no option 'order'; its options: limiter", "euler", 5, order=2)
    refused_by_sample("solver 'unipc' has no option 'ordr'; its options: order", "unipc", 5, ordr=2)


@pytest.mark.parametrize("nfe", [0, -3, 1.5, "5", True, NAN, float("inf")])
def test_nfe(nfe: Any) -> None:
    refused_by_sample("`nfe` must be a whole number of network evaluations, at least 1; got", "ddim", nfe)


def test_nfe_may_not_be_missing() -> None:
    refused("`nfe` is missing: give the number of network evaluations, or an explicit grid", lambda: build("ddim", VP))


WITH_ORDER = [name for name, entry in SOLVERS.items() if "order" in entry.options]


@pytest.mark.parametrize("order", [0, -1, 9, "2", 2.5, None, True, NAN])
@pytest.mark.parametrize("name", WITH_ORDER)
def test_order_out_of_range(name: str, order: Any) -> None:
    refused_by_sample(rf"{name}: `order` must be \d\.\.\d; got {re.escape(repr(order))}", name, 5, order=order)


CHOICES = {
    "form": ("'x0', 'eps'", ("abnorsett", "etd_rk2", "etd_rk3", "etd_rk4", "etd_rk4_5s", "etd_rk5", "unipc")),
    "weights": ("'bh1', 'bh2', 'exact'", ("unipc",)),
    "correction": ("'dpmsolver', 'taylor'", ("dpm_2", "dpm_3", "dpm_fast", "dpmpp_2s", "dpmpp_3s")),
    "variant": ("'", ("dpmpp_2m", "dpmpp_3m", "etd_rk4")),
    "method": ("'euler', 'heun'", ("deis_rho_rk",)),
    "var": ("'rho', 'flow', None", ("heun", "deis_rho_rk")),
    "lower_order_final": (
        "True, False, 'zero', 'always'",
        tuple(n for n in SOLVERS if "lower_order_final" in SOLVERS[n].options),
    ),
    "corrector": ("True, False", ("unipc",)),
}


@pytest.mark.parametrize("option", CHOICES)
def test_choices(option: str) -> None:
    expected, solvers = CHOICES[option]
    for name in solvers:
        for value in ("nonsense", 7, 0.5):
            refused_by_sample(f"`{option}` must be one of .*{expected}.*; got {value!r}", name, 5, **{option: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, NAN, "a", None])
def test_nodes_of_stages(value: Any) -> None:
    for name in ("dpm_2", "dpm_3", "dpmpp_2s", "dpmpp_3s", "etd_rk2", "etd_rk3", "res_2s", "res_3s"):
        refused_by_sample(rf"{name}: `c2` must be in \(0, .*\]; got {re.escape(repr(value))}", name, 6, c2=value)
    refused_by_sample(r"res_3s: `c3` must be in \(0, 1\]; got", "res_3s", 6, c3=value)
    refused_by_sample(r"heun: `alpha` must be in \(0, 1\]; got", "heun", 6, alpha=value)


def test_other_options() -> None:
    refused_by_sample("nodes 2/3 are singular; got c2 = 0.66.*Use etd_rk3", "res_3s", 6, c2=2 / 3)
    refused_by_sample("nodes 2/3 are singular; got .*c3 = 0.66.*Use etd_rk3", "res_3s", 6, c3=2 / 3)
    refused_by_sample(r"`order` must be 1..4 or a list with one a step, 3; got \[1, 2\]", "unipc", 3, order=[1, 2])
    refused_by_sample(r"unipc: `order` must be 1..4; got 7", "unipc", 3, order=[1, 2, 7])
    refused_by_sample("`disable_corrector` must be a list of step numbers; got 3", "unipc", 5, disable_corrector=3)
    refused_by_sample(r"`stages` must be 2..1000; got 1", "stork", 5, stages=1)
    refused_by_sample(r"`derivatives` must be 1..2; got 3", "stork", 5, derivatives=3)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.1, 0.5], r"`times` must decrease; got times\[1\]=0.5 > times\[0\]=0.1. Did you pass ascending times"),
        ([0.5, 0.5, 0.1], r"`times` must decrease; got times\[1\]=0.5 = times\[0\]=0.5"),
        ([0.5, 0.5 - 1e-16, 0.1], r"`times` must decrease; got times\[1\]=0.5 = times\[0\]=0.5"),
        ([0.5, NAN, 0.1], r"`times` must be finite; got times\[1\]=nan"),
        ([float("inf"), 0.1], r"`times` must be finite; got times\[0\]=inf"),
        (
            [999, 500, 1],
            r"must lie within \[0, 1\]; got 999 to 1. Did you pass training indices\? `schedule.time_of_model`",
        ),
        ([0.5, -0.1], r"must lie within \[0, 1\]; got 0.5 to -0.1"),
        ([0.5], "1-D array of at least 2 values"),
        ([], "1-D array of at least 2 values"),
        ([[0.5, 0.1]], r"1-D array of at least 2 values; got shape \(1, 2\)"),
        (["a", "b"], "`times` must be numbers"),
    ],
)
def test_explicit_times(times: list[Any], message: str) -> None:
    refused_by_sample(message, "ddim", None, times)
    refused_by_sample(message, "unipc", 5, times)


def test_ends() -> None:
    message = "sampling runs from a larger to a smaller time within"
    for ends in ({"t_start": 2.0}, {"t_start": 0.1, "t_end": 0.5}, {"t_start": NAN}, {"t_end": -0.5}, {"t_end": 1.0}):
        refused_by_sample(message, "ddim", 5, **ends)
    refused_by_sample(
        "`t_start`=0.8 contradicts the explicit times.*Pass one of them", "ddim", None, [0.9, 0.1], t_start=0.8
    )


@pytest.mark.parametrize("name", [n for n, entry in SOLVERS.items() if entry.kind == "tableau"])
def test_noise_prediction_says_nothing_about_pure_noise(name: str) -> None:
    """eps = x at alpha = 0: refused before the call by every solver, accepted from a little below."""
    for schedule in (ZERO_SNR, NoiseSchedule.flow()):
        for prediction in BLIND:
            denoiser = Mixture().denoiser(schedule, prediction)
            message = (
                rf"predicts '{prediction}' says nothing about (x0|flow) at t = 1 \(alpha = 0.*"
                r"start below it \(t_start=\) or use a v, x0 or flow"
            )
            refused(message, lambda d=denoiser: sample(d, X, name, 5))
            assert denoiser.nfe == 0
        assert torch.isfinite(sample(denoiser, X, name, 5, t_start=0.99)).all()


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), r"torch.int64 of shape \(2, 2\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), r"torch.complex64 of shape \(2, 2\)"),
        (torch.tensor(1.0), r"torch.float32 of shape \(\)"),
        (np.zeros((2, 2)), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_x_T(x: Any, got: str) -> None:
    refused_by_sample(rf"`x_T` must be a floating tensor of shape \(B, \*shape\); got {got}", "ddim", 5, x=x)


def test_noise() -> None:
    refused_by_sample("2 noise seeds for a batch of 3: give one seed a sample", "ddim", 5, noise_seeds=[1, 2])
    refused_by_sample("`noise_seeds` must be whole numbers, one a sample; got 7", "ddim", 5, noise_seeds=7)
    refused_by_sample("`noise_seeds` must be whole numbers", "ddim", 5, noise_seeds=["a", "b", "c"])
    g = torch.Generator()
    refused_by_sample("1 generators for a batch of 3: pass one generator, or one a sample", "ddim", 5, generator=[g])
    refused_by_sample(
        "`generator` must be a torch.Generator, or a list with one a sample; got 3", "ddim", 5, generator=3
    )
    refused_by_sample("either `generator` or `noise_seeds`, not both", "ddim", 5, generator=g, noise_seeds=[1, 2, 3])


def test_other_arguments_of_sample() -> None:
    refused_by_sample('`check` must be "end", "each" or "none"; got \'all\'', "ddim", 5, check="all")
    for name in ("callback", "hook", "post"):
        refused_by_sample(f"`{name}` must be a function of one argument; got int", "ddim", 5, **{name: 3})
    refused(
        "`denoiser` must be a Denoiser; got function. Wrap a network with Denoiser",
        lambda: sample(lambda x, t: x, X, "ddim", 5),
    )
    refused_by_sample("a Tableau is already compiled: pass nfe, grid, .* to build", build("ddim", VP, 5), 5)
    refused_by_sample("a Tableau is already compiled", build("ddim", VP, 5), grid=np.linspace(1, 0.1, 6))
    table = build("ddim", NoiseSchedule.edm(), 5)
    refused_by_sample("compiled for EDM.*the network belongs to VPLinear.*build", table)


def test_build() -> None:
    refused("`schedule` must be a NoiseSchedule; got str. NoiseSchedule.from_config", lambda: build("ddim", "vp", 5))
    refused(
        "2 model times for 6 step boundaries: give one a boundary", lambda: build("ddim", VP, 5, model_times=[1, 2])
    )
    refused(r"`groups` \(2, 2\) spend 4 evaluations; expected nfe = 5", lambda: build("ddim", VP, 5, groups=(2, 2)))


def test_denoiser() -> None:
    fn = Mixture().denoiser(VP).fn
    refused(r"`fn` must be a callable fn\(x, tau\) -> output; got int", lambda: Denoiser(3, VP))
    refused("`schedule` must be a NoiseSchedule; got str. NoiseSchedule.from_config", lambda: Denoiser(fn, "vp"))
    refused("unknown prediction 'eps'; expected one of epsilon, sample", lambda: Denoiser(fn, VP, "eps"))


def test_shapes_of_the_output() -> None:
    wrong = r"the network returned shape \(3, 1\) for a state of shape \(3, 2\); expected the same shape, or twice the channels"
    refused(wrong, lambda: sample(Denoiser(lambda x, t: x[:, :1], VP), X, "ddim", 5))
    refused(
        "returned tuple; expected a tensor.*`.sample`", lambda: sample(Denoiser(lambda x, t: (x,), VP), X, "ddim", 5)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule.vp_linear(20, 0.1), "`beta_max` must exceed `beta_min`; got 0.1 <= 20"),
        (lambda: NoiseSchedule.vp_linear(-1, 20), "`beta_min` must be a positive number; got -1"),
        (lambda: NoiseSchedule.vp_cosine(0), "`s` must be a positive number; got 0"),
        (lambda: NoiseSchedule.ve(0, 1), "`sigma_min` must be a positive number; got 0"),
        (lambda: NoiseSchedule.ve(2, 1), "`sigma_max` must exceed `sigma_min`; got 1.0 <= 2.0"),
        (lambda: NoiseSchedule.edm(0.1, 0.01), "`sigma_max` must exceed `sigma_min`"),
        (lambda: NoiseSchedule.flow(NAN), "`shift` must be a positive number; got nan"),
        (lambda: NoiseSchedule.discrete([0.1, 0.2]), r"must decrease; got \[1\]=0.2 >= \[0\]=0.1. Is the table reversed"),
        (lambda: NoiseSchedule.discrete([0.9]), r"1-D table of at least 2 values; got shape \(1,\)"),
        (lambda: NoiseSchedule.discrete([0.9, NAN]), r"must lie in \[0, 1\): pass cumprod"),
        (lambda: NoiseSchedule.discrete([0.9, 0.1], "spline"), "unknown interpolation 'spline'. Known: cubic, log_sigma"),
        (lambda: NoiseSchedule.from_config({"a": 1}), "no noise schedule.*pass the scheduler itself, `pipe.scheduler`"),
        (lambda: NoiseSchedule.from_config(3), "expected a scheduler or its config .*; got int"),
        (lambda: VP.initial_noise((2, 3), [torch.Generator()]), "1 generators for a batch of 2: pass one"),
    ],
)  # fmt: skip
def test_schedules(make: Any, message: str) -> None:
    refused(message, make)
