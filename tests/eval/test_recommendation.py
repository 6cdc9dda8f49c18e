"""What is recommended is best, what it is said to lead is certainly behind, and chance alone is not called a lead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep.eval.report.curve_points import Point
from fewstep.eval.report.curves import Curves
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.paired_difference import difference, ratio
from fewstep.eval.report.result import Result
from fewstep.eval.shared_noise.paired_cells import result


def curves(errors: dict[str, np.ndarray], kinds: dict[str, str] | None = None, nfe: int = 6) -> Curves:
    points = [Point(name, nfe, Report([result("rmse", e)])) for name, e in errors.items()]
    known = {
        name: {
            "label": name,
            "kind": (kinds or {}).get(name, "fixed"),
            "solver": name.split(" on ")[0],
            "grid": "karras",
        }
        for name in errors
    }
    return Curves(points, {"model": "demo", "entrants": known})


def drawn(means: dict[str, float], images: int = 16, spread: float = 0.3, own: float = 0.05, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    common = np.exp(spread * rng.normal(size=images))
    return {name: mean * common * np.exp(own * rng.normal(size=images)) for name, mean in means.items()}


def test_best_next_and_alike() -> None:
    found = curves(drawn({"ddim": 0.2, "deis": 0.1, "unipc": 0.101, "heun": 0.15}, own=0.02))
    (advice,) = found.recommendations()
    assert (
        advice.best in ("deis", "unipc") and advice.against == "heun" and advice.ratio == pytest.approx(0.67, abs=0.05)
    )
    assert {advice.best, *advice.alike} == {"deis", "unipc"} and advice.sure is not None and advice.sure[1] < 1
    assert (
        advice.text.startswith(f"at 6 evaluations: {advice.best}, RMSE 0.0") and "within noise of it: " in advice.text
    )
    assert advice.line.startswith("pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver=")
    assert advice.line.endswith(", grid='karras')") and advice.text in found.text()
    assert found.as_dict()["recommendations"][0]["best"] == advice.best


def test_a_learned_table_leads_the_best_fixed_recipe() -> None:
    found = curves(drawn({"five.json": 0.05, "unipc": 0.1, "ddim": 0.2}), {"five.json": "learned"})
    (advice,) = found.recommendations()
    assert advice.against == "unipc" and "of the best fixed recipe, unipc" in advice.text and not advice.alike
    assert "learned='five.json'" in advice.line


def test_noise_has_a_best_of_its_own() -> None:
    found = curves(
        drawn({"ddim": 0.2, "er_sde": 0.01, "sa_solver": 0.02}), {"er_sde": "stochastic", "sa_solver": "stochastic"}
    )
    flow, noisy = found.recommendations()
    assert (flow.best, noisy.best, noisy.against) == ("ddim", "er_sde", "sa_solver") and "with noise" in noisy.text


def test_metrics_of_sets_have_one_field_and_what_nothing_pairs_is_not_called_alike() -> None:
    found = Curves(
        [Point(name, 6, Report([Result("cmmd", value)])) for name, value in (("ddim", 0.2), ("er_sde", 0.1))],
        {"entrants": {"er_sde": {"kind": "stochastic"}}},
    )
    (advice,) = found.recommendations()
    assert (advice.best, advice.alike, advice.against) == ("er_sde", (), None) and "within noise" not in advice.text
    assert found.table("cmmd").best == {(1, 1)}


def test_who_was_dropped_early_is_not_best_for_easy_images() -> None:
    errors = drawn({"deis": 0.1, "ddim": 0.3})
    errors["deis"][:4] *= 0.1
    errors["ddim"] = errors["ddim"][:4] * 0.1  # less than the mean of deis over all, more than its own on these four
    found = curves(errors)
    assert found.result("rmse", "ddim", 6).value < found.result("rmse", "deis", 6).value  # type: ignore[union-attr]
    assert found.recommendations()[0].best == found.best("rmse", 6) == "deis"
    apart = found.difference("rmse", 6, "ddim", "deis")
    assert apart is not None and apart.value == pytest.approx(float((errors["ddim"] - errors["deis"][:4]).mean()))


def test_among_many_alike_none_is_called_behind() -> None:
    """40 solvers that differ by chance alone: in 19 of 20 such comparisons all are within noise of the best one."""
    clear = 0
    for seed in range(60):
        (advice,) = curves(drawn({f"s{k}": 0.1 for k in range(40)}, own=0.2, seed=seed)).recommendations()
        clear += len(advice.alike) == 39
    assert clear >= 45  # the best of 40 is chosen by its luck, which costs more than the 5 % that each pair may


def test_the_ratio_has_fiellers_interval() -> None:
    """It covers the true ratio in 95 % of draws, and leaves 1 out exactly where the difference leaves 0 out."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        b = 1 + 0.3 * rng.normal(size=12)
        a = 0.7 * b + 0.1 * rng.normal(size=12)
        one, other = (Result("rmse", float(x.mean()), groups=tuple(x)) for x in (a, b))
        found = ratio(one, other)
        assert found is not None
        value, (low, high) = found
        _, _, (below, above) = difference(one, other)
        assert (low > 1 or high < 1) == (below > 0 or above < 0) and low < value < high
        covered += low < 0.7 < high
    assert 0.93 < covered / 400 < 0.975
    flat = Result("rmse", 0.0, groups=(1.0, -1.0, 0.1))
    assert ratio(flat, flat) is None
