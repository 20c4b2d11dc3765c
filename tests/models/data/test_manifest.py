"""A manifest's rows all count, or are refused by line; nothing here reads audio."""

import re
from pathlib import Path

import pytest

from kwsq.ir.errors import UsageError
from kwsq.models.data.clips import LABELS, read_clips
from kwsq.models.data.manifest import COLUMNS, read_rows

PAGE = Path(__file__).resolve().parents[3] / "docs" / "data.md"

HEADER = "file,set,word,label12,speaker,split"
ROWS = [
    "a.wav,own,yes,yes,anna,train",
    "b.wav,own,marvin,_unknown_,anna,train",
    "c.wav,own,marvin,,bert,val",
    "d.wav,own,no,,bert,val",
    "e.wav,own,hum,_silence_,noise,train",
    "f.wav,own,_noise_,,noise,val",
    "g.wav,own,,go,cleo,train",
    "h.wav,own,,_unknown_,cleo,train",
    "a.wav,other,,up,anna,val",
]


def write(folder: Path, rows: list[str] = ROWS, header: str = HEADER, encoding: str = "utf-8") -> Path:
    text = "\n".join([header, *rows]) + "\n"
    (folder / "manifest.csv").write_text(text, encoding=encoding)
    return folder


def problems(folder: Path, keywords: tuple[str, ...] = ()) -> dict[str, str]:
    """The part of the manifest -> what was found there; each as one problem of one refusal."""
    with pytest.raises(UsageError) as caught:
        read_clips(folder, dataset="own", keywords=keywords)
    path = str(folder / "manifest.csv")
    return {each.where.removeprefix(path).strip(":, "): each.found for each in caught.value.problems}


def test_where_label12_is_empty_the_word_decides(tmp_path: Path) -> None:
    clips = read_clips(write(tmp_path), dataset="own")
    assert {clip.file[0]: (LABELS[clip.label], clip.word) for clip in clips} == {
        "a": ("yes", "yes"),
        "b": ("_unknown_", "marvin"),
        "c": ("_unknown_", "marvin"),
        "d": ("no", "no"),
        "e": ("_silence_", "_silence_"),
        "f": ("_silence_", "_silence_"),
        "g": ("go", "go"),
        "h": ("_unknown_", "_unknown_"),
    }
    assert [clip.file[0] for clip in clips if clip.is_noise] == ["e", "f"]


@pytest.mark.parametrize(("keyword", "files"), [("marvin", "bc"), ("no", "d"), ("go", "g")])
def test_keywords_are_found_by_word_and_by_label(tmp_path: Path, keyword: str, files: str) -> None:
    clips = read_clips(write(tmp_path), dataset="own", keywords=(keyword,))
    assert len(clips) == 8
    assert [clip.file[0] for clip in clips if clip.label] == list(files)


def test_a_set_of_words_of_ones_own_needs_no_label(tmp_path: Path) -> None:
    rows = [f"{number}.wav,own,{word},,s{number},train" for number, word in enumerate(("hey", "ho", "hey"))]
    clips = read_clips(write(tmp_path, rows), dataset="own", keywords=("hey",))
    assert [clip.label for clip in clips] == [1, 0, 1]
    with pytest.raises(UsageError, match="no clip that says 'hi', 'you'; expected one of hey, ho"):
        read_clips(tmp_path, dataset="own", keywords=("hi", "ho", "you"))


def test_a_byte_order_mark_and_other_line_ends_are_no_part_of_the_text(tmp_path: Path) -> None:
    expected = read_clips(write(tmp_path), dataset="own")
    assert read_clips(write(tmp_path, encoding="utf-8-sig"), dataset="own") == expected
    path = tmp_path / "manifest.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_clips(tmp_path, dataset="own") == expected


@pytest.mark.parametrize(
    ("row", "column", "found"),
    [
        ("x.wav,own,yes,Yes,dora,train", "label12", "'Yes' in line 11"),
        ("x.wav,own,yes, yes,dora,train", "label12", "' yes' in line 11"),
        ("x.wav,own,cat,cat,dora,train", "label12", "'cat' in line 11"),
        ("x.wav,own,Yes,,dora,train", "word", "'Yes' in line 11"),
        ("x.wav,own,no,yes,dora,train", "label12 and word", "yes and 'no' in line 11"),
        ("x.wav,own,no,_silence_,dora,train", "label12 and word", "_silence_ and 'no' in line 11"),
        ("x.wav,own,_noise_,_unknown_,dora,train", "label12 and word", "_unknown_ and '_noise_' in line 11"),
        ("x.wav,own,,,dora,train", "label12, word", "nothing in line 11"),
        (",own,yes,yes,dora,train", "file", "nothing in line 11"),
        ("x.wav,own,yes,yes,,train", "speaker", "nothing in line 11"),
        ("x.wav,own,yes,yes,dora, ", "split", "nothing in line 11"),
        ("x.wav,own,yes,yes,dora,Train", "split", "'Train' in line 11"),
        ("x.wav,Own,yes,yes,dora,train", "set", "'Own' in line 11"),
        ("x.wav,own,yes,yes,dora", "fields", "5 in line 11"),
        ("x.wav,own,yes,yes,dora,train,1.0", "fields", "7 in line 11"),
        ("a.wav,own,yes,yes,anna,train", "file", "'a.wav' in lines 2 (yes), 11 (yes)"),
        ("./a.wav,own,no,no,anna,train", "file", "'a.wav' in lines 2 (yes), 11 (no)"),
    ],
)
def test_a_row_that_would_be_lost_or_mistaken_is_refused(tmp_path: Path, row: str, column: str, found: str) -> None:
    assert problems(write(tmp_path, [*ROWS, row])) == {column: found}


