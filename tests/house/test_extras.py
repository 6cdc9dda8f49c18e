"""The core does without the optional packages; what needs one says which extra brings it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from places import ROOT

from fewstep.lazy import EXTRA_OF

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def without(packages: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter in which these packages are not installed, as far as an import can tell."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
    return subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_the_core_needs_torch_and_numpy_alone() -> None:
    """Continuous schedules: build, sample, save and load, gradients."""
    ran = without(
        list(EXTRA_OF),
        "import torch\n"
        "from fewstep import Denoiser, NoiseSchedule, adjoint, build, load, sample\n"
        "from fewstep.samplers import SOLVERS, guidance\n"
        "flow = NoiseSchedule.flow()\n"
        "d = Denoiser(lambda x, t: 0.5 * x, flow, 'flow_prediction')\n"
        "x = torch.randn(2, 3, requires_grad=True)\n"
        "for name in ('deis', 'unipc', 'auto', 'heun', 'dpmpp_2m_sde'):\n"
        "    assert sample(d, x.detach(), name, 5).isfinite().all()\n"
        "adjoint.sample(d, x, 'dpmpp_2m', 4).sum().backward()\n"
        "assert x.grad is not None and len(SOLVERS) > 60 and build('unipc', flow, 4).nfe == 4\n",
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_pipelines_need_no_pictures_nor_command_line() -> None:
    ran = without(
        ["matplotlib", "jinja2", "torchvision", "accelerate", "click"],
        "from fewstep import Scheduler\n"
        "s = Scheduler.from_config({'_class_name': 'DDIMScheduler', 'beta_schedule': 'scaled_linear'})\n"
        "s.set_timesteps(4)\n"
        "assert len(s.timesteps) == 4\n",
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("package", "code"),
    [
        pytest.param("diffusers", "from fewstep import Scheduler", marks=pytest.mark.slow),
        pytest.param(
            "scipy",
            "from fewstep import NoiseSchedule, build; build('ddim', NoiseSchedule.discrete([.9, .5, .1]), 2)",
            marks=pytest.mark.slow,
        ),
        ("matplotlib", "from fewstep.output.pictures import plot_lines; plot_lines([], 'a', 'b', 'c.png')"),
        pytest.param(
            "jinja2", "from fewstep.output.page import write_page; write_page('a.html', 'a')", marks=pytest.mark.slow
        ),
        ("click", "import runpy; runpy.run_module('fewstep', run_name='__main__')"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(package: str, code: str) -> None:
    ran = without([package], code)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and f"needs {package}, which is not installed" in last, ran.stderr
    assert f"pip install 'fewstep[{EXTRA_OF[package]}]'" in last


def test_extras_are_those_declared() -> None:
    """Each package is declared by the extra that the sentence names, and every extra is part of `all`."""
    extras = dict(re.findall(r"^(\w+) = (\[.*\])$", PROJECT.partition("[project.optional-dependencies]")[2], re.M))
    named = {"PIL": "pillow"}
    for package, extra in EXTRA_OF.items():
        assert f'"{named.get(package, package)}>=' in extras[extra], (package, extra)
        assert extra in re.findall(r"\w+", extras["all"])
