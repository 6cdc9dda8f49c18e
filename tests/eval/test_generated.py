"""Images drawn while they are read are those that `fewstep sample` saves, and each is a function of its seed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from pipelines import PIPELINES
from torch import Tensor
from worded_pipelines import worded

import fewstep
from fewstep import NoiseSchedule
from fewstep.cli import main
from fewstep.eval.images import ImageSet, image_set, sobol
from fewstep.eval.images.generated import Generated
from fewstep.eval.images.reading import read
from fewstep.eval.images.sobol import Sobol
from fewstep.samplers.pipeline.source import Source


@pytest.fixture(scope="module")
def source() -> Source:
    return Source("demo", device="cpu", batch_size=4)


def drawn(images: ImageSet, size: int = 4, workers: int = 0) -> list[Tensor]:
    assert images.count
    blocks = [range(k, min(k + size, images.count)) for k in range(0, images.count, size)]
    found = list(read(images, blocks, workers))
    assert [i for indices, _ in found for i in indices] == list(range(images.count))
    return [image for _, some in found for image in some]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def levels_apart(a: list[Tensor], b: list[Tensor]) -> int:
    return max(int((x.int() - y.int()).abs().max()) for x, y in zip(a, b, strict=True))


LIKE_THE_COMMAND: list[Any] = [
    ("--nfe 3", {"nfe": 3}),
    (
        "--solver unipc --nfe 4 --guidance 2 --classes 7,1 --grid karras",
        {"solver": "unipc", "nfe": 4, "guidance": 2.0, "classes": (7, 1), "grid": "karras"},
    ),
    (
        "--solver dpmpp_2m_sde --nfe 3 --noise brownian --option tau=0.5",
        {"solver": "dpmpp_2m_sde", "nfe": 3, "noise": "brownian", "options": {"tau": 0.5}},
    ),
    pytest.param(
        "--solver dpm_adaptive --option rtol=0.5",
        {"solver": "dpm_adaptive", "options": {"rtol": 0.5}},
        marks=pytest.mark.slow,  # a run for every image
    ),
]


@pytest.mark.parametrize(("arguments", "how"), LIKE_THE_COMMAND)
@pytest.mark.slow
def test_drawing_equals_reading_what_the_command_saved(tmp_path: Path, arguments: str, how: dict[str, Any]) -> None:
    common = f"sample demo --seed 5 -n 6 --batch-size 4 --device cpu --out {tmp_path}/saved/"
    ran = CliRunner().invoke(main, [*common.split(), *arguments.split()])
    assert ran.exit_code == 0, ran.output
    images = Generated("demo", seeds=range(5, 11), batch_size=4, device="cpu", keep=tmp_path / "kept", **how)
    assert_equal(drawn(images), drawn(image_set(tmp_path / "saved")))
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "kept" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "kept").iterdir())) == 6


def test_a_pipeline_in_colour_is_read_as_it_is_saved(tmp_path: Path) -> None:
    pipe, _ = PIPELINES["ddpm"].make()
    images = image_set(pipe, solver="euler", nfe=2, number=3, keep=tmp_path)
    assert isinstance(images, Generated) and images.lossy is False
    found = drawn(images)
    assert_equal(found, drawn(image_set(tmp_path)))
    assert any(not torch.equal(image[0], image[1]) for image in found)


@pytest.mark.parametrize("name", ["demo", pytest.param("sd", marks=pytest.mark.slow)])
def test_images_as_tensors_are_the_pictures(
    name: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a look at a picture, and as batches that stay where they were made."""
    made: Any = source
    if name == "sd":
        pipe, call = PIPELINES["sd"].make()
        call = {key: value for key, value in call.items() if key not in ("output_type", "generator")}
        made = Source(pipe, batch_size=4, call=call)
    pictures = drawn(Generated(made, nfe=2, number=6, keep=tmp_path))
    monkeypatch.setattr("fewstep.eval.images.generated.from_picture", None)
    monkeypatch.setattr("PIL.Image.fromarray", None)
    assert_equal(drawn(Generated(made, nfe=2, number=6)), pictures)
    images = Generated(made, nfe=2, number=6)
    assert images.whole([range(6)], torch.device("cpu")) is None
    whole = images.whole([range(6)], torch.device("cuda"))
    assert whole is not None
    batches = [batch.made() for batch in whole]
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert_equal([image for batch in batches for image in batch.parts[0]], pictures)
    assert all(batch.codes is not None and not batch.codes.any() for batch in batches)
    assert Generated(made, nfe=2, number=6, keep=tmp_path).whole([range(6)], torch.device("cuda")) is None


