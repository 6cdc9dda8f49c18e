"""What an installed copy promises: complete, cheap to import, and nothing beside the name `fewstep`."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT, TESTS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = {"fewstep": "fewstep", "samplers": "fewstep.samplers", "adjoint": "fewstep.adjoint", "eval": "fewstep.eval"}
DATA = (".json", ".safetensors", ".npz", ".html", ".css", ".js")
NAMED = ("py.typed", "prompts.txt")


def run(*command: str, cwd: Path = ROOT, **environ: str) -> str:
    result = subprocess.run(command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def source_files() -> dict[str, Path]:
    """Path inside the wheel -> file here, for every module and data file of the four folders (links not followed)."""
    files = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*")):
            inside = path.relative_to(ROOT / folder)
            linked = folder == "fewstep" and (ROOT / folder / inside.parts[0]).is_symlink()
            if path.is_file() and not linked and (path.suffix in (".py", ".pyi", *DATA) or path.name in NAMED):
                files[(Path(*package.split(".")) / inside).as_posix()] = path
    return files


def test_every_package_is_listed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {name.rpartition("/")[0].replace("/", ".") for name in source_files() if name.endswith("/__init__.py")}
    assert found == set(config["tool"]["setuptools"]["packages"])


def test_every_module_lies_in_a_package() -> None:
    files = source_files()
    for name in files:
        assert f"{name.rpartition('/')[0]}/__init__.py" in files, f"{name} would be missing from a wheel"


def test_links_make_one_namespace() -> None:
    import fewstep.samplers

    assert fewstep.samplers.__file__ is not None
    assert Path(fewstep.samplers.__file__).resolve() == ROOT / "samplers" / "__init__.py"


def test_import_is_cheap() -> None:
    run(
        sys.executable,
        "-c",
        "import sys, fewstep\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n",
    )


@pytest.mark.slow
def test_public_names_resolve() -> None:
    run(sys.executable, "-c", "import fewstep\nfor name in fewstep.__all__: getattr(fewstep, name)\n")


@pytest.mark.slow
def test_scheduler_and_sample_load_few_lines() -> None:
    """Imported and used once each: of 56,000; the first release, without limiter, seals and rules by class, 10,429."""
    run(
        sys.executable, "-c",
        "import sys, torch\n"
        "from fewstep import Denoiser, NoiseSchedule, Scheduler, sample\n"
        "sample(Denoiser(lambda x, t: x, NoiseSchedule.vp_linear()), torch.randn(1, 2), 'dpmpp_2m', 3)\n"
        "Scheduler.from_config({'_class_name': 'DDIMScheduler'}).set_timesteps(3)\n"
        "files = [m.__file__ for name, m in sys.modules.items() if name.startswith('fewstep') and m.__file__]\n"
        "lines = sum(len(open(file, encoding='utf-8').read().splitlines()) for file in files)\n"
        "assert lines < 12_700, lines\n",
    )  # fmt: skip


def test_unknown_attribute_is_an_attribute_error() -> None:
    import fewstep

    with pytest.raises(AttributeError, match="no_such_name"):
        fewstep.no_such_name  # noqa: B018


@pytest.mark.slow
def test_wheel_is_complete_and_works_from_another_directory(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip")
    build = ("--no-deps", "--no-build-isolation")
    source = tmp_path / "source"  # a copy: building in place would pack what an earlier build left behind
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(*pip, "wheel", *build, "--wheel-dir", str(tmp_path / "wheel"), str(source))
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == set(source_files())

    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} <= {"fewstep", "bin"}
    check = (
        "import fewstep, importlib.util\n"
        f"assert fewstep.__file__.startswith({str(site)!r}), fewstep.__file__\n"
        "fewstep.load_demo_pipeline(); fewstep.samplers.SOLVERS; fewstep.Scheduler\n"
        "assert not [n for n in ('samplers', 'adjoint', 'eval') if importlib.util.find_spec(n)]\n"
        "found = importlib.util.find_spec('tests')  # others install such a package\n"
        f"assert found is None or not str(found.origin).startswith({str(TESTS)!r}), found\n"
    )
    # The dependencies stay those of this environment; PYTHONPATH puts the wheel before an editable install.
    run(sys.executable, "-c", check, cwd=elsewhere, PYTHONPATH=str(site))
