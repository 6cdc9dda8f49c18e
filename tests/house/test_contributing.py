"""Every page of CONTRIBUTING.md runs as it stands, in the order of the page."""

import re

from places import ROOT

import fewstep.eval as fe
from fewstep.samplers import GRIDS, SCHEDULES, SOLVERS
from fewstep.samplers.guidance import GUIDANCE
from fewstep.samplers.learned import METHODS

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_one_of_each_kind():
    pages = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(pages) == 6 and all(8 <= len(page.splitlines()) <= 22 for page in pages)
    names = {"__name__": "contributing"}
    added = {"my_ddim": SOLVERS, "cubic": GRIDS, "Hours": SCHEDULES, "drop": METHODS}
    added |= {"mean_gap": fe.METRICS, "toward": GUIDANCE}
    try:
        for page in pages:
            exec(compile(page, "CONTRIBUTING.md", "exec"), names)
        assert all(name in registry for name, registry in added.items())
    finally:
        for name, registry in added.items():
            if name in registry:
                registry.remove(name)
