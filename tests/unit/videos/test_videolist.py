"""The list of videos: every format, every rejection, and the output names."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import pytest

from m3flow.errors import UsageError
from m3flow.layout import Outputs, output_name
from m3flow.videos.listfile import read_entries, sample_entries
from m3flow.videos.videolist import Video, VideoList


def listed(tmp_path: Path, content: str | bytes, **how: object) -> list[Video]:
    path = tmp_path / "videos.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return VideoList(path, **{"root": Path("/data"), **how}).read()  # type: ignore[arg-type]


def refusal(tmp_path: Path, content: str | bytes, **how: object) -> list[str]:
    """The lines of the error message, without the list's name."""
    with pytest.raises(UsageError) as caught:
        listed(tmp_path, content, **how)
    lines = str(caught.value).splitlines()
    prefix = str(tmp_path / "videos.csv") + ":"
    assert all(line.startswith(prefix) for line in lines), lines
    return [line.removeprefix(prefix) for line in lines]


def three(videos: list[Video]) -> list[tuple[str, str, str]]:
    return [(video.source, video.name, video.label) for video in videos]


EXPECTED = [
    ("/data/set/UCF-101/Run/v 1.avi", "UCF-101/Run/v 1.avi", "0"),
    ("/data/set/UCF-101/Run/b.avi", "UCF-101/Run/b.avi", "12"),
]


