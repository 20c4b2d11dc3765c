"""Files that are whole or absent."""

from pathlib import Path

import pytest
from full_disk import room_for

from kwsq.ir.errors import UsageError
from kwsq.models.data.whole_file import whole_file


def test_a_written_file_takes_its_name_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with whole_file(path) as stream:
        stream.write(b"content")
        assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"content"


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as stream:
        stream.write(content)


def write_half(path: Path, stop: type[BaseException]) -> None:
    with whole_file(path) as stream:
        stream.write(b"half")
        raise stop


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_stops_on_the_way_leaves_the_file_of_before_and_nothing_else(
    stop: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(stop):
        write_half(path, stop)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_a_full_disk_is_said_with_the_path_and_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with room_for(100), pytest.raises(UsageError, match=r"/file: found File too large; expected"):
        write(path, bytes(1000))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("name", ["file/in_it", "n" * 254])
def test_a_place_that_no_file_can_have_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(UsageError) as caught:
        write(tmp_path / name, b"content")
    assert caught.value.problems[0].where == str(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
