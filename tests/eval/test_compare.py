"""The comparison: its figures are the errors, its tables say them, its pictures and files are whole."""

import csv
import io
import json
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from command_line import run
from PIL import Image

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.cli import main
from fewstep.eval.shared_noise import paired_cells, solver_errors, trials
from fewstep.eval.shared_noise.kept_samples import Drawn
from fewstep.eval.shared_noise.pairs import paired
from fewstep.output.files import whole
from fewstep.output.pictures import Line, image_sheet, plot_lines, tile

SCALE = torch.tensor([0.3, 1.0, 2.0]).double()


@pytest.fixture(scope="module")
def gaussian() -> tuple:
    """(draw, exact result) for data N(0, SCALE^2) under a VP schedule: x_end = x_T std(end) / std(start)."""
    schedule = NoiseSchedule.vp_linear()

    def eps(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = float(schedule.alpha(float(t))), float(schedule.sigma(float(t)))
        return sigma * x / (alpha**2 * SCALE**2 + sigma**2)

    x_T = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    start, end = ((schedule.alpha(t) ** 2 * SCALE**2 + schedule.sigma(t) ** 2) ** 0.5 for t in (1.0, schedule.t_end))
    denoiser = Denoiser(eps, schedule)

    def draw(**how: Any) -> Drawn:
        x0, info = sample(denoiser, x_T, return_info=True, **how)
        return Drawn(x0, info.nfe)

    return draw, x_T * end / start


def test_image_error_is_the_root_mean_square() -> None:
    a, b = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    b[1, 0, 0, 0] = 6.0
    assert solver_errors.image_errors(a, b).tolist() == [0.0, 3.0]


def test_curves_fall_with_the_order_of_the_solver(gaussian: tuple) -> None:
    draw, exact = gaussian
    for solver, order in (("ddim", 1), ("dpmpp_2m", 2)):
        curve = solver_errors.flow_errors(draw, exact, solver, (40, 80), "logsnr")
        assert 2 ** (order - 0.3) < curve.rmse[0] / curve.rmse[1] < 2 ** (order + 0.5)


def test_best_grid_has_the_least_error_and_unfit_grids_drop_out(gaussian: tuple) -> None:
    draw, exact = gaussian
    grids = ("uniform", "no such grid", "logsnr", "quadratic")
    best = solver_errors.errors_on_best_grid(draw, exact, "dpmpp_2m", (6, 10), grids)
    others = [solver_errors.flow_errors(draw, exact, "dpmpp_2m", (6, 10), grid) for grid in grids if "no" not in grid]
    assert best.score == min(other.score for other in others) and best.grid in grids
    with pytest.raises(ValueError, match="none of the grids"):
        solver_errors.errors_on_best_grid(draw, exact, "dpmpp_2m", (6,), ("no such grid",))


@pytest.mark.slow
def test_stochastic_solvers_are_compared_with_their_own_path(gaussian: tuple) -> None:
    """The error falls with nfe at strong order 1, and the reference is not the flow's."""
    draw, exact = gaussian
    curve = solver_errors.errors_on_best_grid(
        partial(draw, noise_seeds=range(5)), exact, "dpmpp_2m_sde", (20, 80), ("logsnr",)
    )
    assert 2 < curve.rmse[0] / curve.rmse[1] < 8
    assert float(solver_errors.image_errors(curve.reference, exact).mean()) > 5 * curve.rmse[1]


@pytest.mark.slow
def test_adaptive_solvers_show_their_best_affordable_run(gaussian: tuple) -> None:
    draw, exact = gaussian
    curve = solver_errors.adaptive_errors(draw, exact, "dpm_adaptive", (4, 60, 200))
    assert curve.rmse[0] == float("inf") and curve.rmse[1] >= curve.rmse[2] > 0 and curve.drawn[0] is None
    own = solver_errors.adaptive_errors(
        partial(draw, noise_seeds=range(5)), None, "gotta_go_fast", (200,), denoise=False
    )
    assert 0 < own.rmse[0] < 0.3 and torch.isfinite(own.reference).all()


def test_pictures_are_complete(tmp_path: Path) -> None:
    lines = [Line("ddim", (4, 10), (0.25, 0.0625)), Line("res_multistep", (4, 10), (0.5, 0.03125))]
    plot_lines(lines, tmp_path / "new" / "curves.png", "title", "RMSE")
    square = Image.new("L", (28, 28), 128)
    cells = [("ddim", [[square] * 4] * 3), ("res_multistep", [[square] * 4] * 3)]
    image_sheet(cells, ["nfe 4", "nfe 10", "reference"], tmp_path / "sheet.png")
    with Image.open(tmp_path / "new" / "curves.png") as plot, Image.open(tmp_path / "sheet.png") as sheet:
        plot.load()
        grey = sheet.convert("L").histogram()[128]
        assert grey >= 2 * 3 * 3 * (56 * 56)  # two rows, three columns, three images a cell, doubled
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["curves.png", "sheet.png"]
    assert tile([square] * 5, 3).size == (3 * 28 + 2, 2 * 28 + 1)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(target) as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    mask = os.umask(0o027)
    try:
        with whole(target) as path:
            path.write_text("new")
    finally:
        os.umask(mask)
    assert target.read_text() == "new" and stat.S_IMODE(target.stat().st_mode) == 0o640


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).int()