class TestForms:
    def test_path_and_label_separated_by_one_space(self, tmp_path: Path) -> None:
        videos = listed(tmp_path, "set/UCF-101/Run/a.avi 0\nset/UCF-101/Run/b.avi 12\n")
        assert three(videos) == [
            ("/data/set/UCF-101/Run/a.avi", "UCF-101/Run/a.avi", "0"),
            ("/data/set/UCF-101/Run/b.avi", "UCF-101/Run/b.avi", "12"),
        ]
        assert [video.line for video in videos] == [1, 2]

    def test_more_columns_may_follow(self, tmp_path: Path) -> None:
        (video,) = listed(tmp_path, "c/d/a.avi 3 250 train\n")
        assert (video.source, video.label) == ("/data/c/d/a.avi", "3 250 train")

    def test_plain_paths(self, tmp_path: Path) -> None:
        assert [video.name for video in listed(tmp_path, "c/d/a.avi\nc/d/b.avi")] == [
            "c/d/a.avi",
            "c/d/b.avi",
        ]

    @pytest.mark.parametrize(
        "content",
        [
            "path,label\nset/UCF-101/Run/v 1.avi,0\nset/UCF-101/Run/b.avi,12\n",
            "label,path\n0,set/UCF-101/Run/v 1.avi\n12,set/UCF-101/Run/b.avi\n",
            "video,frames,label\nset/UCF-101/Run/v 1.avi,9,0\nset/UCF-101/Run/b.avi,,12\n",
            '"path","label"\n"set/UCF-101/Run/v 1.avi","0"\n"set/UCF-101/Run/b.avi","12"\n',
            "path, label\nset/UCF-101/Run/v 1.avi,0\nset/UCF-101/Run/b.avi,12\n",
            "\ufeffpath,label\nset/UCF-101/Run/v 1.avi,0\nset/UCF-101/Run/b.avi,12\n",
            "path,label\r\nset/UCF-101/Run/v 1.avi,0\r\nset/UCF-101/Run/b.avi,12\r\n",
            "path,label\n\nset/UCF-101/Run/v 1.avi,0\n\nset/UCF-101/Run/b.avi,12",
        ],
        ids=["path", "order", "video", "quoted", "space", "bom", "windows", "blank-lines"],
    )
    def test_csv_with_a_header(self, tmp_path: Path, content: str) -> None:
        assert three(listed(tmp_path, content)) == EXPECTED

    @pytest.mark.parametrize("separator", [";", "\t"])
    def test_a_csv_may_use_another_separator(self, tmp_path: Path, separator: str) -> None:
        rows = [["path", "label"], ["set/UCF-101/Run/v 1.avi", "0"], ["set/UCF-101/Run/b.avi", "12"]]
        content = "".join(separator.join(row) + "\n" for row in rows)
        assert three(listed(tmp_path, content)) == EXPECTED

    def test_path_and_label_separated_by_a_tab(self, tmp_path: Path) -> None:
        assert three(listed(tmp_path, "set/UCF-101/Run/v 1.avi\t0\nset/UCF-101/Run/b.avi\t12\n")) == EXPECTED

    def test_a_path_with_spaces_ends_with_the_suffix_of_a_video(self, tmp_path: Path) -> None:
        content = "set/UCF-101/Run/v 1.avi 0\nset/UCF-101/Run/b.avi 12\n"
        assert three(listed(tmp_path, content)) == EXPECTED
        videos = listed(tmp_path, "arm wrestling/a b.MP4\nc/d.avi e.avi 3\nframes/of clip 7\n")
        assert [(video.name, video.label) for video in videos] == [
            ("arm wrestling/a b.MP4", ""),
            ("c/d.avi", "e.avi 3"),
            ("frames/of", "clip 7"),
        ]

    @pytest.mark.parametrize("header", ["", "path,label\n"])
    def test_comments_are_passed_over(self, tmp_path: Path, header: str) -> None:
        separator = "," if header else " "
        content = f"# made by hand\n{header}\n#c/d/a.avi{separator}1\nc/d/#b.avi{separator}2\n"
        assert [(video.name, video.label) for video in listed(tmp_path, content)] == [("c/d/#b.avi", "2")]

    def test_a_comment_sign_within_quotes_belongs_to_the_name(self, tmp_path: Path) -> None:
        content = 'path,label\n"c/d/two\n#lines.avi",1\n"#a.avi",2\n./#b.avi,3\n'
        names = [video.name for video in listed(tmp_path, content)]
        assert names == ["c/d/two\n#lines.avi", "#a.avi", "#b.avi"]

    def test_a_compressed_list(self, tmp_path: Path) -> None:
        path = tmp_path / "videos.csv.gz"
        path.write_bytes(gzip.compress(b"set/UCF-101/Run/v 1.avi\t0\nset/UCF-101/Run/b.avi\t12\n"))
        assert three(VideoList(path, Path("/data")).read()) == EXPECTED
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UsageError, match=r"videos\.csv\.gz: cannot read the list: "):
            VideoList(path).read()

    @pytest.mark.parametrize(
        ("name", "content"), [("a.xlsx", b"PK\3\4"), ("a.csv", b"PK\3\4\0"), ("a.ods", b"")]
    )
    def test_a_spreadsheet_is_named(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="save the list as CSV"):
            VideoList(tmp_path / name).read()

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 100])
    @pytest.mark.parametrize("header", ["", "path,label\n", "# a comment\n\n"])
    def test_a_sample_holds_entries_of_the_list(self, tmp_path: Path, count: int, header: str) -> None:
        separator = "," if "path" in header else " "
        path = tmp_path / "list.csv"
        path.write_text(header + "".join(f"c/{n}.avi{separator}{n}\n" for n in range(count)))
        whole = list(read_entries(path, []))
        sample = sample_entries(path, 64)
        assert set(sample) <= {entry._replace(line=1) for entry in whole}
        assert len(sample) == (count if count < 10 else len({entry.path for entry in sample}))
        assert sample[0].path == "c/0.avi"

    def test_csv_of_paths_alone(self, tmp_path: Path) -> None:
        assert [video.name for video in listed(tmp_path, "path\nc/d/a b.avi\n")] == ["c/d/a b.avi"]

    def test_a_quoted_line_break_belongs_to_the_name(self, tmp_path: Path) -> None:
        videos = listed(tmp_path, 'path,label\n"c/d/two\nlines, ""quoted"".avi",1\nc/d/next.avi,2\n')
        assert [video.name for video in videos] == ['c/d/two\nlines, "quoted".avi', "c/d/next.avi"]
        assert [video.line for video in videos] == [2, 4]

    def test_windows_line_ends_and_blank_lines_in_a_plain_list(self, tmp_path: Path) -> None:
        videos = listed(tmp_path, "c/d/a.avi 1\r\n\r\n   \nc/d/b.avi 2  \r\n")
        assert [(video.name, video.label, video.line) for video in videos] == [
            ("c/d/a.avi", "1", 1),
            ("c/d/b.avi", "2", 4),
        ]

    def test_absolute_paths_do_not_take_the_root(self, tmp_path: Path) -> None:
        assert listed(tmp_path, "/other/disk/c/d/a.avi")[0].source == "/other/disk/c/d/a.avi"

    def test_missing_videos_are_no_problem_of_the_list(self, tmp_path: Path) -> None:
        assert len(listed(tmp_path, "no/such/file.avi 0\n")) == 1

    def test_one_video_in_place_of_a_list(self, tmp_path: Path) -> None:
        video = tmp_path / "set" / "class" / "a.avi"
        video.parent.mkdir(parents=True)
        video.write_bytes(b"not even a video")
        expected = [Video(str(video), "set/class/a.avi")]
        assert VideoList(video).read() == expected
        assert VideoList(Path("set/class/a.avi"), root=tmp_path).read() == expected
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "1.png").touch()
        assert VideoList(tmp_path / "images", parts=1).read() == [Video(str(tmp_path / "images"), "images")]

    def test_a_video_without_a_telling_name_is_known_by_its_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "clip").write_bytes(b"RIFF\0\0\0\0AVI ")
        assert [video.name for video in VideoList(tmp_path / "clip", parts=1).read()] == ["clip"]

    def test_a_list_is_taken_for_a_list_whatever_bytes_are_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_bytes("path,label\na/b/c.avi,1\n".encode("utf-16"))
        with pytest.raises(UsageError, match="save the list as UTF-8"):
            VideoList(tmp_path / "list.csv").read()
        (tmp_path / "list.txt").write_bytes(b"a/b/c.avi\na/b/\0.avi\n")
        with pytest.raises(UsageError, match=r"list\.txt:2: the path contains a NUL"):
            VideoList(tmp_path / "list.txt").read()

    def test_a_list_through_a_pipe_loses_nothing(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        content = "".join(f"set/class/{number}.avi 0\n" for number in range(2000))
        writer = threading.Thread(target=pipe.write_text, args=(content,))
        writer.start()
        videos = VideoList(pipe).read()
        writer.join()
        assert len(videos) == 2000


class TestFolders:
    NAMES = ("a/2.avi", "a/1.mkv", "deep/b/c/d.MP4", "e.webm")

    @pytest.fixture
    def videos(self, tmp_path: Path) -> Path:
        folder = tmp_path / "my videos"
        more = (
            "a/notes.txt",
            "a/.hidden.avi",
            ".cache/x.avi",
            "e.jpg",
            "out/flows/a/x.mp4",
            "out/records/r.csv",
        )
        for name in (*self.NAMES, *more):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / "a" / "loop").symlink_to(folder)
        return folder

    def test_all_videos_below_it_in_order(self, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = VideoList(videos, parts=9).read()
        assert [video.name for video in found] == [f"my videos/{name}" for name in sorted(self.NAMES)]
        assert [video.source for video in found] == [str(videos / name) for name in sorted(self.NAMES)]
        assert VideoList(Path("my videos"), videos.parent, 9).read() == found
        monkeypatch.chdir(videos / "deep")
        for here in ("..", "../", "../../my videos"):
            assert VideoList(Path(here), parts=9).read() == found

    def test_the_list_file_of_a_folder_has_the_same_videos(self, videos: Path, tmp_path: Path) -> None:
        listed = VideoList(videos)
        file = tmp_path / "shards" / "videos.csv"
        assert listed.in_file(file).read() == listed.read()
        (videos / "new.avi").touch()
        assert listed.in_file(file, renew=False).read() == listed.read()[:-1]
        assert listed.in_file(file).read() == listed.read()

    def test_folders_of_images_where_there_is_no_video(self, tmp_path: Path) -> None:
        for name in ("a/1/001.jpg", "a/1/002.jpg", "b/001.png"):
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).touch()
        assert [video.name for video in VideoList(tmp_path / "set").read()] == ["set/a/1", "set/b"]

    def test_a_sample(self, videos: Path) -> None:
        sources = [video.source for video in VideoList(videos).read()]
        assert VideoList(videos).sample(64) == sources
        assert VideoList(videos).sample(2) == [sources[0], sources[2]]
        assert VideoList(Path(sources[0])).sample(64) == sources[:1]