def test_all_faults_are_named_at_once_and_many_rows_are_counted(tmp_path: Path) -> None:
    wrong = [f"x{number}.wav,own,yes,Yes,dora,train" for number in range(7)]
    found = problems(write(tmp_path, [*ROWS, *wrong, "y.wav,own", "z.wav,own,yes,yes,dora,TRAIN"]))
    shown = ", ".join(f"'Yes' in line {line}" for line in range(11, 16))
    assert found == {"label12": f"{shown} (7 in all)", "fields": "2 in line 18", "split": "'TRAIN' in line 19"}


def test_a_keyword_in_another_case_is_refused_and_other_words_are_not(tmp_path: Path) -> None:
    data = write(tmp_path, [*ROWS, "x.wav,own,Marvin,,dora,train", "y.wav,own,YES,,dora,train"])
    assert problems(data, ("marvin",)) == {"word": "'Marvin' in line 11"}


def test_silence_needs_no_speaker(tmp_path: Path) -> None:
    assert len(read_clips(write(tmp_path, [*ROWS, "x.wav,own,_silence_,,,train"]), dataset="own")) == 9


def test_every_speaker_of_two_splits_is_named(tmp_path: Path) -> None:
    rows = ["x.wav,own,yes,,anna,val", "y.wav,own,yes,,bert,train"]
    found = problems(write(tmp_path, [*ROWS, *rows]))[""]
    assert found == "speaker 'anna' in splits 'train' and 'val', speaker 'bert' in splits 'val' and 'train'"


def test_bytes_that_are_not_utf_8_and_fields_without_end_are_refused_by_line(tmp_path: Path) -> None:
    path = write(tmp_path) / "manifest.csv"
    whole = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + whole + b"\xe9.wav,own,yes,yes,dora,train\n")
    assert problems(tmp_path) == {"line 11": "byte 0xe9"}
    path.write_bytes(whole + b"x" * 200_000 + b".wav,own,yes,yes,dora,train\n")
    assert problems(tmp_path) == {"line 11": "field larger than field limit (131072)"}
    path.write_bytes(whole.replace(b"c.wav", b'"c.wav'))
    assert problems(tmp_path) == {"fields": "1 in line 10"}


def test_a_set_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no clip of set 'none'; expected one of other, own"):
        read_clips(write(tmp_path), dataset="none")
    with pytest.raises(UsageError, match="expected rows below the header"):
        read_clips(write(tmp_path, []), dataset="own")


def test_rows_of_other_sets_are_not_judged(tmp_path: Path) -> None:
    path = write(tmp_path, [*ROWS, "a.wav,other,,What,anna,test"]) / "manifest.csv"
    assert len(read_rows(path, dataset="own", labels=LABELS)) == 8


def test_the_page_names_the_columns_and_its_example_is_read(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| column |") : text.index("More columns do no harm")]
    assert set(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == {*COLUMNS, "word"}
    example = re.search(r"```\n(file,set.*?)```", text, flags=re.DOTALL)
    assert example is not None
    (tmp_path / "manifest.csv").write_text(example[1], encoding="utf-8")
    clips = read_clips(tmp_path, dataset="mine", keywords=("computer",))
    assert [(clip.file, clip.label, clip.is_noise) for clip in clips] == [
        ("anna/1.wav", 1, False), ("anna/2.wav", 0, False), ("bert/1.wav", 1, False), ("hum.wav", 0, True)
    ]  # fmt: skip


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    rows = [row + ",val" for row in ROWS]
    assert problems(write(tmp_path, rows, HEADER + ",split")) == {"header": "split more than once"}


def test_blanks_around_a_speaker_are_refused_as_another_voice(tmp_path: Path) -> None:
    rows = [row.replace(",cleo,train", ",anna ,val") for row in ROWS]
    assert problems(write(tmp_path, rows)) == {"speaker": "'anna ' in line 8, 'anna ' in line 9"}


@pytest.mark.parametrize("column", ["file", "word", "speaker", "split"])
def test_control_characters_are_refused(tmp_path: Path, column: str) -> None:
    fields = dict(zip(HEADER.split(","), ROWS[1].split(","), strict=True))
    row = ",".join((fields | {column: fields[column] + "\0x"}).values())
    found = problems(write(tmp_path, [ROWS[0], row, *ROWS[2:]]))
    assert found[column] == f"{fields[column] + chr(0) + 'x'!r} in line 3"
