# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.adjoint.gradient.cost_report import Cost as Cost
from fewstep.adjoint.gradient.free_table import Free as Free
from fewstep.adjoint.gradient.free_table import free as free
from fewstep.adjoint.gradient.rehearsed_cost import cost as cost
from fewstep.adjoint.gradient.sampling import METHODS as METHODS
from fewstep.adjoint.gradient.sampling import noise_path as noise_path
from fewstep.adjoint.gradient.sampling import sample as sample
from fewstep.adjoint.inversion.inverting import invert as invert
from fewstep.adjoint.inversion.noise_encoding import encode as encode
from fewstep.adjoint.likelihood.log_density import log_likelihood as log_likelihood
from fewstep.adjoint.likelihood.quantised_bits import bits_per_dim as bits_per_dim
from fewstep.adjoint.policy.objectives import advantages as advantages
from fewstep.adjoint.policy.objectives import clipped as clipped
from fewstep.adjoint.policy.objectives import reinforce as reinforce
from fewstep.adjoint.policy.stochastic_run import rollout as rollout
from fewstep.adjoint.tuning.losses.loss_entry import LOSSES as LOSSES
from fewstep.adjoint.tuning.losses.loss_entry import tuning_loss as tuning_loss
from fewstep.adjoint.tuning.tuned_model import Tuned as Tuned
from fewstep.adjoint.tuning.tuning import tune as tune
from fewstep.samplers.rollouts.recorded_run import Trajectory as Trajectory

__all__ = [
    "sample",
    "noise_path",
    "METHODS",
    "cost",
    "Cost",
    "Free",
    "free",
    "invert",
    "encode",
    "log_likelihood",
    "bits_per_dim",
    "rollout",
    "Trajectory",
    "advantages",
    "reinforce",
    "clipped",
    "tune",
    "Tuned",
    "LOSSES",
    "tuning_loss",
]
