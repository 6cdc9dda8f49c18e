"""Data of comparisons as the page wants them, made up: errors fall at the orders of their solvers."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

SOLVERS = (
    "unipc",
    "deis",
    "dpmpp_2m",
    "dpmpp_3m",
    "ddim",
    "heun",
    "euler",
    "seeds_2",
    "era",
    "ipndm",
    "table",
    "res_2m",
)
GRIDS = ("karras", "quadratic", "beta", "uniform", "ays")
NFES = (4, 5, 6, 8, 10, 15, 20)


def png(values: np.ndarray) -> str:
    """Floats in [0, 1] as the address of an image."""
    file = io.BytesIO()
    Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _drawing(seed: int, side: int) -> np.ndarray:
    """A smooth ring, another one for each seed."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    a, b = 0.3 + 0.12 * (seed % 3), 0.5 - 0.08 * (seed % 2)
    return np.exp(-(((np.hypot(x / (a + 0.2), y / (b + 0.25)) - 1 + 0.1 * np.sin(seed + 3 * x)) / 0.22) ** 2))


def _entrants(count: int) -> list[dict[str, Any]]:
    found = []
    for k in range(count):
        solver = SOLVERS[k % len(SOLVERS)] + ("" if k < len(SOLVERS) * len(GRIDS) else f"_{k // 60}")
        grid = GRIDS[k // len(SOLVERS) % len(GRIDS)]
        kind = {"table": "learned", "seeds_2": "stochastic"}.get(solver, "fixed")
        order = None if kind == "stochastic" else 1 + k % 3 + 0.13 * (k % 5)
        found.append({"label": f"{solver} on {grid}", "solver": solver, "grid": grid, "kind": kind, "order": order})
    return found


def _errors(who: list[dict[str, Any]], nfes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(entrants, nfes): c (4 / nfe)^order, a little scattered."""
    orders = np.array([1.0 if entrant["order"] is None else entrant["order"] for entrant in who])
    scale = 0.6 * (1 + 0.5 * rng.random(len(who)))[:, None]
    return scale * (4 / np.array(nfes)) ** orders[:, None] * np.exp(0.06 * rng.standard_normal((len(who), len(nfes))))


def _values(error: float, best: float) -> dict[str, Any]:
    """Two metrics: one with intervals and paired differences, one without."""
    fd = 3 + 30 * error
    return {
        "rmse": {
            "value": error, "low": 0.93 * error, "high": 1.08 * error, "marked": bool(error < 1.08 * best),
            "apart": {"value": error - best, "half": 0.03 * error},
        },
        "fd": {"value": fd, "low": None, "high": None, "marked": bool(fd < 3.2 + 30 * best), "apart": None},
    }  # fmt: skip


def _advice(nfe: int, ranked: list[dict[str, Any]], kind: str = "flow") -> dict[str, Any]:
    best, *others = ranked[:3]
    alike = [entrant["label"] for entrant in others]
    said = f"at {nfe} evaluations: {best['label']}, 0.71 [0.66, 0.77] of deis on karras"
    line = f'Scheduler.from_config(pipe.scheduler.config, solver="{best["solver"]}", grid="{best["grid"]}")'
    return {
        "nfe": nfe, "text": said + ("; within noise of it: " + ", ".join(alike) if alike else ""),
        "best": best["label"], "alike": alike, "line": f"pipe.scheduler = {line}", "kind": kind,
    }  # fmt: skip


def _steps(k: int, nfe: int, rng: np.random.Generator) -> dict[str, Any]:
    """Half log-SNR of the ends of steps, at some entrants up to sigma = 0, and weights that sum to one."""
    lam = np.linspace(-5, 4, nfe + 1) + (0.3 * np.sin(np.arange(nfe + 1) + k) if k % 2 else 0)
    weights = rng.standard_normal(nfe) * 0.12 + np.linspace(0.02, 2 / nfe, nfe)
    ends = [*lam[:-1].tolist(), None if k % 5 == 4 else float(lam[-1])]
    return {"entrant": k, "nfe": nfe, "lam": ends, "weights": (weights / weights.sum()).tolist()}


def comparison(entrants: int = 40, nfes: tuple[int, ...] = NFES, pictured: int = 10, seeds: int = 3) -> dict[str, Any]:
    """A comparison of so many entrants, some of them with images; some points are missing, some are of fewer images."""
    rng, who, side = np.random.default_rng(0), _entrants(entrants), 28
    errors = _errors(who, nfes, rng)
    images = [png(_drawing(seed, side)) for seed in range(seeds)]
    points: list[dict[str, Any]] = []
    for k in range(entrants):
        for j, nfe in enumerate(nfes):
            if k % 9 == 8 and j % 3 == 2:
                continue
            noise = 0.5 * errors[k, j] * rng.standard_normal((seeds if k < pictured else 0, side, side))
            points.append({
                "entrant": k, "nfe": nfe, "n": 4 if k % 7 == 6 else 16,
                "seconds": 0.0021 * nfe * (1 + 0.1 * (k % 3)), "memory": 1.2e8 + 1e6 * k,
                "values": _values(float(errors[k, j]), float(errors[:, j].min())),
                "images": [len(images) + seed for seed in range(len(noise))],
            })  # fmt: skip
            images += [png(_drawing(seed, side) + grain) for seed, grain in enumerate(noise)]
    ranked = [[who[k] for k in errors[:, j].argsort()] for j in range(len(nfes))]
    advice = [_advice(nfe, order) for nfe, order in zip(nfes, ranked, strict=True)]
    noisy = [entrant for entrant in ranked[0] if entrant["kind"] == "stochastic"]
    return {
        "title": "Solvers on demo",
        "model": "demo",
        "advice": advice + ([_advice(nfes[0], noisy, "stochastic")] if noisy else []),
        "metrics": [
            {
                "name": "rmse",
                "label": "RMSE",
                "title": "RMSE, 16 samples, less is better",
                "higher": False,
                "log": True,
            },
            {"name": "fd", "label": "FD", "title": "FD, 16 samples, less is better", "higher": False, "log": True},
        ],
        "entrants": who,
        "points": points,
        "steps": [_steps(k, nfe, rng) for k in range(entrants) for nfe in nfes],
        "reference": {"text": "200 evaluations of dpmpp_3m on karras", "shift": 0.0005, "images": list(range(seeds))},
        "images": images,
        "image_size": [side, side],
        "settings": [["seed", "0"], ["start", "pure noise"], ["guidance", "none"], ["prediction", "eps"]],
        "notes": ["heun takes two evaluations a step: of an odd number one is left over.", "era was stopped early."],
        "command": "fewstep compare demo --solvers unipc,deis,dpmpp_2m --grid karras,quadratic --budget 2m",
        "versions": "fewstep 0.2.0, torch 2.9.0, numpy 2.3.1",
    }
