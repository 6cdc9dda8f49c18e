"""`tune`: certain gains on untouched seeds, a model that stays as it was, files that come back, sentences for bad input."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import launched
from tunable import Ring

import fewstep
from fewstep import adjoint
from fewstep.adjoint.tuning.trained_weights import Trained

QUICK: dict[str, Any] = {
    "shape": (2,), "seeds": range(128), "guard_seeds": range(5000, 5128), "batch": 64, "lr": 4e-3, "every": 10,
    "progress": False, "cache": False, "batch_size": 256, "teacher": {"nfe": 30},
}  # fmt: skip


def tuned(net: Ring, loss: Any = "pairs", **own: Any) -> Any:
    return fewstep.tune(net.denoiser(), "ddim", 3, loss, **{**QUICK, "steps": 30, **own})


@pytest.fixture(scope="module")
def pairs() -> tuple[Ring, Any]:
    net = Ring()
    return net, tuned(net)


def draw(net: Ring, nfe: int = 3, seed: int = 9) -> torch.Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x_T = net.schedule.initial_noise((32, 2), torch.Generator().manual_seed(seed))
        return fewstep.sample(net.denoiser(), x_T, "ddim", nfe)


def test_pairs_are_certainly_nearer_and_the_model_stays(pairs: tuple[Ring, Any]) -> None:
    net, found = pairs
    assert torch.equal(draw(net), draw(Ring()))
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert found.status == "tuned" and found.report["test"]["gain"]["interval"][1] < 0.95
    assert found.report["after"]["error"]["rms"] < found.report["before"]["error"]["rms"]
    assert "error to the teacher" in str(found)


def test_weights_know_their_table(pairs: tuple[Ring, Any], tmp_path: Path) -> None:
    """Saved, loaded and applied they draw the same to the bit; the table beside them is theirs, and another is warned of."""
    one, other = Ring(), Ring()
    found = pairs[1]
    found.apply(one)
    found.save(tmp_path / "kept")
    again = adjoint.Tuned.load(tmp_path / "kept")
    assert again.artefact == found.artefact and again.report["test"] == found.report["test"]
    again.apply(other.denoiser())
    assert torch.equal(draw(one), draw(other)) and not torch.equal(draw(one), draw(Ring()))
    x_T = one.schedule.initial_noise((4, 2), torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fewstep.sample(one.denoiser(), x_T, again.artefact, nfe=3)
        fewstep.sample(one.denoiser(), x_T, "ddim", 3)
    for solver, nfe in (("ddim", 4), ("dpmpp_2m", 3)):
        with pytest.warns(UserWarning, match="were tuned for ddim at 3"):
            fewstep.sample(one.denoiser(), x_T, solver, nfe)
    (tmp_path / "kept" / "tuned.json").write_text(
        (tmp_path / "kept" / "tuned.json").read_text().replace('"tuned"', '"no-gain"')
    )
    with pytest.raises(ValueError, match="changed or damaged"):
        adjoint.Tuned.load(tmp_path / "kept")


def test_low_rank_parts_come_off_to_the_bit() -> None:
    net = Ring()
    found = tuned(net, weights="lora", rank=1, lr=3e-2)
    assert torch.equal(draw(net), draw(Ring())) and set(dict(net.named_parameters())) == set(
        dict(Ring().named_parameters())
    )
    assert found.status == "tuned" and all("lora_" in name for name in found.tensors)
    before = draw(net)
    found.apply(net)
    assert not torch.allclose(draw(net), before)
    with pytest.raises(ValueError, match="already"):
        found.apply(net)
    with pytest.raises(ValueError, match="another network"):
        found.apply(Ring(width=16))


def test_what_was_interrupted_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def ended(p: Any) -> None:
        if p.step == 10:
            raise KeyboardInterrupt

    few = {"steps": 20, "guard_seeds": range(5000, 5016), "batch": 16, "seeds": range(48)}
    whole = tuned(Ring(), resume=tmp_path / "a", **few)
    first = tuned(Ring(), resume=tmp_path / "b", **{**few, "progress": ended})
    assert first.report["interrupted"] and first.report["steps"] == 10
    second = tuned(Ring(), resume=tmp_path / "b", **few)
    assert second.report["steps"] == 20
    assert all(torch.equal(whole.tensors[name], second.tensors[name]) for name in whole.tensors)


def test_no_gain_leaves_the_weights() -> None:
    net = Ring()
    found = tuned(net, steps=1, lr=1e-9, guard_seeds=range(5000, 5016))
    assert found.status == "no-gain"
    with pytest.warns(UserWarning, match="nothing was certainly better"):
        found.apply(net)
    assert torch.equal(draw(net), draw(Ring()))


@pytest.mark.parametrize(
    "kind",
    ["reward+hold", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pairs+error", "pairs+fokker_planck"))],
)
def test_sums_of_losses(kind: str) -> None:
    own = {"reward": lambda images: images[:, 0]} if kind.startswith("reward") else {}
    found = tuned(Ring(), kind, steps=8, lr=1e-2, **own)
    assert found.status == "tuned"
    assert found.report["decided_by"] == kind.split("+")[0].replace("pairs", "error")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"loss": "mmd"}, "compares with data"),
        ({"loss": "reward"}, "needs `reward`"),
        ({"loss": "error"}, "beside another"),
        ({"loss": "pears"}, "Did you mean 'pairs'"),
        ({"loss": [("pairs", {"wey": 1})]}, "no option 'wey'"),
        ({"loss": {"pairs": -1}}, "`weight` of loss"),
        ({"loss": "pairs+pairs"}, "each once"),
        ({"guard_seeds": range(4, 20)}, "untouched"),
        ({"seeds": range(3)}, "at least 8"),
        ({"solver": "rk45"}, "chooses its steps"),
        ({"weights": "some"}, "unknown weights"),
        ({"lr": 0}, "`lr`"),
        ({"reward": 3}, "`reward` must be a function"),
        ({"weights": "lora", "rank": 64}, "larger than rank"),
        ({"loss": "reward", "reward": lambda images: images.mean()}, "one number an image"),
        ({"loss": "reward", "reward": lambda images: images[:, 0] * float("nan")}, "finite"),
    ],
)
def test_bad_input(own: dict[str, Any], said: str) -> None:
    asked = {
        "steps": 2,
        **QUICK,
        "seeds": range(8),
        "guard_seeds": range(5000, 5008),
        "loss": "pairs",
        "solver": "ddim",
        **own,
    }
    net = Ring()
    with pytest.raises(ValueError, match=said):
        fewstep.tune(net.denoiser(), asked.pop("solver"), 3, asked.pop("loss"), **asked)
    assert all(p.requires_grad for p in net.parameters()) and len(dict(net.named_parameters())) == 6


def test_half_precision_is_refused_where_it_would_not_move() -> None:
    net = Ring()
    net.inner.bfloat16()
    with pytest.raises(ValueError, match="load the model in float32"):
        Trained({"network": net}, "all", 8, None, 0)


def test_a_function_says_no_weights() -> None:
    net = Ring()
    closed = fewstep.Denoiser(lambda x, tau: net(x, tau), net.schedule, "sample")
    with pytest.raises(ValueError, match="networks=net"):
        fewstep.tune(closed, "ddim", 3, **QUICK)
    assert fewstep.tune(closed, "ddim", 3, networks=net, **{**QUICK, "steps": 1}).networks == ("network",)


@pytest.mark.slow
def test_the_embedded_pipeline_by_the_command(tmp_path: Path) -> None:
    """A folder that opens as a pipeline, plays its table by itself, and says so where another is played."""
    from click.testing import CliRunner
    from diffusers import UNet2DModel

    from fewstep.cli import main
    from fewstep.demo.pipeline import DigitsPipeline

    out = tmp_path / "tuned"
    asked = [
        "--nfe",
        "2",
        "--steps",
        "6",
        "--batch",
        "8",
        "-n",
        "16",
        "--guard",
        "16",
        "--teacher-nfe",
        "12",
        "--every",
        "3",
    ]
    asked += ["--lr", "6e-5", "--ema", "0.5", "--no-cache", "--method", "direct", "--out", str(out)]
    done = CliRunner().invoke(main, ["tune", "demo", *asked])
    assert done.exit_code == 0, done.output
    assert "tuned: ddim at 2" in done.output
    pipe = DigitsPipeline.from_pretrained(str(out))
    assert isinstance(pipe.unet, UNet2DModel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe([1], num_inference_steps=2)
        denoiser = fewstep.Denoiser.from_pipeline(pipe, class_labels=[1])  # which plays nothing yet
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver="dpmpp_2m")
    with pytest.warns(UserWarning, match="tuned for ddim at 2"):
        pipe([1], num_inference_steps=3)
    with pytest.warns(UserWarning, match="tuned for ddim at 2"):
        fewstep.sample(denoiser, torch.randn(1, 1, 28, 28), "ddim", 5)
    with pytest.raises(ValueError, match="open that"):
        adjoint.Tuned.load(out)


@pytest.mark.slow
def test_accelerate_gives_the_same() -> None:
    from accelerate import Accelerator

    few = {"steps": 6, "guard_seeds": range(5000, 5016)}
    one, other = tuned(Ring(), **few), tuned(Ring(), accelerator=Accelerator(cpu=True), **few)
    assert all(torch.allclose(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["--loss", "mmd"], "--data FOLDER"),
        (["--loss", "reward"], "a reward is a function"),
        (["--loss", "pairs+pears"], "pears"),
        (["--out", "."], "holds something already"),
    ],
)
def test_bad_lines(said: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is loaded."""
    from click.testing import CliRunner

    from fewstep.cli import main

    (tmp_path / "other.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["tune", "nobodys/model", *said])
    assert done.exit_code == 2 and told in done.output, done.output


@pytest.mark.slow
def test_two_processes_end_with_one_set_of_weights(tmp_path: Path) -> None:
    """Each takes batches of its own, as many as twice the passes of one process take; their gradients are averaged."""
    script = """
        from accelerate import Accelerator
        import fewstep
        from tunable import Ring
        found = fewstep.tune(
            Ring().denoiser(), "ddim", 3, shape=(2,), seeds=range(64), guard_seeds=range(5000, 5016), batch=14, steps=4,
            lr=4e-3, every=2, cache=False, progress=False, teacher={"nfe": 20}, accelerator=Accelerator(cpu=True), ema=0.1,
        )
        sums = [round(float(v.double().sum()), 5) for v in found.tensors.values()]
        print("sums", rank, sums, flush=True)
        dist.destroy_process_group()
    """
    lines = re.findall(r"sums \d (\[[^\]]*\])", launched(tmp_path, 2, script))
    few = {"seeds": range(64), "guard_seeds": range(5000, 5016), "batch": 14, "steps": 4, "every": 2, "ema": 0.1}
    alone = tuned(Ring(), accumulate=2, teacher={"nfe": 20}, **few)
    assert len(lines) == 2 and lines[0] == lines[1]
    want = [float(v.double().sum()) for v in alone.tensors.values()]
    assert [float(v) for v in lines[0].strip("[]").split(",")] == pytest.approx(want, abs=1e-4)