def test_an_image_depends_on_its_seed_alone(source: Source) -> None:
    seven = drawn(Generated(source, nfe=3, seeds=range(7)))
    assert_equal(seven, drawn(Generated(source, nfe=3, number=7)))
    assert levels_apart(seven, drawn(Generated(source, nfe=3, number=7), size=3)) <= 1
    some = Generated(source, nfe=3, seeds=[5, 2])
    assert levels_apart(drawn(some), [seven[5], seven[2]]) <= 1
    assert levels_apart(seven[:1], seven[1:2]) > 100
    assert some.count == 2 and some.evaluations == 3 and some.seconds > 0


def test_workers_are_not_used_for_drawing(source: Source) -> None:
    assert_equal(drawn(Generated(source, nfe=1, number=4)), drawn(Generated(source, nfe=1, number=4), workers=2))


def test_fingerprints_tell_every_wish_apart(source: Source) -> None:
    base: dict[str, Any] = {"solver": "ddim", "nfe": 3, "number": 4}
    changes: list[dict[str, Any]] = [
        {},
        {"solver": "dpmpp_2m"},
        {"nfe": 4},
        {"number": 5},
        {"number": None, "seeds": range(1, 5)},
        {"grid": "karras"},
        {"noise": "brownian"},
        {"options": {"eta": 0.5}},
        {"sobol": True},
        {"sobol": True, "scramble": 1},
    ]
    prints = [Generated(source, **{**base, **change}).fingerprint for change in changes]
    prints.append(Generated("demo", device="cpu", classes=[1], **base).fingerprint)
    pipe = fewstep.load_demo_pipeline("cpu")
    assert Generated(pipe, classes=range(10), **base).fingerprint == prints[0]
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1e-3)
    prints.append(Generated(pipe, classes=range(10), **base).fingerprint)
    assert len(set(prints)) == len(prints)
    assert Generated(source, **base, keep="elsewhere").fingerprint == prints[0]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "say either number= .* or seeds="),
        ({"number": 3, "seeds": [1]}, "say either number="),
        ({"number": 0}, "no images: `number`"),
        ({"seeds": [3, 4, 3]}, "some `seeds` are equal"),
        ({"number": 2, "solver": "dpmp_2m"}, "unknown solver 'dpmp_2m'. Did you mean 'dpmpp_2m'"),
        ({"number": 2, "nfe": 0}, "at least 1; got 0"),
        ({"number": 2, "grid": "karas"}, "unknown grid 'karas'. Did you mean 'karras'"),
        ({"number": 2, "options": {"ordr": 2}}, "ordr"),
    ],
)
def test_wishes_are_checked_before_a_model_is_loaded(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generated("./no-such-model", **how)


def test_a_source_takes_no_second_wishes(source: Source) -> None:
    with pytest.raises(ValueError, match="a Source is made already; it takes no classes, device"):
        Generated(source, number=2, device="cpu", classes=[1])


# Sobol noise ----------------------------------------------------------------------------------------------------------


def test_sobol_points_are_balanced_in_every_dimension() -> None:
    points = Sobol(3)
    for seeds in (range(64), range(64, 128), range(960, 1024)):
        u = torch.special.ndtr(points.points(seeds, 50))
        strata = (u * 64).floor().long().sort(dim=0).values
        assert torch.equal(strata, torch.arange(64)[:, None].expand(64, 50))  # one point in each 64th


def test_sobol_points_belong_to_their_seeds() -> None:
    all_at_once = Sobol().points(range(40), 30)
    other = Sobol()
    for seeds in ([7, 3, 39], range(10, 20), [0], [39]):
        assert torch.equal(other.points(seeds, 30), all_at_once[list(seeds)])
    assert not torch.equal(Sobol(1).points(range(40), 30), all_at_once)
    assert all_at_once.isfinite().all() and all_at_once.abs().max() < 6.3


def test_sobol_noise_is_the_same_in_any_blocks(source: Source, tmp_path: Path) -> None:
    def images() -> Generated:
        return Generated(source, nfe=2, number=8, sobol=True)

    whole = drawn(images(), size=8)
    assert_equal(whole, drawn(images(), size=4))
    assert_equal(whole[4:], [image for _, some in images().read([range(4, 8)]) for image in some])
    assert levels_apart(whole, drawn(Generated(source, nfe=2, number=8))) > 100
    assert "Sobol" in images().name


def batch(schedule: Any, seeds: Any = range(16), shape: tuple[int, ...] = (3, 8, 8)) -> Any:
    x_T = schedule.initial_noise((len(seeds), *shape), [torch.Generator().manual_seed(s) for s in seeds])
    return SimpleNamespace(x_T=x_T, seeds=list(seeds), denoiser=SimpleNamespace(schedule=schedule))


@pytest.mark.parametrize("schedule", [NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()])
def test_sobol_noise_has_the_scale_of_the_model(schedule: Any) -> None:
    one = batch(schedule)
    x = Sobol()(one)
    scale = 80.0 if schedule.kind == "ve" else 1.0
    assert x.shape == one.x_T.shape and x.dtype == one.x_T.dtype
    assert torch.allclose(x.flatten(1), scale * Sobol().points(one.seeds, 192).float())
    assert abs(float(x.std()) / scale - 1) < 0.05


def test_beyond_the_last_dimension_noise_is_the_seeds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sobol, "DIMENSIONS", 100)
    one = batch(NoiseSchedule.vp_linear())
    x = Sobol()(one).flatten(1)
    assert torch.equal(x[:, 100:], one.x_T.flatten(1)[:, 100:])
    assert torch.allclose(x[:, :100], Sobol().points(one.seeds, 100).float())


