"""Where the methods come from: title, authors, year, arXiv."""

DDIM = "Denoising Diffusion Implicit Models; Song, Meng, Ermon; 2020; arXiv:2010.02502"
EDM = "Elucidating the Design Space of Diffusion-Based Generative Models; Karras et al.; 2022; arXiv:2206.00364"
DPM = "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling; Lu et al.; 2022; arXiv:2206.00927"
DPMPP = "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Models; Lu et al.; 2022; arXiv:2211.01095"
DEIS = "Fast Sampling of Diffusion Models with Exponential Integrator; Zhang, Chen; 2022; arXiv:2204.13902"
PNDM = "Pseudo Numerical Methods for Diffusion Models on Manifolds; Liu et al.; 2022; arXiv:2202.09778"
UNIPC = "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling; Zhao et al.; 2023; arXiv:2302.04867"
USF = "A Unified Sampling Framework for Solver Searching of Diffusion ODEs; Liu et al.; 2023; arXiv:2312.07243"
RES = "Improved Order Analysis and Design of Exponential Integrator for Diffusion; Zhang et al.; 2023; arXiv:2308.02157"
STORK = "STORK: Faster Diffusion and Flow Matching Sampling; Tan et al.; 2025; arXiv:2505.24210"
CAB = "Adams-Bashforth in the rectified coordinate y = x/(alpha+sigma), dy/dr = eps - x0"
HOCHBRUCK = "Exponential integrators; Hochbruck, Ostermann; Acta Numerica 2010"
KROGSTAD = "Generalized integrating factor methods for stiff PDEs; Krogstad; 2005; and Cox, Matthews; 2002"
LUAN = "Explicit exponential Runge-Kutta methods of high order for parabolic problems; Luan, Ostermann; 2014"
ADAMS = "Exponential multistep methods of Adams-type; Hochbruck, Ostermann; 2011; after Norsett; 1969"
K_DIFFUSION = "k-diffusion; Crowson; 2022; after Elucidating the Design Space; Karras et al.; 2022; arXiv:2206.00364"
RF_ANCESTRAL = "Ancestral Euler of rectified flows, r_down = r_t (1 - eta + eta r_t / r_s), as user interfaces have it"
CONSISTENCY = (
    "Latent Consistency Models; Luo et al.; 2023; arXiv:2310.04378; after Consistency Models; arXiv:2303.01469"
)
TCD = "Trajectory Consistency Distillation; Zheng et al.; 2024; arXiv:2402.19159"
FLOW_MAP = (
    "Mean Flows for One-step Generative Modeling; Geng et al.; 2025; arXiv:2505.13447; Consistency Trajectory Models; Kim et "
    "al.; 2023; arXiv:2310.02279"
)
IMPLICIT = (
    "Solving Ordinary Differential Equations II; Hairer, Wanner; 1996; exponential collocation: Hochbruck, Ostermann; "
    "Acta Numerica 2010"
)
GRADIENT = (
    "Interpreting and Improving Diffusion Models from an Optimization Perspective; Permenter, Yuan; 2023; "
    "arXiv:2306.04848"
)
RESTART = "Restart Sampling for Improving Generative Processes; Xu et al.; 2023; arXiv:2306.14878"
SCORE_SDE = (
    "Score-Based Generative Modeling through Stochastic Differential Equations; Song et al.; 2020; arXiv:2011.13456"
)
DDPM = "Denoising Diffusion Probabilistic Models; Ho, Jain, Abbeel; 2020; arXiv:2006.11239"
INTERPOLANTS = (
    "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions; Albergo et al.; 2023; arXiv:2303.08797"
)
ER_SDE = "Elucidating the solution space of extended reverse-time SDE for diffusion models; Cui et al.; 2023; arXiv:2309.06169"
SA_SOLVER = (
    "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models; Xue et al.; 2023; arXiv:2309.05019"
)
SEEDS = "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling; Gonzalez et al.; 2023; arXiv:2305.14267"
GOTTA = "Gotta Go Fast When Generating Data with Score-Based Models; Jolicoeur-Martineau et al.; 2021; arXiv:2105.14080"
DOPRI = "A family of embedded Runge-Kutta formulae; Dormand, Prince; 1980; on diffusion: Song et al.; arXiv:2011.13456"
DPM_V3 = (
    "DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics; Zheng et al.; 2023; arXiv:2310.13268"
)
PARADIGMS = "Parallel Sampling of Diffusion Models; Shih, Belkhale, Ermon, Sadigh, Anari; 2023; arXiv:2305.16317"
EPD = (
    "Distilling Parallel Gradients for Fast ODE Solvers of Diffusion Models; Zhu, Wang, Zhao, Zhang, Zhang; 2025; "
    "arXiv:2507.14797"
)
DLG = "Denoising MCMC for Accelerating Diffusion-Based Generative Models; Kim, Ye; 2022; arXiv:2209.14593"
BDIA = "Exact Diffusion Inversion via Bi-directional Integration Approximation; Zhang, Lewis, Kleijn; 2023; arXiv:2307.10829"
BELM = (
    "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion in Diffusion Models; Wang et al.; 2024; "
    "arXiv:2410.07273"
)
ALF = "MALI: A memory efficient and reverse accurate integrator for Neural ODEs; Zhuang et al.; 2021; arXiv:2102.04668"
REVERSIBLE_HEUN = "Efficient and Accurate Gradients for Neural SDEs; Kidger, Foster, Li, Lyons; 2021; arXiv:2105.13493"
EDICT = "EDICT: Exact Diffusion Inversion via Coupled Transformations; Wallace, Gokul, Naik; 2022; arXiv:2211.12446"
REX = "Rex: Reversible Solvers for Diffusion Models; Blasingame, Liu; 2025; arXiv:2502.08834"
