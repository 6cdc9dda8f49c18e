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
from fewstep.eval.compare import comparison, solver_errors, trials
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
    return lambda **how: sample(denoiser, x_T, **how), x_T * end / start


def test_image_error_is_the_root_mean_square() -> None:
    a, b = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    b[1, 0, 0, 0] = 6.0
    assert solver_errors.image_errors(a, b).tolist() == [0.0, 3.0]


def test_curves_fall_with_the_order_of_the_solver(gaussian: tuple) -> None:
    draw, exact = gaussian
    for solver, order in (("ddim", 1), ("dpmpp_2m", 2)):
        curve = solver_errors.flow_errors(draw, exact, solver, (40, 80), "logsnr")
        assert 2 ** (order - 0.3) < curve.rmse[0] / curve.rmse[1] < 2 ** (order + 0.5)
        assert all(worst >= mean for worst, mean in zip(curve.worst, curve.rmse, strict=True))


def test_best_grid_has_the_least_error_and_unfit_grids_drop_out(gaussian: tuple) -> None:
    draw, exact = gaussian
    grids = ("uniform", "no such grid", "logsnr", "quadratic")
    best = solver_errors.errors_on_best_grid(draw, exact, "dpmpp_2m", (6, 10), grids)
    others = [solver_errors.flow_errors(draw, exact, "dpmpp_2m", (6, 10), grid) for grid in grids if "no" not in grid]
    assert best.score == min(other.score for other in others) and best.grid in grids
    with pytest.raises(ValueError, match="none of the grids"):
        solver_errors.errors_on_best_grid(draw, exact, "dpmpp_2m", (6,), ("no such grid",))


def curves() -> list[solver_errors.SolverErrors]:
    make = lambda name, grid, *rmse: solver_errors.SolverErrors(name, grid, (4, 10), rmse, rmse, (), torch.zeros(1))  # noqa: E731
    return [make("ddim", "karras", 0.25, 0.0625), make("res_multistep", "uniform", 0.5, 0.03125)]


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

    def run(**how: Any) -> tuple[torch.Tensor, float]:
        x0, info = draw(return_info=True, **how)
        return x0, info.nfe

    curve = solver_errors.adaptive_errors(run, exact, "dpm_adaptive", (4, 60, 200))
    assert curve.rmse[0] == float("inf") and curve.rmse[1] >= curve.rmse[2] > 0
    assert (
        "-" in comparison.table([curve]).text()
        and json.loads(comparison.json_table([curve]))["rows"][0]["rmse"][0] is None
    )
    own = solver_errors.adaptive_errors(
        partial(run, noise_seeds=range(5)), None, "gotta_go_fast", (200,), denoise=False
    )
    assert 0 < own.rmse[0] < 0.3 and torch.isfinite(own.reference).all()


def test_text_table_is_aligned_and_stars_the_best() -> None:
    head, *lines = comparison.table(curves()).text().splitlines()
    assert [line.split() for line in lines] == [
        ["ddim", "karras", "0.25000*", "0.06250"],
        ["res_multistep", "uniform", "0.50000", "0.03125*"],
    ]
    points = [{i for i, c in enumerate(line) if c == "."} for line in lines]
    assert points[0] == points[1] and head.split() == ["solver", "grid", "nfe", "4", "nfe", "10"]


def test_csv_and_json_say_the_same() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison.csv_table(curves()))))
    assert [(r["solver"], int(r["nfe"]), float(r["rmse"])) for r in rows][1:3] == [
        ("ddim", 10, 0.0625),
        ("res_multistep", 4, 0.5),
    ]
    told = json.loads(comparison.json_table(curves(), images=3))
    assert told["images"] == 3 and [r["rmse"] for r in told["rows"]] == [[0.25, 0.0625], [0.5, 0.03125]]


def test_pictures_are_complete(tmp_path: Path) -> None:
    lines = [Line(row.solver, row.nfes, row.rmse) for row in curves()]
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


def test_compare_prints_its_table_and_writes_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "REFERENCE", {"solver": "dpmpp_2m", "nfe": 30, "grid": "uniform"})
    how = ("compare", "--solvers", "ddim,dpmpp_2m", "--nfe", "4,12", "-n", 2, "--grid", "uniform", "--out", tmp_path)
    result = run(*how)
    _, ddim, dpmpp_2m, about, *written = result.stdout.splitlines()
    assert ddim.split()[:2] == ["ddim", "uniform"] and dpmpp_2m.split()[:2] == ["dpmpp_2m", "uniform"]
    assert "30 evaluations of dpmpp_2m on uniform" in about
    assert written == [f"wrote {tmp_path / name}" for name in ("curves.png", "samples.png", "results.json")]
    assert "solver 2 of 2: dpmpp_2m" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "results.json", "samples.png"]

    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(row["rmse"][1] < row["rmse"][0] for row in rows) and rows[1]["rmse"][1] < rows[0]["rmse"][1]
    assert [float(cell.strip("*")) for cell in ddim.split()[2:]] == [round(e, 5) for e in rows[0]["rmse"]]


def test_compare_in_a_pipe_is_pure_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "REFERENCE", {"solver": "dpmpp_2m", "nfe": 8, "grid": "uniform"})
    result = run(
        "compare", "--solvers", "ddim", "--nfe", "2,3", "-n", 1, "--format", "csv", "--grid", "auto", "--out", tmp_path
    )
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["nfe"] for row in rows] == ["2", "3"] and {row["grid"] for row in rows} <= set(trials.AUTO_GRIDS)


def test_compare_as_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "REFERENCE", {"solver": "dpmpp_2m", "nfe": 8, "grid": "uniform"})
    result = run("compare", "--solvers", "ddim,unipc", "--nfe", "4,5", "-n", 1, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert result.stdout.splitlines()[-1] == f"wrote {tmp_path / 'report.html'}"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert page.count("<tr>") == 3 and page.count('class="best"') == 2 and page.count("data:image/png;base64,") == 2
    assert ">unipc" in page and "8 evaluations of dpmpp_2m on uniform" in page