class TestRefusals:
    @pytest.mark.parametrize("content", ["", "\n", "\n  \n\r\n", "path,label\n", "\ufeff"])
    def test_an_empty_list(self, tmp_path: Path, content: str) -> None:
        assert refusal(tmp_path, content) == [" the list is empty; it needs one video per line"]

    def test_a_missing_list(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"none\.csv: no such list file or video; it is named by LIST"):
            VideoList(tmp_path / "none.csv").read()
        with pytest.raises(
            UsageError, match=r"none\.csv: no such list file or video \(also looked in the root"
        ):
            VideoList(Path("none.csv"), root=tmp_path).read()
        with pytest.raises(UsageError, match="there is no video below this folder"):
            VideoList(tmp_path).read()

    def test_a_name_too_long_to_exist_is_a_wrong_call(self) -> None:
        with pytest.raises(UsageError, match="no such list file or video"):
            VideoList(Path("x" * 5000)).read()

    def test_all_problems_at_once_in_the_order_of_lines(self, tmp_path: Path) -> None:
        lines = refusal(
            tmp_path,
            "path,label\n"
            "a/b/c/1.avi,0\n"
            "../1.avi,0\n"  # leaves
            "a/b/c/1.avi,0\n"  # duplicate
            "z/b/c/1.avi,0\n"  # same output
            "a/b/c/2.avi\n"  # a column short
            ",0\n"  # no path
            "a/b/c/3.avi,0\n",
        )
        assert [line.split(":")[0] for line in lines] == ["3", "4", "5", "6", "7"]
        expected = [
            "outside the output folder",
            "duplicate video",
            "same output",
            "1 columns",
            "path is empty",
        ]
        for line, words in zip(lines, expected, strict=True):
            assert words in line
        assert "first on line 2" in lines[1]
        assert "line 2" in lines[2] and "--parts" in lines[2]

    def test_of_many_problems_the_first_are_named(self, tmp_path: Path) -> None:
        lines = refusal(tmp_path, "a/b/c.avi\n" * 1000)
        assert len(lines) == 21 and lines[0].startswith("2: duplicate")
        assert lines[-1].endswith("979 more lines have problems; is it a list of videos?")

    @pytest.mark.parametrize(
        "second", ["a/b/c.avi", "./a/b/c.avi", "a//b/c.avi", "a/x/../b/c.avi", "/data/a/b/c.avi"]
    )
    def test_duplicates_however_they_are_written(self, tmp_path: Path, second: str) -> None:
        (line,) = refusal(tmp_path, f"a/b/c.avi 0\n{second} 1\n")
        assert line.startswith("2: duplicate video") and line.endswith("first on line 1")

    def test_the_same_output_from_another_video(self, tmp_path: Path) -> None:
        content = "k/train/b/c.avi\nk/val/b/c.avi\n"
        assert "same output 'b/c.avi'" in refusal(tmp_path, content, parts=2)[0]
        assert len(listed(tmp_path, content, parts=3)) == 2

    @pytest.mark.parametrize("path", ["..", "../a.avi", "a/../../b.avi", ".", "/", "//", "a/.."])
    def test_outputs_that_would_leave_the_folder(self, tmp_path: Path, path: str) -> None:
        (line,) = refusal(tmp_path, f"{path} 0\n")
        assert line.startswith("1: the outputs of") and "outside the output folder" in line

    @pytest.mark.parametrize("parts", [0, -1])
    def test_too_few_parts(self, tmp_path: Path, parts: int) -> None:
        with pytest.raises(UsageError, match=r"layout\.parts is"):
            listed(tmp_path, "a/b/c.avi", parts=parts)

    def test_a_nul_character(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, "a/b/c.avi\na/b/\0.avi\n") == ["2: the path contains a NUL character"]
        assert refusal(tmp_path, 'path\n"a/b/\0.avi"\n') == ["2: the path contains a NUL character"]

    def test_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        (line,) = refusal(tmp_path, "a/b/c.avi\nklasse/für/x.avi\n".encode("latin-1"))
        assert line == "2: not UTF-8 text; save the list as UTF-8"

    def test_a_quote_that_never_closes(self, tmp_path: Path) -> None:
        (line,) = refusal(tmp_path, 'path,label\na/b/c.avi,0\n"a/b/d.avi,1\na/b/e.avi,2\n')
        assert line.startswith("3: cannot read this CSV line")

    @pytest.mark.parametrize(
        ("first", "words"),
        [
            ("path label", "looks like a header"),
            ("name,label", "has no column path or video"),
            ("Path,Label", "has no column path or video"),
            ("file;class", "has no column path or video"),
            ("c/d/a.avi;3", "is separated by a semicolon but there is no header"),
            ("a/b/c.avi,0", "add a first line 'path,label'"),
            ("a/b/c.avi, 0", "add a first line 'path,label'"),
        ],
    )
    def test_headers_that_cannot_be_used(self, tmp_path: Path, first: str, words: str) -> None:
        (line,) = refusal(tmp_path, f"{first}\na/b/d.avi,1\n")
        assert line.startswith("1: ") and words in line

    @pytest.mark.parametrize(
        "content",
        [
            b"a/b/c.avi\ra/b/d.avi\r",
            b"path,label\ra/b/c.avi,0\r",
            b"a/b/" + b"x" * 200_000,
            b'path\n"' + b"x" * 200_000,
        ],
        ids=["old-mac-plain", "old-mac-csv", "endless-line", "endless-cell"],
    )
    def test_lines_that_cannot_be_read(self, tmp_path: Path, content: bytes) -> None:
        assert len(refusal(tmp_path, content)) >= 1

    @pytest.mark.parametrize(
        ("one", "two"),
        [("a", "a/x.mp4"), ("a", "a/y.mp4/b"), ("a", "a_6.gz/b"), ("s/a", "s/a_12.gz/b")],
    )
    def test_a_file_of_one_where_another_needs_a_folder(self, tmp_path: Path, one: str, two: str) -> None:
        for content in (f"{one}\n{two}\n", f"{two}\n{one}\n"):
            assert "would overwrite" in refusal(tmp_path, content)[0]

    def test_the_names_that_look_alike_but_do_not_clash(self, tmp_path: Path) -> None:
        content = "a\nb/x.mp4\na/b.avi\nc_6.gz/d\na/x.mp4.avi\n"
        assert len(listed(tmp_path, content)) == 5


