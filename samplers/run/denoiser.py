"""A network with its schedule and prediction type: the only thing a sampler knows about a model."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.lazy import door
from fewstep.samplers.noise.field import GaussianField
from fewstep.samplers.run.ownership import counted, require_unwritten, version
from fewstep.samplers.run.per_sample import column
from fewstep.samplers.run.step import like_state
from fewstep.samplers.schedule.base import Nodes, NoiseSchedule
from fewstep.samplers.schedule.outputs import convert, mean_weight, prediction_coefficients


class Denoiser:
    """fn(x, tau) -> output together with what the output means.

    Args:
        fn: maps x (B, *shape) and tau (0-dim tensor, schedule.model_time(t)) to the network's output, of x's shape or
            with twice the channels (learned variance: the second half is dropped).
        schedule: NoiseSchedule the network was trained on.
        prediction: "epsilon", "sample" (x0), "v_prediction" (alpha eps - sigma x0), "flow_prediction" (eps - x0),
            "inverted_flow_prediction" (x0 - eps) or "score" (-eps / sigma).
        vector_time: whether fn takes a time of its own for every sample, tau of shape (B,): False, True (any batch), or
            "whole" (the batch it is conditioned for, or copies of it end to end). Samplers that choose steps sample by
            sample, or visit many times at once, need it or are faster with it.
        field: the guidance.GaussianField whose noise fn was trained with, in place of white noise: x_t = alpha x0 + sigma z
            with z ~ N(0, C). Samplers then draw every z from it, and guidance takes gradients in its inner product.
        two_times: whether fn is a flow map (MeanFlow, CTM, AnyFlow), fn(x, tau, tau_next), which is shown where it stands
            and where the answer is to lead: the time of the next network call of a table, before noise where a row adds
            some, and of the result after the last one. Calls that come from no row lead nowhere: tau twice.

    `denoiser(x, t)` is the raw output at time t of the schedule; `.x0(x, t)` and `.eps(x, t)` convert it.
    `.nfe` counts calls over the object's life, except those inside a graph that the caller compiles.
    """

    asks_rows = False  # whether it looks at the row of the table that asks

    def __init__(
        self,
        fn: Callable[..., Tensor],
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        vector_time: bool | str = False,
        field: GaussianField | None = None,
        two_times: bool = False,
    ):
        if not callable(fn):
            raise ValueError(f"`fn` must be a callable fn(x, tau) -> output; got {type(fn).__name__}")
        if two_times not in (False, True):
            raise ValueError(f"`two_times` must be True or False; got {two_times!r}")
        check_times(fn, two_times)
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(
                f"`schedule` must be a NoiseSchedule; got {type(schedule).__name__}. "
                "NoiseSchedule.from_config reads a diffusers config"
            )
        if vector_time not in (False, True, "whole"):
            raise ValueError(f'`vector_time` must be False, True or "whole"; got {vector_time!r}')
        if field is not None and not hasattr(field, "coloured"):
            raise ValueError(
                f"`field` must be a guidance.GaussianField, or None for white noise; got {type(field).__name__}"
            )
        prediction_coefficients(prediction, schedule.nodes(np.array([schedule.t_min])))
        schedule.require(prediction)
        self.fn, self.schedule, self.prediction, self.vector_time = fn, schedule, prediction, vector_time
        self.field, self.two_times = field, two_times
        self.nfe = 0

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """One network evaluation at model time tau: the output in x's shape.

        step: the row of the table that asks, where one does; guidance reads its time and weights from it.
        """
        if not torch.compiler.is_compiling():
            self.nfe += 1
        x = counted(x)
        before = version(x)
        output = like_state(self.fn(x, tau, *self._target(tau, step)), x)
        require_unwritten(x, before)
        return output

    def _target(self, tau: Tensor, step: Any) -> tuple[Tensor, ...]:
        """The second time of a network that has two."""
        if not self.two_times:
            return ()
        target = getattr(step, "target", None)
        return (tau if target is None else target.to(tau).expand_as(tau),)

    def prepare(self, x: Tensor) -> None:
        """Whatever a call on x needs once before it; where a call may be made again, this comes first. Mostly nothing."""

    def told(self, weights: bool = False) -> dict[str, Any]:
        """What is known of the model beside its schedule, as an artefact's domain names it; weights: their hash, too."""
        return {}

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The raw network output at time t."""
        tau = torch.as_tensor(self.schedule.model_time(float(t)), dtype=clock(x.dtype), device=x.device)
        return self.call(x, tau)

    def x0(self, x: Tensor, t: Any, mu: Tensor | None = None) -> Tensor:
        """Predicted clean sample at (x, t); `mu` is that of a mean-reverting schedule or a bridge."""
        return self.predict("x0", x, t, mu=mu)

    def eps(self, x: Tensor, t: Any, mu: Tensor | None = None) -> Tensor:
        """Predicted noise at (x, t); `mu` is that of a mean-reverting schedule or a bridge."""
        return self.predict("eps", x, t, mu=mu)

    def predict(self, form: str, x: Tensor, t: Any, post: Any = None, mu: Tensor | None = None) -> Tensor:
        """The output at (x, t) as "x0", "eps" or "flow" (eps - x0), in x's dtype: one network evaluation.

        t: a number, or one a sample, (B,), which needs `vector_time` unless they are equal. post: acts on predicted x0.
        mu: of a mean-reverting schedule or a bridge, needed unless the output is already what is asked for.
        """
        times = np.asarray(t, np.float64)
        if times.ndim and (times == times.flat[0]).all():
            times = np.asarray(times.flat[0])
        if times.ndim and not self.vector_time:
            raise ValueError(
                f"this denoiser takes one time for the whole batch; got {times.size} different ones. If its fn takes tau of "
                "shape (B,), say so: Denoiser(fn, schedule, prediction, vector_time=True)"
            )
        nodes = Nodes(*(np.atleast_1d(v) for v in self.schedule.nodes(times)))
        source = "sample" if post else self.prediction
        to_x0 = self._weights(self.prediction, "x0", nodes, mu) if post else None
        to_form = self._weights(source, form, nodes, mu)
        tau = torch.as_tensor(self.schedule.model_time(times), dtype=clock(x.dtype), device=x.device)
        output = self.call(x, tau)
        if to_x0 is not None:
            output = post(_mix(to_x0, x, output, mu))
        return _mix(to_form, x, output, mu)

    def _weights(self, source: Any, form: str, nodes: Nodes, mu: Tensor | None) -> Any:
        """(p, q, r) of m = p x + q o + r mu; r is None on schedules without a mean, and where none is needed."""
        forms = [form] * len(nodes.t)
        p, q = convert(source, forms, nodes)
        if not self.schedule.has_mean:
            return p, q, None
        r = mean_weight(p, self.schedule.beta(nodes.t))
        if mu is None and np.any(r):
            raise ValueError(
                f"{form} from a {source!r} prediction depends on the mean, `mu`, of {type(self.schedule).__name__}: "
                f"pass it, denoiser.{form}(x, t, mu=mu)"
            )
        return p, q, None if mu is None else r

    @staticmethod
    def from_pipeline(pipe: Any, **call_kwargs: Any) -> PipelineDenoiser:
        """Any diffusers pipeline as a denoiser on its latents, with its own conditioning and guidance.

            d = Denoiser.from_pipeline(pipe, prompt="a red bicycle", guidance_scale=7.0)
            x0 = sample(d, d.initial_noise(generator), solver="dpmpp_2m", nfe=10)
            images = d.decode(x0)

        Args:
            pipe: pipeline with a `scheduler`; it is not changed.
            call_kwargs: what the pipeline would be called with, without latents, times and callbacks.

        A call costs one turn of the pipeline's loop: network and guidance. Each start of the loop (first call, another
        batch size, changed tensors, every 250 calls) costs the pipeline's preparations and one more network evaluation,
        which `nfe` does not count. Gradients reach x, the network's parameters and the tensors among `call_kwargs`; what
        the pipeline prepares without such a tensor (an encoded prompt, say) is a constant.

        Raises:
            ValueError: arguments that the pipeline does not take or that make no sense here; a pipeline that does not step
                its `scheduler` once a turn in its own `__call__`, or changes its latents between steps, as blending does.
        """
        made: PipelineDenoiser = door("fewstep.samplers.pipeline.as_denoiser:denoiser_from_pipeline")(
            pipe, **call_kwargs
        )
        return made


class PipelineDenoiser(Denoiser, ABC):
    """A Denoiser whose network is a whole pipeline; `Denoiser.from_pipeline` makes it.

    The latents are those that the pipeline steps: packed where it packs them, with both guidance halves where it keeps
    two (DiT). A state of another batch size asks the pipeline for more samples a prompt; a few pipelines do that for
    prompts but not for embeddings (SD3, LTX): give those in the size of the batch.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(B, ...) of the latents that the pipeline draws by itself."""

    @property
    @abstractmethod
    def t_start(self) -> float:
        """Time of the latents that the pipeline draws: t_max, or less where it starts from an image."""

    @abstractmethod
    def initial_noise(self, generator: Any = None) -> Tensor:
        """What the pipeline itself would start from with this generator (or list of them), (B, ...), at time t_start.

        The generator also takes over what else the pipeline draws, such as encodings of an input image.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Any:
        """What the pipeline makes of finished latents, as in `pipe(...)[0]`: its VAE decoder, its `output_type`.

        Gradients come through with output_type="pt"; "pil" and "np" are for latents without a graph.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go of the suspended pipeline and the memory it holds; the next call starts it again."""


