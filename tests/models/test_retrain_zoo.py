"""The comparison of a retrained zoo with the committed one: bytes first, then the clips that both name rightly."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from checkout import ROOT, benchmark
from keyword_cases import synthetic_keywords
from onnx import helper, numpy_helper

from kwsq.models.data.clips import LabelledFeatures
from kwsq.models.scoring.accuracy import logits

W8 = ROOT / "models" / "kws_ff" / "kws_ff_w8.onnx"


def as_named_by(path: Path, clips: LabelledFeatures) -> LabelledFeatures:
    """The clips with the labels that a file gives them, so that it is right on all."""
    labels = logits(path, clips.features).argmax(axis=1).astype(np.int64)
    return LabelledFeatures(clips.features, labels, clips.speakers)


def test_a_file_with_other_metadata_is_no_worse(tmp_path: Path) -> None:
    clips = as_named_by(W8, synthetic_keywords(48, seed=2))
    model = onnx.load(W8)
    helper.set_model_props(model, {})
    onnx.save(model, tmp_path / W8.name)
    assert not benchmark("retrain_zoo").is_worse(W8, tmp_path / W8.name, clips)


def test_a_file_that_names_other_words_is_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = as_named_by(W8, synthetic_keywords(48, seed=2))
    model = onnx.load(W8)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".weight.codes"):
            tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, axis=0), tensor.name))
    onnx.save(model, tmp_path / W8.name)
    assert benchmark("retrain_zoo").is_worse(W8, tmp_path / W8.name, clips)
    assert "% of 48 clips, committed 100.00 %" in capsys.readouterr().out
