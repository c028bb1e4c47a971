"""TRX folders, archives of other programs, older versions, and damaged content."""

import json
import os
import shutil
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.testing import assert_array_equal
import pytest
from trx.trx_file_memmap import load as load_trx

from dipy_rnn.io import find_files, read_tractogram, write_tractogram

LINES = [
    np.array([[0.0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]),
    np.array([[4.0, 4, 4]]),
    np.array([[3.0, 3, 3], [3, 3, 4]]),
]
VALUES = {"seeds": (3, np.float32), "forward_stop": (1, np.uint8)}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "lines.trx"
    pairs = [
        (line, {"seeds": line[0], "forward_stop": [i]}) for i, line in enumerate(LINES)
    ]
    write_tractogram(path, pairs, np.eye(4), (9, 9, 9), data_types=VALUES)
    return path


@pytest.fixture
def folder(archive):
    """A folder with the content of the archive, as `unzip` makes it."""
    folder = archive.with_name("unzipped")
    with ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def zipped(folder, **options):
    path = folder.with_suffix(".trx")
    with ZipFile(path, "w", **options) as archive:
        for each in sorted(folder.rglob("*")):
            archive.write(each, each.relative_to(folder))
    return path


def change_header(folder, **entries):
    path = folder / "header.json"
    header = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({k: v for k, v in header.items() if v is not None}))


def assert_is_whole(path):
    read = list(read_tractogram(path))
    assert len(read) == len(LINES)
    for i, ((points_mm, values), line) in enumerate(zip(read, LINES)):
        assert_array_equal(points_mm, line)
        assert set(values) == set(VALUES)
        assert_array_equal(values["seeds"], line[0])
        assert_array_equal(values["forward_stop"], [i])


def refusal(path):
    with pytest.raises(ValueError) as caught:
        list(read_tractogram(path))
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_read_like_its_archive(archive, folder):
    assert_is_whole(archive)
    assert_is_whole(folder)
    assert_is_whole(folder.rename(folder.with_name("folder.trx")))


@pytest.mark.parametrize("options", [{}, {"compression": ZIP_DEFLATED}])
def test_an_archive_may_hold_folders_and_other_files(folder, options):
    for name in ("dpv", "groups", "dpg/one"):
        (folder / name).mkdir(parents=True)
    (folder / "dpv" / "fa.float32").write_bytes(np.zeros(6, np.float32).tobytes())
    (folder / "groups" / "one.uint32").write_bytes(np.uint32([0, 2]).tobytes())
    (folder / "dpg" / "one" / "mean.float32").write_bytes(np.float32([1]).tobytes())
    assert_is_whole(zipped(folder, **options))
    (folder / ".DS_Store").write_bytes(b"of a Mac")
    assert_is_whole(folder)
    assert_is_whole(zipped(folder, **options))


def test_offsets_without_a_last_element_are_read(folder):
    # trx-python wrote these until 2022, and refuses them now.
    offsets = folder / "offsets.uint32"
    offsets.rename(folder / "offsets.uint64")
    offsets = folder / "offsets.uint64"
    offsets.write_bytes(np.array([0, 3, 4], np.uint64).tobytes())
    with pytest.raises(ValueError, match="Wrong offsets"):
        load_trx(str(folder))
    assert_is_whole(folder)
    assert_is_whole(zipped(folder))


def test_a_first_streamline_without_points_is_read(folder):
    offsets = np.array([0, 0, 4, 6], np.uint32)
    (folder / "offsets.uint32").write_bytes(offsets.tobytes())
    lengths = [len(line) for line, _ in read_tractogram(folder)]
    assert lengths == [0, 4, 2]


def test_no_streamline_is_read_as_none(tmp_path):
    path = tmp_path / "none.trx"
    write_tractogram(path, [], np.eye(4), (9, 9, 9), data_types=VALUES)
    assert not list(read_tractogram(path))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all files"
)
def test_a_file_that_may_not_be_written_is_read(archive):
    archive.chmod(0o444)
    assert_is_whole(archive)


def cut(name, n_bytes):
    def apply(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:n_bytes])

    return apply


def rename(name, other):
    return lambda folder: (folder / name).rename(folder / other)


def offsets(*numbers):
    content = np.array(numbers, np.uint32).tobytes()
    return lambda folder: (folder / "offsets.uint32").write_bytes(content)


DAMAGES = {
    "short positions": (cut("positions.3.float32", 60), "fewer than header.json says"),
    "long positions": (
        lambda f: (f / "positions.3.float32").write_bytes(bytes(84)),
        "more than header.json says",
    ),
    "no positions": (
        lambda f: (f / "positions.3.float32").unlink(),
        "positions or offsets are missing",
    ),
    "two columns": (
        rename("positions.3.float32", "positions.2.float32"),
        "positions have 2 columns",
    ),
    "few offsets": (offsets(0, 3), "the offsets contradict header.json"),
    "a wrong last offset": (offsets(0, 3, 4, 7), "the offsets contradict header.json"),
    "a wrong first offset": (offsets(1, 3, 4, 6), "the offsets contradict header.json"),
    "falling offsets": (offsets(0, 5, 4, 6), "the offsets are not in ascending order"),
    "half an offset": (cut("offsets.uint32", 15), "buffer size"),
    "few values": (cut("dps/seeds.3.float32", 24), "seeds has 2 rows, not 3"),
    "a broken row of values": (cut("dps/seeds.3.float32", 28), "reshape"),
    "no number": (lambda f: change_header(f, NB_VERTICES=None), "NB_VERTICES"),
    "a text": (lambda f: change_header(f, NB_STREAMLINES="many"), "cannot be read"),
    "no JSON": (lambda f: (f / "header.json").write_text("{"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_that_names_the_file(folder, damage):
    apply, said = DAMAGES[damage]
    apply(folder)
    assert said in refusal(folder)
    assert said in refusal(zipped(folder))


def test_a_folder_that_holds_no_trx_is_an_error(folder):
    (folder / "header.json").unlink()
    assert "a folder or a pipe cannot be read" in refusal(folder)


def test_a_trx_folder_is_one_file_of_an_argument(folder, archive):
    other = folder.with_name("other.trx")
    shutil.copytree(folder, other)
    assert find_files(folder, "files") == [folder]
    assert find_files(str(folder.parent / "*.trx"), "files") == [archive, other]