def _mix(weights: Any, x: Tensor, output: Tensor, mu: Tensor | None) -> Tensor:
    """p x + q o, and r mu where there is a mean, with one set of weights for all or one a sample."""
    terms = zip(weights, (x, output, mu), strict=True)
    used = ((w, v) for w, v in terms if w is not None and v is not None)
    scaled = [(float(w[0]) if len(w) == 1 else column(w, x)) * v.to(x) for w, v in used]
    return sum(scaled[1:], scaled[0])


def check_times(fn: Callable[..., Any], two_times: bool) -> None:
    """ValueError for a function that cannot be called with as many times as a network has."""
    if torch.compiler.is_compiling():  # a signature is no part of a graph
        return
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return

    def takes(count: int) -> bool:
        try:
            signature.bind(*range(count))
        except TypeError:
            return False
        return True

    if two_times and not takes(3):
        raise ValueError(
            f"with two_times=True `fn` is called as fn(x, tau, tau_next); this one takes {signature}. A network without a "
            "second time is no flow map: leave two_times away"
        )
    if not two_times and not takes(2) and takes(3):
        raise ValueError(
            f"`fn` is called as fn(x, tau); this one needs more, {signature}. If it is a flow map, which is shown where it "
            "goes, say Denoiser(fn, schedule, prediction, two_times=True)"
        )


def clock(dtype: torch.dtype) -> torch.dtype:
    """dtype of model times beside a state of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32
