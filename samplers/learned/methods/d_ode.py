"""d_ode: one number a row in closed form, the case of `iia` that distils one solver into fewer steps."""

from __future__ import annotations

from fewstep.samplers.learned.fitting.least_squares import RIDGE, check_limits, fitted
from fewstep.samplers.learned.fitting.on_policy import OnPolicy
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau

D_ODE = "Distilling ODE Solvers of Diffusion Models into Smaller Steps; Kim, Tang, Yu; 2023; arXiv:2309.16421"


@learner("d_ode", learns=("coef",), reference=D_ODE)
def d_ode(
    task: Task, start: Tableau, *, target: str = "local", fine: int = 10, ridge: float = RIDGE, limit: float = 10.0
) -> Tableau:
    """Distilled ODE solver: m'_k = m_k + lambda_k (m_k - m_{k-1}) in the newest term, lambda_k by least squares.

    The case of `iia` with one number a row: window 2, consistent, equal weights; target, fine, ridge and limit as there.

    Raises:
        ValueError: an option outside its range, fewer training samples than steps, a table with noise.

    Reference: Distilling ODE Solvers of Diffusion Models into Smaller Steps; Kim, Tang, Yu; 2023; arXiv:2309.16421.
    """
    check_limits(ridge, limit, "d_ode")
    way = OnPolicy(task, start, "d_ode", target, fine)
    return fitted(task, start, way, window=2, consistent=True, ridge=ridge, limit=limit, robust=False)
