"""Whether the zoo comes back from its recipes: one command trains it, every file is held against the committed one.

    python benchmarks/retrain_zoo.py [OUT]

Needs ../shared/data and hours of CPU; OUT is .cache/zoo where it is not named, and what a killed run left in it is gone
on from. Weights come back bit for bit with the same version of TensorFlow on the same kind of processor. Where bytes
differ, both files name the held-out clips, and a loss that is more than chance is a failure.
"""

from __future__ import annotations

import subprocess
import sys
from math import sqrt
from pathlib import Path

from kwsq.models.data.clips import LabelledFeatures, load_split
from kwsq.models.recipe import Recipe, read_recipe
from kwsq.models.scoring.accuracy import logits

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
OUT = ROOT / ".cache" / "zoo"
STANDARD_ERRORS = 3.0


def main(out: Path) -> int:
    """Train, then print one line per committed file; 1 where one is missing or names fewer clips rightly."""
    recipes = sorted((ROOT / "models").glob("*/recipe.toml"))
    kwsq = Path(sys.executable).with_name("kwsq")
    trained = subprocess.run([kwsq, "train", *recipes, "--data", DATA, "--out", out], stdout=sys.stderr, check=False)
    if trained.returncode:
        return trained.returncode
    same = other = worse = 0
    for recipe in recipes:
        clips = held_out(read_recipe(recipe), out / "cache")
        for committed in sorted(recipe.parent.glob("*.onnx")):
            retrained = out / recipe.parent.name / committed.name
            if not retrained.exists():
                other, worse = other + 1, worse + 1
                print(f"{committed.name}: missing")
            elif retrained.read_bytes() == committed.read_bytes():
                same += 1
                print(f"{committed.name}: the same bytes")
            else:
                other, worse = other + 1, worse + is_worse(committed, retrained, clips)
    print(f"{same} of {same + other} files come back with the same bytes, {worse} missing or worse than chance allows")
    return int(worse > 0)


def held_out(recipe: Recipe, cache: Path) -> LabelledFeatures:
    """Load the clips that the recipe reports on."""
    return load_split(
        DATA,
        cache,
        dataset=recipe.dataset,
        split=recipe.report_split,
        features=recipe.features,
        keywords=recipe.keywords,
    )


def is_worse(committed: Path, retrained: Path, clips: LabelledFeatures) -> bool:
    """Print both accuracies; whether the second is lower by more than the standard error of their difference allows."""
    right = [logits(path, clips.features).argmax(axis=1) == clips.labels for path in (committed, retrained)]
    lost = right[0].astype(float) - right[1]
    allowed = STANDARD_ERRORS * float(lost.std()) / sqrt(len(lost))
    found = [100 * float(each.mean()) for each in right]
    print(f"{committed.name}: other bytes, {found[1]:.2f} % of {len(lost)} clips, committed {found[0]:.2f} %")
    return float(lost.mean()) > allowed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else OUT))
