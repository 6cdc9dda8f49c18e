"""joint: grid, weights and network times together, down the gradient of the error through the sampler."""

from __future__ import annotations

from typing import Any

from fewstep.checks import whole
from fewstep.samplers.learned.descent.critic import Critic, data_of, require_data
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, _learn
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau


@learner(
    "joint",
    learns=("grid", "coef", "tau"),
    gradients=True,
    reference="ours; corrections on a solver's own weights as in Oganov et al., GAS: Improving Discretization of Diffusion "
    "ODEs via Generalized Adversarial Solver, 2025, arXiv 2510.17699",
    check=require_data,
)
def joint(
    task: Task,
    start: Tableau,
    *,
    free: tuple[str, ...] = ("grid", "coef", "tau"),
    window: int | None = 3,
    consistent: bool = True,
    loss: Any = "mixed",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = None,
    even: int = 16,
    rounds: int = 2,
    remember: bool = False,
    critic: Any = None,
    adversary: float = 0.1,
) -> Tableau:
    """Grid, weights of the last `window` outputs and network times together, from the solver's own weights.

    The knobs are turned along axes that move the result evenly, as measured on `even` samples (0: each by itself), anew in
    each of `rounds`, among which `steps` are divided.

    free: may name "state" too, the weight of the state that a step starts from. window: None for all outputs. consistent:
    corrections leave a constant x0 and eps exact. loss, steps, batch, lr, remember: see `DescentOptions`.
    critic: data (N, *shape), tensors or pictures of the size of (decoded) samples, that a small network learns to tell samples
    from, beside the descent, which lowers `adversary` times how well it does; what is taken is still judged by errors.
    """
    whole("rounds", rounds)
    recipe = DescentOptions(
        loss=loss, steps=min(steps, max(1, steps // rounds)), batch=batch, lr=lr, remember=remember, even=even
    )
    turned = (free, start.nfe if window is None else window, consistent)
    how: dict[str, Any] = {}
    if critic is not None:
        require_data({"critic": critic, "adversary": adversary})
        if not isinstance(loss, str):
            raise ValueError("a `critic` stands beside a loss by name; give functions to learn(loss=)")
        data = data_of(critic)
        assert data is not None
        how["objective"] = Critic(task, data, adversary, loss)
    return _learn(task, start, [(turned, recipe)] * rounds, "joint", **how)