class TestNames:
    @pytest.mark.parametrize(
        ("path", "parts", "name"),
        [
            ("data/UCF-101/Run/v.avi", 3, "UCF-101/Run/v.avi"),
            ("data/UCF-101/Run/v.avi", 4, "data/UCF-101/Run/v.avi"),
            ("data/UCF-101/Run/v.avi", 1, "v.avi"),
            ("data/UCF-101/Run/v.avi", 99, "data/UCF-101/Run/v.avi"),
            ("/data/UCF-101/Run/v.avi", 3, "UCF-101/Run/v.avi"),
            ("/v.avi", 3, "v.avi"),
            ("./v.avi", 3, "v.avi"),
            ("../../up/UCF-101/Run/v.avi", 3, "UCF-101/Run/v.avi"),
            ("folder/of/frames/", 2, "of/frames"),
            ("a/b/-rf", 3, "a/b/-rf"),
            ("a/b/..avi", 3, "a/b/..avi"),
            ("a/b/%03d {x} $(id) ;&.avi", 1, "%03d {x} $(id) ;&.avi"),
        ],
    )
    def test_the_last_parts_of_the_path(self, path: str, parts: int, name: str) -> None:
        assert output_name(path, parts) == (name, "")

    def test_a_leading_dash_is_no_option(self, tmp_path: Path) -> None:
        (video,) = listed(tmp_path, "--output=x.avi 0\n")
        assert (video.source, video.name) == ("/data/--output=x.avi", "--output=x.avi")

    def test_two_spellings_of_one_letter_are_two_files(self, tmp_path: Path) -> None:
        composed, decomposed = "a/b/caf\u00e9.avi", "a/b/cafe\u0301.avi"
        videos = listed(tmp_path, f"{composed}\n{decomposed}\n")
        assert [video.name for video in videos] == [composed, decomposed]

    def test_long_names_are_counted_in_bytes(self, tmp_path: Path) -> None:
        # File systems allow 255 bytes; we add "_999.gz" (7) to a name.
        assert len(listed(tmp_path, "a/b/" + "é" * 124 + "\n")) == 1
        (line,) = refusal(tmp_path, "a/b/" + "é" * 124 + "x\n")
        assert "longer than 248 bytes" in line
        folder = Outputs(tmp_path).trajectories("é" * 124, 999)
        folder.parent.mkdir()
        folder.write_bytes(b"")  # the file system accepts it

    def test_every_output_stays_in_its_folder(self, tmp_path: Path) -> None:
        outputs = Outputs(tmp_path)
        name = "UCF-101/Run/v.avi"
        assert outputs.flow(name) == tmp_path / "flows" / "UCF-101" / "Run" / "v.avi"
        assert outputs.trajectories(name, 6) == tmp_path / "trajs" / "UCF-101" / "Run" / "v.avi_6.gz"
        assert (outputs.records, outputs.logs) == (tmp_path / "records", tmp_path / "logs")
