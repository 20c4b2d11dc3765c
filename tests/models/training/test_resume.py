"""Training that is killed at any moment and started again ends in the bits of training that was never killed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import training_program
from keyword_cases import synthetic_keywords

from kwsq.ir.errors import UsageError
from kwsq.models.recipe import Recipe
from kwsq.models.schemes import LearnedStep, NormClips
from kwsq.models.training.fitting import Epoch
from kwsq.models.training.state import TrainingState
from kwsq.models.training.watching import BOUNDARY_CLIPS, RunFolder, ignore_line

PROGRAM = Path(training_program.__file__)
Spoil = Callable[[dict[str, object], dict[str, np.ndarray]], None]


def start(out: Path) -> "subprocess.Popen[str]":
    paths = os.pathsep.join([str(PROGRAM.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }
    command = [sys.executable, str(PROGRAM), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def kill_after(out: Path, line_begins: str) -> None:
    """Run until a line is shown, then SIGKILL: training is in the middle of what follows."""
    process = start(out)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(line_begins):
            process.kill()
            break
    process.stdout.close()
    process.wait()
    assert seen
    assert seen[-1].startswith(line_begins)
    assert not (out / "final.npz").exists()


def finish(out: Path) -> dict[str, np.ndarray]:
    process = start(out)
    process.communicate()
    assert process.returncode == 0
    return final_weights(out)


def final_weights(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "final.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def differing(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> list[str]:
    assert left.keys() == right.keys()
    return [name for name in left if left[name].tobytes() != right[name].tobytes()]


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    # Three kills of one run: within the float stage, within stage 1, within stage 2 with its moving ranges.
    for place in ("float: epoch 2 ", "w4-stage1: epoch 1 ", "w4-stage2: epoch 2 "):
        kill_after(tmp_path / "killed", place)
    assert differing(finish(tmp_path / "killed"), finish(tmp_path / "whole")) == []
    stages = json.loads((tmp_path / "killed" / "stages.json").read_text(encoding="utf-8"))
    assert list(stages) == ["float", "w4-stage1", "w4-stage2"]
    assert list((tmp_path / "killed" / "tensorboard" / "w4-stage2").iterdir())


def reset_generator(facts: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    facts["generator"] = np.random.default_rng(99).bit_generator.state


def zero_slots(facts: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    for name in arrays:
        if name.startswith("optimizer") and arrays[name].ndim > 0:
            arrays[name] = np.zeros_like(arrays[name])


def forget_iterations(facts: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    for name in arrays:
        if name.startswith("optimizer") and arrays[name].ndim == 0:
            arrays[name] = np.zeros_like(arrays[name])


def one_bit_of_a_weight(facts: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    arrays["model3"].view(np.uint32).flat[0] ^= 1


class Empty:
    """A model and an optimizer without variables."""

    variables = weights = ()

    def get_weights(self) -> list[np.ndarray]:
        return []

    def set_weights(self, _: list[np.ndarray]) -> None:
        pass


class InterruptedRunError(Exception):
    """Ends a run in the middle of a stage."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def show(line: str) -> None:
        if line.startswith("w4-stage2: epoch 1 "):
            raise InterruptedRunError

    out = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(InterruptedRunError):
        training_program.main(out, show)
    return out


def resumed(interrupted: Path, out: Path, spoil: Spoil) -> dict[str, np.ndarray]:
    shutil.copytree(interrupted, out, dirs_exist_ok=True)
    path = out / "state" / "w4-stage2.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = json.loads(str(arrays.pop("facts")))
    spoil(facts, arrays)
    np.savez(path, **arrays, facts=np.array(json.dumps(facts)))
    training_program.main(out, ignore_line)
    return final_weights(out)


def test_each_part_of_the_state_decides_the_bits(interrupted: Path, tmp_path: Path) -> None:
    """Resuming from the whole state gives the bits of an uninterrupted run; without any one part, others."""
    training_program.main(tmp_path / "whole", ignore_line)
    whole = final_weights(tmp_path / "whole")
    assert differing(resumed(interrupted, tmp_path / "as_it_is", lambda facts, arrays: None), whole) == []
    for spoil in (reset_generator, zero_slots, forget_iterations, one_bit_of_a_weight):
        assert differing(resumed(interrupted, tmp_path / spoil.__name__, spoil), whole), spoil.__name__


