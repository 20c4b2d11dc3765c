"""Quantises the weights layer by layer, from the input on.

Two runs go through the network side by side: the reference, with activations clipped to their grids and float
weights, and the quantised one, with the weights chosen so far. At a layer with weights W, its input is x0 in the
reference and x in the quantised run. The codes are found in three steps.

1. W is moved to where it makes good the errors that arrive, as far as the clips can tell:

       W* = W + t W G H^-1,    G = cov(x0 - x, x),  S = cov(x),  H = S + lambda I                                (58)

   which at t = 1 is the minimum of |W x0 - W* x|^2 + lambda |W* - W|^2 over centred inputs; lambda = m delta /
   (1 - delta) with delta and m of equation (57). Much of what arrives is rounding that happens to go together with the
   input on these clips and on no others: t is the share that holds from one half of the clips, a, to the other, b,

       t = sum W G_b D_a^T / sum D_a S_b D_a^T,    D_a = 2 W G_a H^-1,  within 0 and 1                           (63)

   summed over rows, and over both ways to call the halves a and b; G_a and S_a are what half a contributes.
2. W* is rounded to each scheme's grid with error feedback on H, and one scheme is chosen.
3. The bias takes up the mean error that is left:

       b' = b + W mean(x0) - V mean(x)                                                                           (59)

   so the covariance, not the second moment, is what rounding has to respect.

Activations clipped on purpose are clipped in both runs: what clipping does is no error to be corrected here. What
rounding them does is one, so the reference does not round.

Source: (58) is asymmetric calibration, Y. Li et al., "GPTAQ", ICML 2025, as ridge regression; (59) is bias correction,
M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2; (63)
is our construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kwsq.ir.graph import Graph
from kwsq.ir.quant import FloatArray
from kwsq.passes.ptq.layers import InputMoments, Layer, find_layers, input_moments
from kwsq.passes.ptq.options import PtqOptions
from kwsq.passes.ptq.output_loss import OutputLoss
from kwsq.passes.ptq.replay import Replay
from kwsq.passes.ptq.rounding import Factors, solve, times_hessian
from kwsq.passes.ptq.search import within_noise
from kwsq.passes.ptq.weights import GridScheme, QuantizedRows, quantize_rows

Float64 = npt.NDArray[np.float64]

LEAST_SHRINKAGE = 0.003
MOST_SHRINKAGE = 0.9
UNIFORM_PREFERENCE = 0.85
"""A uniform grid per channel wins unless another has less than this share of its error: it packs into 4 bits, runs on
every kernel, and the errors of one layer differ by that much from one calibration set to the next."""
SCHEMES: tuple[GridScheme, ...] = ("per_channel", "per_tensor", "codebook")
WIDEST_CODEBOOK = 7  # 256 levels snapped to int8 are the uniform grid


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One scheme at one layer.

    Args:
        rows: the quantised weights.
        bias: (C_out,) corrected bias, None where it must not change.
        layer_error: error of the layer's output relative to its power.
        losses: per-clip output loss with the rest of the network in float; None when there was no alternative.
    """

    rows: QuantizedRows
    bias: FloatArray | None
    layer_error: float
    losses: Float64 | None


@dataclass(frozen=True, slots=True, eq=False)
class LayerChoice:
    """What a layer got.

    Args:
        layer: the layer.
        chosen: the trial that won.
        trials: all trials by scheme.
    """

    layer: Layer
    chosen: Trial
    trials: dict[GridScheme, Trial]


