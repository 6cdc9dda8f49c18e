# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.adjoint.distil.optimiser_sweeps import picard_steps as picard_steps
from fewstep.adjoint.distil.score_distillation import distil as distil
from fewstep.adjoint.optimise.adversarial import adv_diff as adv_diff
from fewstep.adjoint.optimise.momentum_steps import doodl as doodl
from fewstep.adjoint.optimise.noise_space import noise_prior_penalty as noise_prior_penalty
from fewstep.adjoint.optimise.quasi_newton_steps import d_flow as d_flow
from fewstep.samplers.guidance.blocks_of_state import parts as parts
from fewstep.samplers.guidance.classifier_free import apg as apg
from fewstep.samplers.guidance.classifier_free import cfg as cfg
from fewstep.samplers.guidance.classifier_free import cfg_pp as cfg_pp
from fewstep.samplers.guidance.classifier_gradient import classifier as classifier
from fewstep.samplers.guidance.data_consistency import dds as dds
from fewstep.samplers.guidance.data_consistency import impute as impute
from fewstep.samplers.guidance.data_consistency import mpgd as mpgd
from fewstep.samplers.guidance.experts import intervals as intervals
from fewstep.samplers.guidance.experts import mixture as mixture
from fewstep.samplers.guidance.experts import product as product
from fewstep.samplers.guidance.experts import regions as regions
from fewstep.samplers.guidance.feynman_kac import fkc as fkc
from fewstep.samplers.guidance.guidance_entry import GUIDANCE as GUIDANCE
from fewstep.samplers.guidance.guidance_entry import method as method
from fewstep.samplers.guidance.hooks import callback as callback
from fewstep.samplers.guidance.hooks import replacement as replacement
from fewstep.samplers.guidance.latent import psld as psld
from fewstep.samplers.guidance.latent import resample as resample
from fewstep.samplers.guidance.loss_guidance import energy as energy
from fewstep.samplers.guidance.loss_guidance import lgd as lgd
from fewstep.samplers.guidance.noise_search import best_of as best_of
from fewstep.samplers.guidance.operator_base import Operator as Operator
from fewstep.samplers.guidance.operator_base import adjoint_residual as adjoint_residual
from fewstep.samplers.guidance.operators import blur as blur
from fewstep.samplers.guidance.operators import colour as colour
from fewstep.samplers.guidance.operators import downsample as downsample
from fewstep.samplers.guidance.operators import fourier as fourier
from fewstep.samplers.guidance.operators import mask as mask
from fewstep.samplers.guidance.operators import matrix as matrix
from fewstep.samplers.guidance.operators import phase as phase
from fewstep.samplers.guidance.operators import points as points
from fewstep.samplers.guidance.operators import projection as projection
from fewstep.samplers.guidance.pde import diffusion_pde as diffusion_pde
from fewstep.samplers.guidance.pde_published import fun_dps as fun_dps
from fewstep.samplers.guidance.polyak_step import dreamguider as dreamguider
from fewstep.samplers.guidance.posterior import dps as dps
from fewstep.samplers.guidance.posterior import exact_covariance as exact_covariance
from fewstep.samplers.guidance.posterior import pigdm as pigdm
from fewstep.samplers.guidance.posterior_draw import daps as daps
from fewstep.samplers.guidance.tilted_posterior import twisted as twisted
from fewstep.samplers.noise.field import GaussianField as GaussianField
from fewstep.samplers.noise.point_field import PointField as PointField
from fewstep.samplers.run.guided import Guided as Guided

__all__ = [
    "GUIDANCE",
    "method",
    "Guided",
    "cfg",
    "apg",
    "cfg_pp",
    "classifier",
    "product",
    "mixture",
    "regions",
    "intervals",
    "parts",
    "fkc",
    "twisted",
    "best_of",
    "dps",
    "daps",
    "psld",
    "resample",
    "pigdm",
    "exact_covariance",
    "lgd",
    "energy",
    "mpgd",
    "dds",
    "impute",
    "dreamguider",
    "replacement",
    "callback",
    "doodl",
    "d_flow",
    "noise_prior_penalty",
    "adv_diff",
    "distil",
    "picard_steps",
    "GaussianField",
    "PointField",
    "diffusion_pde",
    "fun_dps",
    "points",
    "Operator",
    "adjoint_residual",
    "mask",
    "downsample",
    "blur",
    "colour",
    "matrix",
    "phase",
    "fourier",
    "projection",
]