def test_the_state_of_another_recipe_or_seed_is_refused(tmp_path: Path) -> None:
    held_out, plan = synthetic_keywords(12, seed=2), training_program.PLAN
    mine = RunFolder(tmp_path, plan, 1, "a", held_out, ignore_line).state("float")
    others = [
        RunFolder(tmp_path, plan, 2, "a", held_out, ignore_line),
        RunFolder(tmp_path, replace(plan, batch_size=8), 1, "a", held_out, ignore_line),
        RunFolder(tmp_path, plan, 1, "b", held_out, ignore_line),
    ]
    assert len({mine.key, *(other.state("float").key for other in others)}) == 4
    more = replace(plan, variants=(*plan.variants, replace(plan.variants[0], name="again")))
    assert RunFolder(tmp_path, more, 1, "a", held_out, ignore_line).state("float").key == mine.key

    first = plan.variants[0]
    settled = replace(plan, variants=(replace(first, norm_clips=NormClips.CLEAN),))  # decides what comes after both
    for stage in (f"{first.name}-stage1", f"{first.name}-stage2"):
        keys = [RunFolder(tmp_path, each, 1, "a", held_out, ignore_line).state(stage).key for each in (plan, settled)]
        assert keys[0] == keys[1]
    wider, finer = (
        replace(plan, variants=(replace(first, scheme=replace(first.scheme, **change)),))
        for change in ({"bits": 8}, {"per_channel": True})
    )
    stages = [
        RunFolder(tmp_path, each, 1, "a", held_out, ignore_line).state(f"{first.name}-stage1")
        for each in (plan, wider, finer)
    ]
    assert len({stage.key for stage in stages}) == 3

    late = [replace(variant, name=f"{variant.name}-stage2") for variant in (first, wider.variants[0])]
    folders = [RunFolder(tmp_path, replace(plan, variants=(v,)), 1, "a", held_out, ignore_line) for v in late]
    assert len({folder.state(f"{late[0].name}-stage1").key for folder in folders}) == 2  # a name that ends as a stage

    rng = np.random.default_rng(0)
    mine.save(Empty(), Empty(), rng, epochs_done=1, last=True)
    with pytest.raises(UsageError, match="state of another run"):
        TrainingState(mine.path, others[0].state("float").key).restore(Empty(), Empty(), rng)

    state = others[0].state("float")
    before = mine.path.read_bytes()
    with pytest.raises(UsageError, match="state of another run"):
        state.save(Empty(), Empty(), rng, epochs_done=2, last=True)
    assert mine.path.read_bytes() == before


def test_a_refusal_says_what_differs(tmp_path: Path) -> None:
    held_out, plan = synthetic_keywords(12, seed=2), training_program.PLAN
    first = plan.variants[0]

    def state(plan: Recipe, seed: int = 1, clips: str = "a") -> TrainingState:
        return RunFolder(tmp_path, plan, seed, clips, held_out, ignore_line).state("w4-stage1")

    def refusal(other: TrainingState) -> tuple[str, str]:
        with pytest.raises(UsageError) as caught:
            other.restore(Empty(), Empty(), np.random.default_rng(0))
        (problem,) = caught.value.problems
        return problem.found.removeprefix("the state of another run: "), problem.expected

    mine = state(plan)
    mine.save(Empty(), Empty(), np.random.default_rng(0), epochs_done=1, last=False)
    assert refusal(state(plan, seed=2)) == ("seed 1", "seed 2")
    longer = replace(plan, batch_size=8, float_phase=replace(plan.float_phase, epochs=9))
    assert refusal(state(longer, clips="b")) == (
        "training clips a, batch_size 16, float.epochs 4", "training clips b, batch_size 8, float.epochs 9",
    )  # fmt: skip
    wider = replace(first, scheme=LearnedStep(8), stage2=replace(first.stage2, epochs=9))
    assert refusal(state(replace(plan, variants=(wider,), distillation=replace(plan.distillation, weight=0.1)))) == (
        "variant w4.scheme TwoStage, variant w4.scheme.bits 4, variant w4.stage2.epochs 3, distillation.weight 0.5",
        "variant w4.scheme LearnedStep, variant w4.scheme.bits 8, variant w4.stage2.epochs 9, distillation.weight 0.1",
    )
    assert refusal(replace(mine, key="other")) == (mine.key, "other")  # what no fact tells is told by the keys
    replace(mine, facts={}).save(Empty(), Empty(), np.random.default_rng(0), epochs_done=1, last=False)
    assert refusal(state(plan, seed=2)) == (mine.key, state(plan, seed=2).key)  # as are states of before
    assert mine.restore(Empty(), Empty(), np.random.default_rng(0)) == 1