def test_sobol_noise_is_refused_where_it_makes_no_sense() -> None:
    schedule = NoiseSchedule.vp_linear()
    from_image, twice, smooth = batch(schedule), batch(schedule), batch(schedule)
    from_image.x_T = 0.5 * from_image.x_T + 0.3
    twice.x_T = twice.x_T.repeat(2, 1, 1, 1)
    smooth.denoiser.schedule = NoiseSchedule.edm()
    for one in (from_image, twice, smooth, batch(NoiseSchedule.pfgm())):
        with pytest.raises(ValueError, match="starts from independent Gaussian noise alone"):
            Sobol()(one)
    with pytest.raises(ValueError, match="numbered by the seeds, from 0"):
        Sobol()(batch(schedule, [0, 2**30]))


def test_other_forms_of_output_are_the_same_pictures_and_latents_are_none() -> None:
    pipe, call = worded("sd")
    call = {name: value for name, value in call.items() if name != "output_type"} | {"prompt": "a"}

    def pictures(**more: Any) -> list[Tensor]:
        return drawn(Generated(pipe, "ddim", 2, number=2, call={**call, **more}))

    plain = pictures()
    for kind in ("pt", "np", "pil"):
        assert_equal(pictures(output_type=kind), plain)
    with pytest.raises(ValueError, match="leave it away, or 'pil'"):
        pictures(output_type="latent")
