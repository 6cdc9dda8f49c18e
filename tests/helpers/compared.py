"""Data of comparisons as the page wants them, made up: errors that fall with the evaluations, at the orders of their solvers."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

SOLVERS = ("unipc", "deis", "dpmpp_2m", "dpmpp_3m", "ddim", "heun", "euler", "seeds_2", "era", "ipndm", "table", "res_2m")
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


def comparison(entrants: int = 40, nfes: tuple[int, ...] = NFES, pictured: int = 10, seeds: int = 3) -> dict[str, Any]:
    """A comparison of so many entrants, some of them with images."""
    rng, who, images = np.random.default_rng(0), _entrants(entrants), []
    side = 28
    for seed in range(seeds):
        images.append(png(_drawing(seed, side)))
    errors = np.empty((entrants, len(nfes)))
    for k, entrant in enumerate(who):
        order = 1.0 if entrant["order"] is None else entrant["order"]
        errors[k] = 0.6 * (1 + 0.5 * rng.random()) * (4 / np.array(nfes)) ** order * np.exp(0.06 * rng.standard_normal(len(nfes)))
    points, steps = [], []
    for k, entrant in enumerate(who):
        for j, nfe in enumerate(nfes):
            if k % 9 == 8 and j % 3 == 2:
                continue
            error, best = errors[k, j], errors[:, j].min()
            fd = 30 * error + 3
            shown = []
            for seed in range(seeds if k < pictured else 0):
                noise = error * 0.5 * rng.standard_normal((side, side))
                shown.append(len(images))
                images.append(png(_drawing(seed, side) + noise))
            points.append({
                "entrant": k, "nfe": nfe, "n": 4 if k % 7 == 6 else 16, "seconds": 0.0021 * nfe * (1 + 0.1 * (k % 3)),
                "memory": 1.2e8 + 1e6 * k,
                "values": {
                    "rmse": {"value": error, "low": 0.93 * error, "high": 1.08 * error, "marked": bool(error < 1.08 * best),
                             "apart": {"value": error - best, "half": 0.03 * error}},
                    "fd": {"value": fd, "low": None, "high": None, "marked": bool(fd < 30 * best + 3.2), "apart": None},
                },
                "images": shown,
            })  # fmt: skip
            lam = np.linspace(-5, 4, nfe + 1) + (0.3 * np.sin(np.arange(nfe + 1) + k) if k % 2 else 0)
            weights = rng.standard_normal(nfe) * 0.12 + np.linspace(0.02, 2 / nfe, nfe)
            ends = [*lam[:-1].tolist(), None if k % 5 == 4 else float(lam[-1])]
            steps.append({"entrant": k, "nfe": nfe, "lam": ends, "weights": (weights / weights.sum()).tolist()})
    advice = []
    for j, nfe in enumerate(nfes):
        rank = np.argsort(errors[:, j])
        best, second = who[rank[0]]["label"], [who[r]["label"] for r in rank[1:3]]
        text = f"at {nfe} evaluations: {best}, 0.71 [0.66, 0.77] of deis on karras; within noise of it: {', '.join(second)}"
        line = f'pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, solver="{who[rank[0]]["solver"]}", grid="{who[rank[0]]["grid"]}")'
        advice.append({"nfe": nfe, "text": text, "best": best, "alike": second, "line": line, "kind": "flow"})
    return {
        "title": "Solvers on demo", "model": "demo", "advice": advice,
        "metrics": [
            {"name": "rmse", "label": "RMSE", "title": "RMSE, 16 samples, less is better", "higher": False, "log": True},
            {"name": "fd", "label": "FD", "title": "FD of 16 samples, less is better", "higher": False, "log": True},
        ],
        "entrants": who, "points": points, "steps": steps,
        "reference": {"text": "200 evaluations of dpmpp_3m on karras", "shift": 0.0005, "images": list(range(seeds))},
        "images": images, "image_size": [side, side],
        "settings": [["seed", "0"], ["images", "16"], ["start", "pure noise"], ["guidance", "none"], ["prediction", "eps"], ["device", "cpu"]],
        "notes": ["heun takes two evaluations a step: at an odd number of evaluations it takes one less.", "era was stopped early: it was far behind."],
        "command": "fewstep compare demo --solvers unipc,deis,dpmpp_2m --grid karras,quadratic,beta --nfe 4,5,6,8,10,15,20 --budget 2m",
        "versions": "fewstep 0.2.0, torch 2.9.0, numpy 2.3.1",
    }  # fmt: skip
