"""Detection errors: what is counted, over which thresholds, and at which operating point. NumPy only.

Definitions with their equation numbers: docs/gate.md.
"""

from kwsq.converter.det.curve import DetCurve, det_curve
from kwsq.converter.det.operating_point import OperatingPoint, matched_point
from kwsq.converter.det.rates import Counts, count
from kwsq.converter.det.saturation import Saturation, saturation
from kwsq.converter.det.streaming import Detector, StreamScore, Track, block_trials, score_stream
from kwsq.converter.det.trials import Trials

__all__ = [
    "Counts",
    "DetCurve",
    "Detector",
    "OperatingPoint",
    "Saturation",
    "StreamScore",
    "Track",
    "Trials",
    "block_trials",
    "count",
    "det_curve",
    "matched_point",
    "saturation",
    "score_stream",
]
