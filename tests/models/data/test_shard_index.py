"""The index of a folder of shards: parts join, and what does not belong together is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.data.shard_index import (
    Shard,
    part_path,
    read_index,
    require_room,
    shard_path,
    write_part,
)


def write(folder: Path, part: tuple[int, int], **changes: Any) -> None:
    """A part of four shards of one byte per clip, n clips of class n in shard n."""
    folder.mkdir(exist_ok=True)
    written = {}
    for number in range(part[0] - 1, 4, part[1]):
        shard_path(folder, number, 4).write_bytes(b"x" * number)
        written[number] = Shard(number, (0,) * number + (number,), f"{number:016}")
    facts = {"shape": (98, 64), "origin": {"split": "train"}, "written": written, "of": 4} | changes
    write_part(folder, part, **facts)


def test_parts_join_in_the_order_of_their_shards(tmp_path: Path) -> None:
    write(tmp_path / "whole", (1, 1))
    for number in (2, 1, 3):
        write(tmp_path / "parts", (number, 3))
    whole, parts = read_index(tmp_path / "whole"), read_index(tmp_path / "parts")
    assert whole == parts
    assert whole.digest == parts.digest
    assert parts.counts.tolist() == [0, 1, 2, 3]
    assert [shard.size_bytes for shard in parts.shards] == [0, 1, 2, 3]


def test_the_digest_follows_from_every_shard(tmp_path: Path) -> None:
    write(tmp_path / "one", (1, 1))
    write(tmp_path / "other", (1, 1))
    path = part_path(tmp_path / "other", (1, 1))
    path.write_text(path.read_text("utf-8").replace(f"{3:016}", f"{9:016}"), encoding="utf-8")
    assert read_index(tmp_path / "one").digest != read_index(tmp_path / "other").digest


def test_missing_parts_are_named(tmp_path: Path) -> None:
    write(tmp_path, (2, 4))
    with pytest.raises(UsageError, match=r"no index of part 1/4, 3/4, 4/4; expected all 4 parts"):
        read_index(tmp_path)


def test_a_part_is_written_once_and_beside_parts_of_its_own_division_only(tmp_path: Path) -> None:
    write(tmp_path, (2, 4))
    require_room(tmp_path, (1, 4))
    for part in ((2, 4), (1, 2)):
        with pytest.raises(UsageError, match=r"shards already: index-00002-of-00004\.json"):
            require_room(tmp_path, part)
    write(tmp_path, (1, 2))
    with pytest.raises(UsageError, match="indices of 2 and of 4 parts"):
        read_index(tmp_path)


@pytest.mark.parametrize("change", [{"shape": (49, 10)}, {"origin": {"split": "val"}}, {"of": 5}])
def test_parts_of_something_else_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path, (1, 2))
    write(tmp_path, (2, 2), **change)
    with pytest.raises(UsageError, match=r"index-00002-of-00002\.json: found shards of something else"):
        read_index(tmp_path)


def test_shards_that_no_part_states_are_named(tmp_path: Path) -> None:
    write(tmp_path, (1, 1), of=6)
    with pytest.raises(UsageError, match=r"found shards 0, 1, 2, 3; expected 0 to 5, each once"):
        read_index(tmp_path)


def test_a_shard_that_two_parts_state_is_refused(tmp_path: Path) -> None:
    write(tmp_path, (1, 2))
    shutil.copy(part_path(tmp_path, (1, 2)), part_path(tmp_path, (2, 2)))
    with pytest.raises(UsageError, match=r"found shards 0, 0, 2, 2; expected 0 to 3, each once"):
        read_index(tmp_path)
    path = part_path(tmp_path, (2, 2))
    path.write_text(path.read_text("utf-8").replace(f"{2:016}", f"{9:016}"), encoding="utf-8")  # with other clips
    with pytest.raises(UsageError, match=r"found shards 0, 0, 2, 2; expected 0 to 3, each once"):
        read_index(tmp_path)


def test_files_named_as_parts_that_there_are_none_of_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, (1, 1))
    for part in ((0, 1), (7, 1)):
        part_path(tmp_path, part).write_text("{}", encoding="utf-8")
    assert len(read_index(tmp_path).shards) == 4


def test_shards_without_a_clip_are_refused(tmp_path: Path) -> None:
    shard_path(tmp_path, 0, 1).write_bytes(b"")
    write_part(tmp_path, (1, 1), (98, 64), {}, {0: Shard(0, (), "0")}, 1)
    with pytest.raises(UsageError, match="found no clip"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "7",
        "[" * 100_000,
        "\xff",
        *(
            json.dumps({"shards": 1, "shape": [1], "origin": {}, "written": {}} | change)
            for change in (
                {"origin": 3},
                {"shards": 0},
                {"shards": -3},
                {"shards": 10**30},
                {"shards": float("inf")},
                {"shards": True},
                {"shape": "32"},
                {"shape": [3.5, 2]},
                {"shape": [-1, 2]},
                {"shape": [10**30]},
            )
        ),
    ],
)
def test_other_files_of_an_index_name_are_refused(tmp_path: Path, content: str) -> None:
    part_path(tmp_path, (1, 1)).write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"index-00001-of-00001\.json: found no index of shards"):
        read_index(tmp_path)


@pytest.mark.parametrize("shard", [[1, [0], 5, 5], ["x", [0], "d"], [1, 3, "d"], [1, [-5], "d"], [1, "22", "d"], None])
def test_a_damaged_entry_of_a_shard_is_refused(tmp_path: Path, shard: Any) -> None:
    write(tmp_path, (1, 1))
    path = part_path(tmp_path, (1, 1))
    facts = json.loads(path.read_text("utf-8"))
    facts["written"]["2"] = shard
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UsageError, match="found no index of shards"):
        read_index(tmp_path)
