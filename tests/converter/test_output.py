"""All files or none, and nothing foreign is touched."""

import os
from pathlib import Path

import pytest

from kwsq.converter.output import MANIFEST, OutputDirectory, check_new_file, write_file
from kwsq.ir.errors import UsageError

FILES = {"model.tflite": b"m", "report.json": b"{}", "report.html": b"<", MANIFEST: b"{}"}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_new_directory_appears_complete_with_its_parents(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out"
    OutputDirectory.claim(target, force=False).publish(FILES)
    assert contents(tmp_path) == {f"a/b/out/{name}": data for name, data in FILES.items()}


def test_claiming_creates_nothing(tmp_path: Path) -> None:
    OutputDirectory.claim(tmp_path / "a" / "out", force=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    OutputDirectory.claim(tmp_path, force=False).publish(FILES)
    assert contents(tmp_path) == FILES


def test_a_directory_with_anything_in_it_needs_force(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        OutputDirectory.claim(tmp_path, force=False)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_force_replaces_its_own_files_and_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.tflite").write_text("mine too")
    (tmp_path / "model.tflite").write_text("old")
    (tmp_path / MANIFEST).write_text("old")
    OutputDirectory.claim(tmp_path, force=True).publish({"report.json": b"{}", "report.html": b"<"})
    assert contents(tmp_path) == {
        "notes.txt": b"mine",
        "sub/model.tflite": b"mine too",
        "report.json": b"{}",
        "report.html": b"<",
    }


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious.tflite"
    precious.write_text("mine")
    target = tmp_path / "out"
    target.mkdir()
    (target / "model.tflite").symlink_to(precious)
    OutputDirectory.claim(target, force=True).publish(FILES)
    assert precious.read_text() == "mine"
    assert (target / "model.tflite").read_bytes() == b"m"


OTHER = {"model.kwsq": b"other", MANIFEST: b"other"}


class Overtaken(dict[str, bytes]):
    """Files of one conversion, while whose writing another process publishes its own."""

    def __init__(self, target: Path) -> None:
        super().__init__(FILES)
        self._target = target

    def items(self):  # type: ignore[no-untyped-def,override]
        self._target.mkdir(exist_ok=True)
        for name, data in OTHER.items():
            (self._target / name).write_bytes(data)
        return super().items()


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_that_claimed_one_place_the_later_is_refused_and_the_other_stays_whole(
    tmp_path: Path, exists: bool
) -> None:
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    first, second = (OutputDirectory.claim(target, force=False) for _ in range(2))
    first.publish(FILES)
    with pytest.raises(UsageError, match="not empty"):
        second.publish(OTHER)
    assert contents(tmp_path) == {f"out/{name}": data for name, data in FILES.items()}


def test_a_directory_that_appears_while_another_is_written_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(UsageError, match="not empty"):
        OutputDirectory.claim(target, force=False).publish(Overtaken(target))
    assert contents(tmp_path) == {f"out/{name}": data for name, data in OTHER.items()}


def test_who_fills_an_empty_directory_has_it_alone(tmp_path: Path) -> None:
    claimed = OutputDirectory.claim(tmp_path, force=False)
    (tmp_path / ".kwsq").mkdir()  # another process is writing
    with pytest.raises(UsageError, match="not empty"):
        claimed.publish(FILES)
    assert list(tmp_path.iterdir()) == [tmp_path / ".kwsq"]


def test_with_force_the_later_of_two_replaces_the_earlier(tmp_path: Path) -> None:
    target = tmp_path / "out"
    OutputDirectory.claim(target, force=True).publish(Overtaken(target))
    assert contents(tmp_path) == {f"out/{name}": data for name, data in FILES.items()}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_or_dangling_link_in_the_place_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling", "file/below"):
        with pytest.raises(UsageError):
            OutputDirectory.claim(tmp_path / name, force=force)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_directory_called_like_a_file_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UsageError, match="a directory called report"):
        OutputDirectory.claim(tmp_path, force=True)


class Stop(BaseException):
    """Like Ctrl-C: not an Exception."""


class Interrupting(dict[str, bytes]):
    def items(self):  # type: ignore[no-untyped-def,override]
        yield "model.tflite", b"m"
        raise Stop


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        OutputDirectory.claim(tmp_path / "a" / "out", force=False).publish(Interrupting(FILES))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_text("old")
    with pytest.raises(Stop):
        OutputDirectory.claim(tmp_path, force=True).publish(Interrupting(FILES))
    assert contents(tmp_path) == {"model.tflite": b"old"}


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="output directory"):
        OutputDirectory.claim(Path("/proc/kwsq/out"), force=False).publish(FILES)
    too_long = tmp_path / ("n" * 300)
    with pytest.raises(UsageError, match="output directory"):
        OutputDirectory.claim(too_long, force=False).publish(FILES)


def test_a_single_file_goes_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", b"new", "--output")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        for attempt in (lambda p: check_new_file(p, "--output", force=True), lambda p: write_file(p, b"", "--output")):
            with pytest.raises(UsageError, match="found a device, a pipe or a socket; expected a file"):
                attempt(place)
    assert (tmp_path / "pipe").is_fifo()
