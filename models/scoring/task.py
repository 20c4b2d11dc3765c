"""Which classes and features models are scored with: what their files state, and what the command line says.

Files written before `kwsq.classes` was, and artefacts without their manifest, state nothing: of those the command line
alone decides.

Source: our choice.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kwsq.ir.errors import Problem, UsageError
from kwsq.models.allowed import KEYWORD, require_none, shown
from kwsq.models.data.clips import FRONT_ENDS, LABELS, OTHER, class_names
from kwsq.models.records import CLASSES_KEY, FEATURES_KEY
from kwsq.models.scoring.stated import stated_by

Fact = TypeVar("Fact")
AGAIN = "export the model again"


@dataclass(frozen=True, slots=True)
class Task:
    """The words to detect, none for the twelve classes, and the front end."""

    keywords: tuple[str, ...]
    features: str


def task_of(models: Sequence[Path], keywords: Sequence[str], features: str | None) -> Task:
    """Return the one task of all models.

    Args:
        models: files of any kind; those that cannot be read are left to what runs them.
        keywords: as asked for; none for those that the first file states, or else the twelve classes.
        features: as asked for; None for those that the first file states, or else "lfbe".

    Raises:
        UsageError: keywords that are no different words, features that there are not, files whose classes cannot be
            read, or, all at once, those that state others than are asked for.
    """
    require_none([*_no_words(keywords), *_no_features("--features", features, "correct it")])
    facts = [(path.name, stated_by(path)) for path in models]
    classes = [(name, _classes(name, each[CLASSES_KEY])) for name, each in facts if CLASSES_KEY in each]
    front_ends = [(name, each[FEATURES_KEY]) for name, each in facts if FEATURES_KEY in each]
    asked = class_names(tuple(keywords)) if keywords else None
    problems = [
        *(each for name, fact in front_ends for each in _no_features(f"{name}: {FEATURES_KEY}", fact, AGAIN)),
        *_others("--keyword", asked, classes, lambda names: f"classes {', '.join(names)}"),
        *_others("--features", features, front_ends, lambda name: f"features {name!r}"),
    ]
    require_none(problems)
    names = asked or (classes[0][1] if classes else LABELS)
    stated = front_ends[0][1] if front_ends else "lfbe"
    return Task(() if names == LABELS else names[1:], features or stated)


def _no_words(keywords: Sequence[str]) -> Iterator[Problem]:
    if again := sorted({word for word in keywords if keywords.count(word) > 1}):
        found = ", ".join(f"{word!r} {keywords.count(word)} times" for word in again)
        yield Problem("--keyword", found, "different words", "name each word once, in the order of the recipe")
    if wrong := [shown(word) for word in keywords if not KEYWORD.allows(word)]:
        remedy = "name words alone: the class of all else is always there"
        yield Problem("--keyword", ", ".join(wrong), KEYWORD.expected, remedy)


def _no_features(where: str, features: str | None, remedy: str) -> Iterator[Problem]:
    if features is not None and features not in FRONT_ENDS:
        yield Problem(where, shown(features), f"one of {', '.join(FRONT_ENDS)}", remedy)


def _classes(name: str, stated: str) -> tuple[str, ...]:
    try:
        names = json.loads(stated)
    except (json.JSONDecodeError, RecursionError):
        names = None
    is_list = isinstance(names, list) and all(isinstance(each, str) for each in names)
    if is_list and (tuple(names) == LABELS or (names[:1] == [OTHER] and _are_words(names[1:]))):
        return tuple(names)
    expected = f"a JSON list: the twelve classes, or {OTHER} and the words"
    raise UsageError(Problem(f"{name}: {CLASSES_KEY}", repr(stated[:200]), expected, AGAIN))


def _are_words(names: Sequence[str]) -> bool:
    """Whether these are different words; files of scores are called after them, whoever wrote the model."""
    return 0 < len(names) == len(set(names)) and all(map(KEYWORD.allows, names))


def _others(
    option: str, asked: Fact | None, stated: Sequence[tuple[str, Fact]], say: Callable[[Fact], str]
) -> Iterator[Problem]:
    """Give the files that state something else than is asked for, or than the first one does."""
    for name, fact in stated:
        source, wanted = stated[0] if asked is None else (option, asked)
        if fact != wanted:
            remedy = "evaluate these files apart" if asked is None else f"leave {option} out: the file states it"
            yield Problem(name, say(fact), f"{say(wanted)}, as {source} says", remedy)
