"""One second of audio from a file; what has none in it, or is no speech at full scale, is refused.

Source: common practice.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.features import FRAME_SAMPLES, SAMPLE_RATE_HZ

CLIP_SAMPLES = 16_000
LOUDEST = 8.0
"""Normalised samples stay within 1, resampled ones a little beyond; those of integers that were not divided do not."""
MOST_PROBLEMS = 10
_CUT_OFF = re.compile(r"^\s*(?:data|SSND|BODY|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile tells of WAV, AIFF, SVX, AU, RF64 and W64 whose samples end before the header says."""
_UNKNOWN_LENGTH = 0x7FFF0000
"""From here on, programs that write into a pipe say so many bytes because they do not know."""
Samples = NDArray[np.float32]
Item = TypeVar("Item")
Result = TypeVar("Result")


def read_clip(path: Path, start_sample: int = 0) -> Samples:
    """Read exactly one second of a file from `start_sample` on: cut at the end or padded with zeros.

    Returns:
        (16000,) float32 in [-1, 1].

    Raises:
        UsageError: the file cannot be read, is not 16 kHz mono, ends before its header says, has less than a frame
            of samples from there on, or samples that are not finite or far beyond [-1, 1].
    """
    import soundfile  # of the train extra: everything else here must import without it

    try:
        with soundfile.SoundFile(path) as stream:
            if start_sample:
                stream.seek(start_sample)
            samples = stream.read(CLIP_SAMPLES, dtype="float32")
            problem = _unfit(path, stream, samples, start_sample)
    except (OSError, RuntimeError, TypeError) as error:  # soundfile's own are RuntimeErrors; of raw files, TypeErrors
        raise UsageError(Problem(str(path), str(error), "an audio file", "replace the file")) from error
    if problem is not None:
        raise UsageError(problem)
    return np.pad(samples, (0, CLIP_SAMPLES - samples.shape[0]))


def _unfit(path: Path, stream: Any, samples: Samples, start_sample: int) -> Problem | None:
    """Return what is wrong with samples, those of an open stream from a place on."""
    where = str(path)
    if stream.samplerate != SAMPLE_RATE_HZ or stream.channels != 1:
        found = f"{stream.samplerate} Hz, {stream.channels} channels"
        return Problem(where, found, f"{SAMPLE_RATE_HZ} Hz mono", "convert the file first")
    cut = _CUT_OFF.search(stream.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_LENGTH:
        return Problem(where, f"{cut[2]} bytes of samples", f"the {cut[1]} of its header", "copy the file again")
    if samples.size < (stated := min(CLIP_SAMPLES, stream.frames - start_sample)):  # MP3 has no other sign
        found = f"{samples.size} samples from {start_sample} on"
        return Problem(where, found, f"the {stated} that the file states", "copy the file again")
    if samples.size < FRAME_SAMPLES:
        expected = f"at least {FRAME_SAMPLES}, one frame of the features"
        return Problem(where, f"{samples.size} samples", expected, "replace the file, or take it out of the list")
    if not np.isfinite(samples).all():
        return Problem(where, "NaN or infinite samples", "samples in [-1, 1]", "replace the file")
    if (peak := float(np.abs(samples).max())) > LOUDEST:
        remedy = "divide them by full scale, 32768 for those of 16 bits"
        return Problem(where, f"samples up to {peak:.6g}", "samples in [-1, 1]", remedy)
    return None


def of_readable(
    clips: Iterable[Item], read: Callable[[Item], Samples], compute: Callable[[Samples], Result]
) -> Iterator[tuple[Item, Result]]:
    """Give every clip with what is computed from its samples; look through all before what cannot be used is refused.

    Args:
        clips: in their order.
        read: gives the samples of one.
        compute: from samples.

    Raises:
        UsageError: after the last clip, files that cannot be used.
    """
    problems: dict[Problem, None] = {}
    for clip in clips:
        try:
            samples = read(clip)
        except UsageError as error:
            problems.update(dict.fromkeys(error.problems))
            continue
        if not problems:
            yield clip, compute(samples)
    if problems:
        count = len(problems)
        summary = f"usage error, {count} files in all, of which the first" if count > MOST_PROBLEMS else ""
        raise UsageError(list(problems)[:MOST_PROBLEMS], summary)


def longer_than_a_clip(paths: Iterable[Path]) -> list[float]:
    """Return the lengths in seconds of the files that are longer than one; those that cannot be read are left out."""
    import soundfile  # of the train extra: everything else here must import without it

    lengths = []
    for path in paths:
        try:
            stream = soundfile.info(path)
        except (OSError, RuntimeError, TypeError):
            continue
        if stream.frames > CLIP_SAMPLES and stream.samplerate == SAMPLE_RATE_HZ:
            lengths.append(stream.frames / SAMPLE_RATE_HZ)
    return lengths
