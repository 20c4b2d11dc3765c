"""The state of a phase of training on disk, so that a killed run ends in the same weights as one never killed.

A file holds every variable of model and optimizer (slots, iteration and with it the learning rate; the moving
averages of batch norms and activation ranges are model variables) and the NumPy generator as it stood at the end
of an epoch. It is written under a temporary name, flushed and renamed: what stands under the name is whole.

Every worker writes a file of its own, so that a kill can leave them at different epochs. After an epoch all workers
hold the same variables and generator; those behind therefore take the file of the one that is furthest.
"""

import hashlib
import json
import struct
import tokenize
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.data.whole_file import whole_file
from kwsq.models.training.distribution import copied_from, gathered
from kwsq.models.training.run_facts import differences

DIGEST_BYTES = 16
DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, BadZipFile, struct.error, tokenize.TokenError, zlib.error,
)  # fmt: skip
"""What reading a damaged file raises, of archives, arrays their headers, JSON and Keras; it is in memory by then."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where one phase keeps its state.

    Args:
        path: the file, `.npz`.
        key: everything that decides the phase, as text; a state of another key is refused.
        every_epochs: epochs between two writes; the end of the phase is always written.
        facts: what the key is made of, by name; kept beside it, so that a refusal can say what differs.
    """

    path: Path
    key: str
    every_epochs: int = 1
    facts: Mapping[str, str] = field(default_factory=dict)

    def save(self, model: Any, optimizer: Any, rng: np.random.Generator, *, epochs_done: int, last: bool) -> None:
        """Write the state after an epoch, where one is due.

        Raises:
            UsageError: a state of another key, or a damaged one, has come to stand there; or it cannot be written.
        """
        if not last and epochs_done % self.every_epochs:
            return
        if self.path.exists() and (kept := self._facts())["key"] != self.key:
            raise UsageError(self._foreign(kept))
        arrays = {f"model{i}": value for i, value in enumerate(model.get_weights())}
        arrays |= {f"optimizer{i}": variable.numpy() for i, variable in enumerate(optimizer.variables)}
        facts = {
            "key": self.key,
            "epochs_done": epochs_done,
            "generator": rng.bit_generator.state,
            "made_of": dict(self.facts),
        }
        write_arrays(self.path, arrays | {"facts": np.array(json.dumps(facts))})

    def restore(self, model: Any, optimizer: Any, rng: np.random.Generator) -> int:
        """Set model, optimizer and generator to the state on disk; return the epochs it stands for, 0 without one.

        Raises:
            UsageError: the file is of another recipe, seed, stage or set of clips, or damaged.
        """
        if not self.path.exists():
            return 0
        facts = self._facts()
        if facts["key"] != self.key:
            raise UsageError(self._foreign(facts))
        with self._damage_named(self.path.read_bytes()) as arrays:
            model.set_weights([arrays[f"model{i}"] for i in range(len(model.weights))])
            for i, variable in enumerate(optimizer.variables):
                variable.assign(arrays[f"optimizer{i}"])
            rng.bit_generator.state = facts["generator"]
        return int(facts["epochs_done"])

    def share(self) -> None:
        """Give all workers the state of the one with the most epochs; nothing changes where they are alike.

        Every worker calls this before `restore`.

        Raises:
            UsageError: on every worker, where the state of one is of another recipe, seed, stage or set of clips, or
                damaged, or the workers differ in these.
        """
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return
        epochs_done, refusal = self._stands_for()
        content = self.path.read_bytes() if self.path.exists() else b""
        own = [float(refusal is None), epochs_done, *_digest(self.key.encode()), *_digest(content)]
        rows, mine = gathered(np.array(own, np.float32))
        if refusal is not None:
            raise refusal
        self._check_alike(rows, len(mine))
        furthest = int(rows[:, 1].argmax())
        if (rows == rows[furthest]).all():
            return
        taken = copied_from(furthest, content)
        if taken != content:
            with whole_file(self.path) as stream:
                stream.write(taken)

    def _check_alike(self, rows: NDArray[np.float32], replicas: int) -> None:
        """Refuse to start where a worker has the state of another run, or is to train something else.

        Args:
            rows: what the worker of every replica stated.
            replicas: of a worker.
        """
        workers = rows[::replicas, 2 : 2 + DIGEST_BYTES]
        foreign = np.flatnonzero(rows[::replicas, 0] == 0.0).tolist()
        other = np.flatnonzero((workers != workers[0]).any(axis=1)).tolist()
        problems = []
        if foreign:
            found, remedy = (
                f"states of another run, or damaged ones, on workers {foreign}",
                "see what these workers say",
            )
            problems.append(Problem(str(self.path), found, "states of this run on all workers", remedy))
        if other:
            found, remedy = f"workers {other} train something else than worker 0", "start all workers alike"
            problems.append(Problem(str(self.path), found, "one recipe, seed and set of clips", remedy))
        if problems:
            raise UsageError(problems)

    def _stands_for(self) -> tuple[int, UsageError | None]:
        """Return the epochs of the file, 0 without one, and why it cannot be used, None where it can."""
        if not self.path.exists():
            return 0, None
        try:
            facts = self._facts()
        except UsageError as error:
            return 0, error
        return facts["epochs_done"], None if facts["key"] == self.key else UsageError(self._foreign(facts))

    def _facts(self) -> dict[str, Any]:
        """Return what the file says of itself.

        Raises:
            UsageError: it is damaged.
        """
        with self._damage_named(self.path.read_bytes()) as arrays:
            facts = json.loads(str(arrays["facts"]))
            known = {
                "key": str(facts["key"]),
                "epochs_done": int(facts["epochs_done"]),
                "generator": facts["generator"],
            }
            return known | {"made_of": dict(facts.get("made_of", {}))}  # states of before say nothing of it

    @contextmanager
    def _damage_named(self, content: bytes) -> Iterator[Any]:
        """Give the arrays that a file holds; say that it is damaged where what is done with them fails."""
        try:
            with np.load(BytesIO(content)) as arrays:
                yield arrays
        except DAMAGE as error:
            found = f"a damaged state ({type(error).__name__}: {error})"
            remedy = "bring back a whole copy, or remove this file: the stage begins again and ends in the same weights"
            raise UsageError(Problem(str(self.path), found, "the state of a stage", remedy)) from error

    def _foreign(self, facts: dict[str, Any]) -> Problem:
        found, expected = differences(facts["made_of"], self.facts) if facts["made_of"] and self.facts else ("", "")
        remedy = "name another output folder, or remove this file"
        return Problem(
            str(self.path), f"the state of another run: {found or facts['key']}", expected or self.key, remedy
        )


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an `.npz` that is whole or absent, also when the process is killed meanwhile."""
    with whole_file(path) as stream:
        np.savez(stream, **arrays)
