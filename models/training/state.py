"""The state of a phase of training on disk, so that a killed run ends in the same weights as one never killed.

A file holds every variable of model and optimizer (slots, iteration and with it the learning rate; the moving
averages of batch norms and activation ranges are model variables) and the NumPy generator as it stood at the end
of an epoch. It is written under a temporary name, flushed and renamed: what stands under the name is whole.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.whole_file import whole_file


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where one phase keeps its state.

    Args:
        path: the file, `.npz`.
        key: everything that decides the phase, as text; a state of another key is refused.
        every_epochs: epochs between two writes; the end of the phase is always written.
    """

    path: Path
    key: str
    every_epochs: int = 1

    def save(self, model: Any, optimizer: Any, rng: np.random.Generator, *, epochs_done: int, last: bool) -> None:
        """Write the state after an epoch, where one is due."""
        if not last and epochs_done % self.every_epochs:
            return
        arrays = {f"model{i}": value for i, value in enumerate(model.get_weights())}
        arrays |= {f"optimizer{i}": variable.numpy() for i, variable in enumerate(optimizer.variables)}
        facts = {"key": self.key, "epochs_done": epochs_done, "generator": rng.bit_generator.state}
        write_arrays(self.path, arrays | {"facts": np.array(json.dumps(facts))})

    def restore(self, model: Any, optimizer: Any, rng: np.random.Generator) -> int:
        """Set model, optimizer and generator to the state on disk; return the epochs it stands for, 0 without one.

        Raises:
            UsageError: the file is of another recipe, seed, stage or set of clips.
        """
        if not self.path.exists():
            return 0
        with np.load(self.path) as arrays:
            facts = json.loads(str(arrays["facts"]))
            if facts["key"] != self.key:
                remedy = "name another output folder, or remove this file"
                raise UsageError(Problem(str(self.path), f"the state of another run: {facts['key']}", self.key, remedy))
            model.set_weights([arrays[f"model{i}"] for i in range(len(model.weights))])
            for i, variable in enumerate(optimizer.variables):
                variable.assign(arrays[f"optimizer{i}"])
        rng.bit_generator.state = facts["generator"]
        return int(facts["epochs_done"])


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an `.npz` that is whole or absent, also when the process is killed meanwhile."""
    with whole_file(path) as stream:
        np.savez(stream, **arrays)