def test_a_damaged_state_is_named_whatever_the_damage(interrupted: Path, tmp_path: Path) -> None:
    """Cut anywhere, or with bytes that were changed; where the archive does not notice, the state is as it was."""
    path = tmp_path / "state.npz"
    whole = (interrupted / "state" / "float.npz").read_bytes()
    with np.load(interrupted / "state" / "float.npz") as arrays:
        key = json.loads(str(arrays["facts"]))["key"]
        models = [name for name in arrays.files if name.startswith("model")]
    rng = np.random.default_rng(1)
    cut = [whole[: len(whole) * part // 16] for part in range(16)]
    changed = [bytearray(whole) for _ in range(40)]
    for content in changed:
        content[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
    array = BytesIO()
    np.save(array, np.zeros(3))
    taken = []
    for content in [*cut, array.getvalue(), b"PK\x03\x04", b"{}", *map(bytes, changed)]:
        path.write_bytes(content)
        with suppress(UsageError):
            TrainingState(path, key).restore(Stored(len(models)), Empty(), np.random.default_rng(0))
            taken.append(content)
    assert all(content in changed for content in taken)
    path.write_bytes(cut[8])
    with pytest.raises(UsageError, match=rf"{path}: found a damaged state .* or remove this file"):
        TrainingState(path, key).save(Empty(), Empty(), np.random.default_rng(0), epochs_done=1, last=True)


class Stored(Empty):
    """A model with as many variables as a file has."""

    def __init__(self, count: int) -> None:
        self.weights = (None,) * count


def test_the_stage_of_a_damaged_state_that_is_removed_ends_in_the_same_bits(interrupted: Path, tmp_path: Path) -> None:
    """That is what the refusal says of it."""
    out = tmp_path / "out"
    shutil.copytree(interrupted, out)
    state = out / "state" / "w4-stage1.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"w4-stage1\.npz: found a damaged state .* remove this file"):
        training_program.main(out, ignore_line)
    for stage in ("w4-stage1", "w4-stage2"):
        (out / "state" / f"{stage}.npz").unlink()
    training_program.main(out, ignore_line)
    training_program.main(tmp_path / "whole", ignore_line)
    assert differing(final_weights(out), final_weights(tmp_path / "whole")) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_a_damaged_report_is_refused_before_the_stage_is_trained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stages.json").write_bytes(content)
    watch = RunFolder(tmp_path, training_program.PLAN, 1, "a", synthetic_keywords(12, seed=2), ignore_line)
    with pytest.raises(UsageError, match=r"stages\.json: found a damaged file"):
        watch.state("float")


def test_the_accuracy_at_a_boundary_is_of_all_clips_a_few_at_a_time(tmp_path: Path) -> None:
    """All at once, a large report split takes more memory than its training."""
    clips, sizes = synthetic_keywords(2 * BOUNDARY_CLIPS + 8, seed=2), list[int]()
    named = np.eye(12, dtype=np.float32)[
        np.where(np.arange(clips.clips) % 5 == 0, (clips.labels + 1) % 12, clips.labels)
    ]

    def model(features: np.ndarray, *, training: bool) -> tf.Tensor:
        sizes.append(len(features))
        return tf.constant(named[sum(sizes[:-1]) : sum(sizes)])

    RunFolder(tmp_path, training_program.PLAN, 1, "a", clips, ignore_line).boundary("float", model)
    assert sizes == [BOUNDARY_CLIPS, BOUNDARY_CLIPS, 8]
    stages = json.loads((tmp_path / "stages.json").read_text(encoding="utf-8"))
    assert stages["float"] == {"accuracy": 416 / 520, "clips": 520}


def test_events_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file", encoding="utf-8")
    watch = RunFolder(tmp_path, training_program.PLAN, 1, "a", synthetic_keywords(12, seed=2), ignore_line)
    with pytest.raises(UsageError, match=r"tensorboard/float: found /.* is not a directory .* expected a folder"):
        watch.epoch("float", Epoch(1, 2, 0.5))


def test_a_run_does_not_go_on_with_other_clips(interrupted: Path, tmp_path: Path) -> None:
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    with pytest.raises(
        UsageError,
        match=r"float\.npz: found the state of another run: training clips \w+; expected training clips \w+;",
    ):
        training_program.main(tmp_path, ignore_line, clips=synthetic_keywords(96, seed=3))