def test_sample_depends_on_the_seed_and_not_on_number_or_batch(tmp_path: Path) -> None:
    how = ("--nfe", 3, "--solver", "unipc")
    run("sample", *how, "-n", 3, "--out", f"{tmp_path}/all/")
    run("sample", *how, "-n", 3, "--batch-size", 2, "--out", f"{tmp_path}/parts/")
    run("sample", *how, "-n", 1, "--seed", 2, "--out", f"{tmp_path}/one/")
    images = {p.relative_to(tmp_path).as_posix(): pixels(p) for p in tmp_path.rglob("*.png")}
    assert sorted(images) == [f"all/00000{i}.png" for i in range(3)] + ["one/000002.png"] + [
        f"parts/00000{i}.png" for i in range(3)
    ]
    for other in ("one/000002.png", "parts/000002.png"):  # a level of rounding, from batched arithmetic
        assert (images["all/000002.png"] - images[other]).abs().max() <= 1
    assert (images["all/000002.png"] - images["all/000001.png"]).abs().max() > 100


def test_a_saved_pipeline_is_sampled_from_its_folder(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(8, 3, 3, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    pipe: Any = DDPMPipeline(unet, DDPMScheduler())
    pipe.save_pretrained(tmp_path / "model")
    run("sample", tmp_path / "model", "--nfe", 2, "-n", 2, "--out", tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (2 * 8 + 1, 8)
    result = CliRunner().invoke(main, ["sample", str(tmp_path / "model"), "--classes", "1"])
    assert result.exit_code == 2 and "DDPMPipeline takes no class_labels" in result.stderr


def test_classes_guidance_and_grid_change_the_image(tmp_path: Path) -> None:
    def image(*how: object) -> torch.Tensor:
        run("sample", "--nfe", 4, "-n", 1, "--out", tmp_path / "x.png", *how)
        return pixels(tmp_path / "x.png")

    plain = image("--solver", "deis")
    for how in (("--classes", 7), ("--guidance", 3), ("--grid", "karras"), ("--option", "order=1")):
        assert (plain - image("--solver", "deis", *how)).abs().max() > 10, how


QUICK = ("--reference", "solver=dpmpp_2m", "--reference", "nfe=30", "--reference", "grid=uniform")


def test_compare_prints_table_and_recommendation_and_writes_its_files(tmp_path: Path) -> None:
    how = ("compare", "--solvers", "ddim,dpmpp_2m", "--nfe", "4,12", "-n", 3, "--grid", "uniform", "--out", tmp_path)
    result = run(*how, *QUICK)
    head, columns, ddim, dpmpp_2m, *rest = result.stdout.splitlines()
    assert head == "RMSE, 3 samples, less is better" and columns.split()[0] == "solver"
    assert ddim.startswith("ddim on uniform") and dpmpp_2m.startswith("dpmpp_2m on uniform")
    advice = [line for line in rest if line.startswith("at ")]
    assert len(advice) == 2 and advice[1].startswith("at 12 evaluations: dpmpp_2m on uniform, RMSE")
    written = [line for line in rest if line.startswith("wrote ")]
    names = ["curve-rmse.png", "samples.png", "report.html", "results.json"]
    assert written == [f"wrote {tmp_path / name}" for name in names]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert "solver 2 of 2: dpmpp_2m on uniform" in result.stderr

    told = json.loads((tmp_path / "results.json").read_text())
    assert (
        told["about"]["reference"] == "30 evaluations of dpmpp_2m on uniform" and told["about"]["reference_shift"] > 0
    )
    assert [a["nfe"] for a in told["recommendations"]] == [4, 12]
    assert told["recommendations"][1]["line"].endswith("solver='dpmpp_2m', grid='uniform')")
    assert all(p["cost"]["nfe"] == p["nfe"] and p["cost"]["seconds"] > 0 for p in told["points"])
    assert all(len(p["steps"]["lam"]) == p["nfe"] + 1 for p in told["points"])
    assert "fewstep compare --solvers ddim,dpmpp_2m --nfe 4,12 -n 3" in (tmp_path / "report.html").read_text()


def test_compare_in_a_pipe_is_pure_csv_or_json(tmp_path: Path) -> None:
    how = ("compare", "--solvers", "ddim", "--nfe", "2,3", "-n", 2, "--grid", "uniform,karras", "--out", tmp_path)
    rows = list(csv.DictReader(io.StringIO(run(*how, "--format", "csv", *QUICK).stdout)))
    assert [(r["solver"], r["grid"], r["nfe"]) for r in rows] == [
        ("ddim", grid, n) for grid in ("uniform", "karras") for n in ("2", "3")
    ]
    assert all(
        float(r["rmse_low"]) <= float(r["rmse"]) <= float(r["rmse_high"]) and float(r["seconds"]) > 0 for r in rows
    )
    told = json.loads(run(*how, "--format", "json", *QUICK).stdout)
    assert [p["report"]["results"][0]["value"] for p in told["points"]] == [float(r["rmse"]) for r in rows]


def test_compare_as_one_page(tmp_path: Path) -> None:
    how = ("compare", "--solvers", "ddim,unipc", "--nfe", "4,5", "-n", 2, "--out", tmp_path / "report.html")
    result = run(*how, "--theme", "dark", *QUICK)
    page = (tmp_path / "report.html").read_text()
    assert result.stdout.splitlines()[-1] == f"wrote {tmp_path / 'report.html'}"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert "30 evaluations of dpmpp_2m on uniform" in page and page.count("data:image/png;base64,") == 2 * 5
    assert len(page) < 400_000


def test_many_cells_are_all_looked_at_and_very_many_by_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sheet has rows of all columns: fewer images of each cell first, then fewer solvers, the worst first."""
    how: dict[str, Any] = {"nfe": (2, 3), "pairs": 4, "metrics": ("rmse",), "reference": {"nfe": 8}}
    for most, each, solvers in ((40, 4, {"ddim", "heun"}), (10, 2, {"ddim", "heun"}), (4, 1, {"heun"})):
        monkeypatch.setattr(paired_cells, "MOST_SHOWN", most)
        found = paired("demo", ("ddim", "heun"), **how)
        best = {found.best("rmse", n) for n in (2, 3)}
        shown = {name for name, _ in found.samples} - {"reference"}
        assert {len(images) for images in found.samples.values()} == {each} and ("reference", 8) in found.samples
        assert len(shown) == len(solvers) and (len(solvers) == 2 or shown <= best)
        assert all((name, n) in found.samples for name in shown for n in (2, 3))


def test_a_resumed_comparison_draws_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"nfe": (2, 3), "pairs": 2, "metrics": ("rmse",), "reference": {"nfe": 8}, "state": tmp_path}
    draw, calls = trials.drawn, []
    monkeypatch.setattr(trials, "drawn", lambda batches, how: calls.append(how) or draw(batches, how))
    first = paired("demo", ("ddim",), **how)
    count = len(calls)
    second = paired("demo", ("ddim", "unipc on karras"), **how)
    assert [call["solver"] for call in calls[count:]] == ["unipc", "unipc"]
    for n in (2, 3):
        a, b = first.result("rmse", "ddim", n), second.result("rmse", "ddim", n)
        assert a is not None and b is not None and a.groups == b.groups
    assert first.points[0].cost == second.points[0].cost and first.points[0].steps == second.points[0].steps
    other = {**how, "pairs": 2, "seed": 7}
    paired("demo", ("ddim",), **other)
    assert len(calls) == count + 2 + count  # other seeds are other samples


def test_a_changed_sample_is_not_taken_for_what_was_drawn(tmp_path: Path) -> None:
    how = {"nfe": (2,), "pairs": 2, "metrics": ("rmse",), "reference": {"nfe": 4}, "state": tmp_path}
    paired("demo", ("ddim",), **how)
    for path in tmp_path.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(ValueError, match="changed or damaged.*Remove it: these samples are then drawn again"):
        paired("demo", ("ddim",), **how)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (("-n", 1), "an interval needs two images"),
        (("--theme", "mauve"), "--theme is auto, light or dark; got 'mauve'"),
        (("--metrics", "fdi"), "unknown metric 'fdi'"),
        (("--budget", "soon"), "--budget is a time such as 90s, 2m or 1h"),
        (("--reference", "nfe=0"), "at least 1"),
        (("--reference", "steps=5"), "told by solver, nfe, grid; got steps"),
        (("--reference", "solver=ddpm"), "without noise"),
        (("--grid", "karas"), "karras"),
        (("--solvers", "unipc on karas"), "karras"),
    ],
)
def test_what_cannot_be_compared_is_told_before_a_model_is_loaded(how: tuple, words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compare", "/no/such/model", "--out", str(tmp_path / "x.html"), *map(str, how)])
    assert result.exit_code == 2 and words in result.stderr, result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


def test_a_reference_that_is_not_converged_is_told_with_what_it_takes() -> None:
    found = paired("demo", ("deis",), (8,), pairs=2, metrics=("rmse",), reference={"nfe": 10})
    (note,) = (note for note in found.notes if "too near" in note)
    assert "deis at 8" in note and note.endswith("take one of more nfe, about 50")
