"""Good and bad calls of public names, for test_types.py: what a type checker must refuse is marked with its error code."""

from torch import Tensor, rand

import fewstep.eval as fe
from fewstep import Denoiser, NoiseSchedule, Scheduler, adjoint, build, learn, load, load_demo_artefact, sample
from fewstep.samplers import GRIDS, SOLVERS, Tableau, guidance, solver
from fewstep.samplers.building.path import Path, Solution

schedule: NoiseSchedule = NoiseSchedule.vp_linear()
denoiser = Denoiser(lambda x, tau: x, schedule, "sample")
x: Tensor = rand(2, 3)

table: Tableau = build("dpmpp_2m", schedule, 5)
order: int = table.order
state: float = float(table.nodes.r[0] + table.nodes.S[0])
name: str = SOLVERS["ddim"].reference + GRIDS["karras"].summary
scheduler: Scheduler = Scheduler.from_config({}, table)
scheduler.set_timesteps(5)
result: fe.Result = fe.fid("real", "generated")
value: float = result.value
guided: Denoiser = guidance.dps(denoiser, x, guidance.mask(x > 0), noise_std=0.1)
cost = adjoint.cost(denoiser, (2, 3), "ddim", 5)
images = Denoiser.from_pipeline(object()).decode(x)
report = load_demo_artefact().report["nfe 5"]
learned = learn("demo", nfe=5).table(5)
drawn = sample(denoiser, x, table)
read = load("table.json")


@solver("typed_page", order=1, prediction="x0", reference="none")
def family(path: Path, *, eta: float = 0.0) -> Solution:
    return Solution([], order=1)


NoiseSchedule.vp_linaer()  # E: attr-defined
build("dpmpp_2m", schedule, 5).ordr  # E: attr-defined
build("dpmpp_2m", "vp")  # E: arg-type
build(nfe=5)  # E: call-arg
Denoiser(3, schedule)  # E: arg-type
table.nodes.rr  # E: attr-defined
SOLVERS["ddim"].ordre  # E: attr-defined
guidance.cfgg(denoiser, denoiser, 2.0)  # E: attr-defined
guidance.cfg(denoiser)  # E: call-arg
fe.fidd("a", "b")  # E: attr-defined
result.valeu  # E: attr-defined
adjoint.costs()  # E: attr-defined
scheduler.set_timestep(5)  # E: attr-defined
NoiseSchedule.edm(sigma="80")  # E: call-arg
