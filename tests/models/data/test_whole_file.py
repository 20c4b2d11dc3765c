"""Files that are whole or absent."""

from pathlib import Path

import pytest

from kwsq.models.data.whole_file import whole_file


def test_a_written_file_takes_its_name_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with whole_file(path) as stream:
        stream.write(b"content")
        assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"content"


def write_half(path: Path, stop: type[BaseException]) -> None:
    with whole_file(path) as stream:
        stream.write(b"half")
        raise stop


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_what_stops_on_the_way_leaves_the_file_of_before_and_nothing_else(
    stop: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(stop):
        write_half(path, stop)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"
