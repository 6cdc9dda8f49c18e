"""The oldest releases that pyproject.toml declares, as constraints for pip: `name>=1.2` becomes `name==1.2`."""

import re
import sys
from pathlib import Path

project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
found = dict(re.findall(r'"([A-Za-z0-9_-]+)>=([0-9][0-9.]*)"', project.partition("[tool.")[0]))
found.pop("setuptools", None)  # builds the package, in an environment of its own
sys.stdout.write("".join(f"{name}=={version}\n" for name, version in found.items()))
