"""Add up the file sizes of the core install: kwsq's own dependencies and theirs, byte-compiled, without pip.

Read from the running environment's records, so extras installed beside them do not count. Exit code 1 above
the limit.
"""

import importlib.metadata as metadata
import re
import sys
from pathlib import Path

LIMIT_MB = 300


def core_distributions() -> set[str]:
    """Return the names of everything that a plain install of kwsq brings."""
    waiting, found = ["kwsq"], set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = metadata.requires(name) or []
            waiting += [canonical(r) for r in requirements if "extra ==" not in r and applies(r)]
    return found


def canonical(requirement: str) -> str:
    """Return the normalised distribution name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]).lower()


def applies(requirement: str) -> bool:
    """Whether this environment has the requirement; a marker may rule it out."""
    try:
        metadata.distribution(canonical(requirement))
    except metadata.PackageNotFoundError:
        return False
    return True


def size_bytes(name: str) -> int:
    """Return the bytes of a distribution's files that are on disk."""
    paths = {Path(file.locate()) for file in metadata.files(name) or []}
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> int:
    """Measure, print largest first, judge."""
    sizes = {name: size_bytes(name) / 1e6 for name in core_distributions()}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
        print(f"{size:8.1f} MB  {name}")
    total = sum(sizes.values())
    print(f"total {total:.1f} MB in {len(sizes)} distributions (at most {LIMIT_MB} MB)")
    return int(total > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
