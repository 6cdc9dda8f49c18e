"""Feynman-Kac correctors: weighted particles for products and powers of densities, and for densities tilted by a reward.

    p_t(x) ~ prod_k q_k(x)^b_k exp(beta r(x)),    S = sum_k b_k s_k,    E = sum_k b_k eps_k,    s = -eps / sigma

Following S alone samples something else: adding noise and multiplying densities do not commute. In reverse time tau,
whatever the noise z >= 0, p_t is the law of particles that move and gain weight by

    dx      = [-f + (1+z)/2 g^2 S + z/2 g^2 beta grad r] dtau + sqrt(z) g dW
    d log w = (|E|^2 - sum_k b_k |eps_k|^2) dlam + d(beta r) - beta grad r o (dx - dx_flow)

on every schedule, since g^2 dtau = 2 sigma^2 dlam; dx_flow is the probability flow of S and o the midpoint (Stratonovich)
product, which needs no second derivative. z is what the solver makes it: eta^2, tau^2, 0 for an ODE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.particle_denoiser import Combination, known_share
from fewstep.samplers.guidance.particle_reward import Tilt
from fewstep.samplers.guidance.particle_weights import Rules
from fewstep.samplers.guidance.particles import Particles
from fewstep.samplers.guidance.resampling import Alone, Spread
from fewstep.samplers.run.denoiser import Denoiser


@method("fkc", kind="particles")
def fkc(
    denoisers: Denoiser | Sequence[Denoiser],
    exponents: Sequence[float] | None = None,
    *,
    particles: int | None = None,
    ess: float = 0.5,
    method: str = "systematic",
    stop: float = 0.1,
    clamp: float | None = None,
    seeds: int | Sequence[int] = 0,
    reward: Callable[[Any], Any] | None = None,
    on: str = "x0",
    ramp: Callable[[float], float] = known_share,
    gradient: bool = True,
    decode: Callable[[Tensor], Any] | bool = False,
    across: Any = None,
) -> Particles:
    """Weighted particles of p(x) ~ prod_k q_k(x)^exponents[k] exp(reward(x)): exact as steps and particles grow.

        target = guidance.fkc([first, second], exponents=[0.5, 0.5])
        x_T = target.initial_noise((64, 1, 28, 28), seeds=range(64))
        x0 = sample(target.denoiser, x_T, "ddim", nfe=100, eta=1.0, noise_seeds=range(64), hook=target)
        target.weights, target.effective, target.unweighted(x0)

    Annealing q^b: exponents [b]. Product of experts: one each. The density that classifier-free guidance is named after,
    q_c^w q_u^(1-w): [w, 1 - w]. A reward alone: [1.0]. An exponent may be negative, their sum must be above 0; where it is not
    1, weights grow apart in pure noise already, the more the more dimensions there are, and alpha = 0 is out of reach. Where
    it is above 1, their variance stays finite there only with noise z >= (3 + 2 sqrt 2) (1 - 1 / sum): tau = 1.75 for two
    experts.

    Args:
        denoisers: of one schedule (VP, VE, EDM or flow), of any predictions. exponents: one each; default 1 each.
        particles: K, particles of a group. The batch is groups x K, group by group, and a group is resampled in itself;
            None: all are one group.
        ess: a group is resampled where its effective sample size is below ess K; 0 never, 1 after every step.
        method: "systematic", "stratified" or "multinomial"; "one": all places of a group go to one particle, drawn by weight,
            which with ess=1, stop=0 and gradient=False is decoding by soft values (SVDD) among K candidates a step. stop: no
            resampling in the last fraction of the steps, where errors of the scores weigh most.
        clamp: bound of what a step adds to log w, after centring; biased; `clamped` is the share that met it. None: no bound.
        seeds: of resampling, one a group, or the first of consecutive ones. A group is the same alone and among others.
        reward: r, (B, *shape) -> (B,), differentiable unless gradient=False. on: "x0" (at predicted x0, through the
            networks) or "x" (at the noisy state); both are exact, and r of the sample itself at the end.
            ramp: beta as a function of lam; default alpha^2 / (alpha^2 + sigma^2). The target has beta at the end of
            sampling: 1 at sigma = 0.
        gradient: False: a black box, any function of a batch that gives B numbers, of which the drift knows nothing: weights
            alone say beta r, d log w = d(beta r). Where it raises or gives no finite number for a particle, that has weight
            zero if it is so at the end, and on the way the reward it had before; `failed` counts. decode: True, or a function:
            r is a function of decoded images, by the first denoiser's own `decode`.
        across: a torch.distributed process group, or True for the default one: the particles of all processes, in the order
            of ranks, as many in each, are weighed and resampled as one batch. A resampling gathers their states.

    Solvers: every table whose steps go down in time; the rate of the weights does not depend on z, so that each is unbiased
    in the limit of small steps: z = eta^2 (ddim, ancestral), tau^2 (SDE-DPM, SEEDS, SA, Euler-Maruyama), 1 (ddpm),
    d log psi / d log u (er_sde). An ODE (z = 0) takes ess=0: copies would never part. Outputs of the past of multistep
    solvers go with the particle, noise seeds stay with the place in the batch, so that copies part at the next step.
    Drivers, Restart and `post` are refused. Guidance goes inside, around the denoisers: around target.denoiser it would move
    particles without their weights.

    Cost: nfe calls of every denoiser; a reward on "x0" one vector-Jacobian product of each more. Not differentiable.

    Raises: ValueError for exponents, denoisers, batch or solver that do not fit, and for weights that are not finite.

    Reference: Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts; Skreta, Akhound-Sadegh,
    Ohanesian, Bondesan, Aspuru-Guzik, Doucet, Brekelmans, Tong, Neklyudov; 2025; arXiv:2503.02819. Soft values:
    Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding; Li et al.; 2024;
    arXiv:2408.08252.
    """
    first = denoisers if isinstance(denoisers, Denoiser) else next(iter(denoisers), None)
    if decode is True and not callable(decode := getattr(first, "decode", False)):
        raise ValueError("decode=True is for Denoiser.from_pipeline, which knows how; give a function of latents")
    tilt = Tilt(reward, on, ramp, gradient, decode if callable(decode) else None)
    combination = Combination(denoisers, exponents, tilt)
    rules = Rules(particles, ess, method, stop, clamp, seeds)
    return Particles(combination, rules, Spread(across) if across else Alone())