@dataclass(slots=True)
class WeightSearch:
    """The two runs at the same place of the graph, and what is needed to judge a trial.

    Args:
        graph: float graph.
        reference: run with the activations clipped to their grids and float weights.
        quantized: run with the activations on their grids, which receives the weights chosen.
        loss: against the float run of the same clips.
        options: width, scheme and effort.
    """

    graph: Graph
    reference: Replay
    quantized: Replay
    loss: OutputLoss
    options: PtqOptions

    def run(self) -> list[LayerChoice]:
        """Returns the choice of every layer whose weights lacked a grid, in topological order."""
        layers = {layer.node.name: layer for layer in find_layers(self.graph)}
        choices = []
        for node in self.graph.nodes:
            if node.name in layers:
                choice = self._choose(layers[node.name])
                choices.append(choice)
                self.quantized.constants.update(self._constants(choice.layer, choice.chosen.rows, choice.chosen.bias))
            self.reference.advance()
            self.quantized.advance()
        return choices

    def _choose(self, layer: Layer) -> LayerChoice:
        kernel = self.graph[layer.weight].shape[2:]
        source = layer.node.inputs[0]
        moments = input_moments(layer, kernel, self.quantized.live(source), self.reference.live(source))
        hessian = regularized(moments)
        weight = layer.as_rows(self.graph[layer.weight].real())
        target, factors = weight, None
        if self.options.error_feedback:
            factors = Factors.of(hessian)
            target = weight + correction(weight, moments, factors)
        schemes = self._schemes()
        trials = {
            scheme: self._try(layer, weight, target, moments, hessian, factors, scheme, alone=len(schemes) == 1)
            for scheme in schemes
        }
        return LayerChoice(layer, trials[choose_scheme(trials)], trials)

    def _schemes(self) -> tuple[GridScheme, ...]:
        if self.options.weight_bits == 1:
            return ("per_channel",)
        if self.options.scheme != "auto":
            return (self.options.scheme,)
        codebooks = self.options.codebooks and self.options.weight_bits <= WIDEST_CODEBOOK
        return tuple(scheme for scheme in SCHEMES if codebooks or scheme != "codebook")

    def _try(
        self,
        layer: Layer,
        weight: Float64,
        target: Float64,
        moments: InputMoments,
        hessian: Float64,
        factors: Factors | None,
        scheme: GridScheme,
        *,
        alone: bool,
    ) -> Trial:
        bits = self.options.weight_bits
        rows = quantize_rows(target, hessian, scheme, bits, factors=factors)
        bias = self._corrected_bias(layer, weight, rows, moments)
        power = float((weight * (weight @ hessian)).sum())
        error = float(rows.error.sum()) / power if power > 0 else 0.0
        if alone:
            return Trial(rows, bias, error, None)
        outputs = self.quantized.finish(clips=self.options.search_clips, constants=self._constants(layer, rows, bias))
        return Trial(rows, bias, error, self.loss.per_clip(outputs))

    def _corrected_bias(
        self, layer: Layer, weight: Float64, rows: QuantizedRows, moments: InputMoments
    ) -> FloatArray | None:
        """Returns the bias of equation (59)."""
        if not layer.bias or not self.options.bias_correction:
            return None
        error = (weight * moments.reference_mean[:, None]).sum(axis=2) - (rows.values * moments.mean[:, None]).sum(
            axis=2
        )
        return np.asarray(self.graph[layer.bias].real() + error.ravel(), np.float32)

    def _constants(self, layer: Layer, rows: QuantizedRows, bias: FloatArray | None) -> dict[str, FloatArray]:
        constants = {layer.weight: np.asarray(rows.values.reshape(self.graph[layer.weight].shape), np.float32)}
        return constants if bias is None else {**constants, layer.bias: bias}


def choose_scheme(trials: dict[GridScheme, Trial]) -> GridScheme:
    """Returns the scheme of least layer error among those whose output loss is least but for noise."""
    losses = [trial.losses for trial in trials.values()]
    names = list(trials)
    measured = [loss for loss in losses if loss is not None]
    candidates = [names[i] for i in within_noise(measured)] if measured else names
    weights = {name: UNIFORM_PREFERENCE if name == "per_channel" else 1.0 for name in candidates}
    return min(candidates, key=lambda name: trials[name].layer_error * weights[name])


def correction(weight: Float64, moments: InputMoments, factors: Factors) -> Float64:
    """Returns what equation (58) adds to the weights (groups, rows, columns), as far as (63) trusts it.

    Args:
        weight: W.
        moments: of the layer's input.
        factors: of H.
    """
    asked = [times_hessian(weight, half.gap) for half in moments.halves]
    steps = [solve(2 * right, factors) for right in asked]
    gain, power = 0.0, 0.0
    for step, right, other in zip(steps, reversed(asked), reversed(moments.halves), strict=True):
        gain += float((step * right).sum())
        power += float((step * times_hessian(step, other.covariance)).sum())
    trust = min(max(gain / power, 0.0), 1.0) if power > 0 else 0.0
    return np.asarray(trust / 2 * (steps[0] + steps[1]))


def regularized(moments: InputMoments) -> Float64:
    """Returns H of equation (58), positive definite."""
    delta = np.clip(moments.shrinkage, LEAST_SHRINKAGE, MOST_SHRINKAGE)
    covariance = moments.covariance
    power = np.diagonal(covariance, axis1=1, axis2=2).mean(axis=1)
    ridge = delta / (1 - delta) * np.where(power > 0, power, 1.0)
    return np.asarray(covariance + ridge[:, None, None] * np.eye(covariance.shape[1]))
