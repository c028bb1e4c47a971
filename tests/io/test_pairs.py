"""Files of subjects are paired by what their wildcards match."""

import os
from pathlib import Path

from dipy.workflows.multi_io import io_iterator
import pytest

from dipy_rnn.io import find_files, pair_files
from dipy_rnn.workflows.outputs import as_patterns


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a function that makes empty files in the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


def pairs(*patterns):
    names = ("pam_files", "stopping_files", "seeding_files")
    rows = zip(*pair_files(**dict(zip(names, patterns))))
    return [tuple(str(path) for path in row) for row in rows]


@pytest.mark.parametrize(
    ("patterns", "first"),
    [
        (("sub-*/csd.pam5", "sub-*/fa.nii"), ("sub-01/csd.pam5", "sub-01/fa.nii")),
        (("sub-[01]*/csd.pam5", "s*-*/fa.nii"), ("sub-01/csd.pam5", "sub-01/fa.nii")),
        (("*/csd.pam5", "sub-[01]*/fa.nii"), ("sub-01/csd.pam5", "sub-01/fa.nii")),
        (("sub-*/csd.pam5", "fa/*_fa.nii"), ("sub-01/csd.pam5", "fa/sub-01_fa.nii")),
        (("./*/csd.pam5", "fa/"), ("sub-01/csd.pam5", "fa/sub-01_fa.nii")),
        (
            ("sub-*/csd.pam5", "sub-*/sub-*_mask.nii"),
            ("sub-01/csd.pam5", "sub-01/sub-01_mask.nii"),
        ),
        (
            ("sub-*/sub-*_mask.nii", "sub-*/csd.pam5"),
            ("sub-01/sub-01_mask.nii", "sub-01/csd.pam5"),
        ),
        (
            ("sub-*/csd.pam5", "sub-*/wm_*.nii"),
            ("sub-01/csd.pam5", "sub-01/wm_x.nii"),
        ),
    ],
)
def test_files_whose_wildcards_match_the_same_words_are_of_one_subject(
    tree, patterns, first
):
    for i in (1, 2, 10):
        sub = f"sub-{i:02}"
        tree(*(f"{sub}/{name}" for name in ("csd.pam5", "fa.nii", f"{sub}_mask.nii")))
        tree(f"{sub}/wm_{'xyz'[i % 3 - 1]}.nii", f"fa/{sub}_fa.nii")
    found = pairs(*patterns)
    assert found == [
        tuple(name.replace("sub-01", f"sub-{i:02}") for name in first)
        if "wm_" not in first[1]
        else (f"sub-{i:02}/csd.pam5", f"sub-{i:02}/wm_{'xyz'[i % 3 - 1]}.nii")
        for i in (1, 2, 10)
    ]


def test_subjects_sessions_and_runs_are_paired_in_any_layout(tree):
    for sub, ses in ((1, 1), (1, 2), (2, 1)):
        tree(f"sub-{sub}/ses-{ses}/csd.pam5")
        tree(
            f"fa/sub-{sub}_ses-{ses}_run-1_fa.nii",
            f"{sub}/{ses}/csd",
            f"{sub}/{ses}/fa",
        )
    found = pairs("sub-*/ses-*/csd.pam5", "fa/*_fa.nii")
    assert found == [
        (f"sub-{sub}/ses-{ses}/csd.pam5", f"fa/sub-{sub}_ses-{ses}_run-1_fa.nii")
        for sub, ses in ((1, 1), (1, 2), (2, 1))
    ]
    # Subject 1 of session 2 is not subject 2 of session 1.
    assert pairs("?/?/csd", "?/?/fa")[1:] == [
        ("1/2/csd", "1/2/fa"),
        ("2/1/csd", "2/1/fa"),
    ]


def test_files_without_a_partner_are_refused_and_named(tree):
    tree("sub-02/fa.nii", "sub-03/fa.nii")  # not sub-01
    tree("sub-01/csd.pam5", "sub-02/csd.pam5")  # not sub-03
    tree("sub-01/seeds.nii", "sub-02/seeds.nii")
    with pytest.raises(ValueError) as caught:
        pairs("sub-*/csd.pam5", "sub-*/fa.nii", "sub-*/seeds.nii")
    text = str(caught.value)
    assert "stopping_files: no file for sub-01/csd.pam5 (the wildcards match" in text
    assert "pam_files: no file for sub-03/fa.nii" in text and "sub-02" not in text
    # Also if each argument has one file.
    with pytest.raises(
        ValueError, match=r"stopping_files: no file for sub-01/csd\.pam5"
    ):
        pairs("sub-01*/csd.pam5", "sub-02*/fa.nii")
    # A file with a wildcard is not one for all subjects.
    with pytest.raises(
        ValueError, match=r"stopping_files: no file for sub-01/csd\.pam5"
    ):
        pairs("sub-*/csd.pam5", "sub-02*/fa.nii")


def test_sessions_that_differ_are_not_of_one_pair(tree):
    tree("sub-1/ses-1/csd.pam5", "sub-2/ses-1/csd.pam5")
    tree("sub-1/ses-2/fa.nii", "sub-2/ses-2/fa.nii", "sub-1/m_1.nii", "sub-2/m_1.nii")
    with pytest.raises(ValueError, match=r"no file for sub-1/ses-1/csd\.pam5"):
        pairs("sub-*/ses-*/csd.pam5", "sub-*/ses-*/fa.nii")
    with pytest.raises(ValueError, match="seeding_files: no file for"):
        pairs("sub-*/m_*.nii", "sub-*/ses-1/csd.pam5", "sub-*/ses-*/fa.nii")


def test_files_with_several_partners_are_refused_and_named(tree):
    tree("sub-1/csd.pam5", "sub-1/fa_a.nii", "sub-1/fa_b.nii")
    tree("s-1/ses-1/csd.pam5", "s-1/ses-2/csd.pam5", "s-1/fa.nii")
    with pytest.raises(
        ValueError,
        match=r"csd\.pam5 .* fits two files, sub-1/fa_a\.nii .* and sub-1/fa_b",
    ):
        pairs("sub-*/csd.pam5", "sub-*/fa_*.nii")
    with pytest.raises(ValueError, match=r"s-1/fa\.nii .* fits two files, s-1/ses-1"):
        pairs("s-*/ses-*/csd.pam5", "s-*/fa.nii")
    tree("s-1/csd8.pam5", "s-1/csd4.pam5", "s-1/wm_8.nii", "s-1/wm_4.nii")
    with pytest.raises(
        ValueError, match=r"csd8.* and s-1/csd4.* fit the same file, s-1"
    ):
        pairs(["s-*/csd8.pam5", "s-*/csd4.pam5"], "s-*/wm_*.nii")


def test_many_problems_are_counted(tree):
    tree(*(f"sub-{i}/csd.pam5" for i in range(9)), "sub-1/fa.nii")
    with pytest.raises(ValueError, match="; and 3 more such files"):
        pairs("sub-*/csd.pam5", "sub-*/fa.nii")


def test_only_a_file_named_without_a_wildcard_is_for_all_subjects(tree, messages):
    messages.set_level("INFO", logger="dipy")
    tree("sub-1/csd.pam5", "sub-2/csd.pam5", "fa.nii")
    found = pairs("sub-*/csd.pam5", "fa.nii")
    assert found == [("sub-1/csd.pam5", "fa.nii"), ("sub-2/csd.pam5", "fa.nii")]
    assert "stopping_files is fa.nii for all 2 subjects" in messages.text
    assert "Paired: sub-2/csd.pam5, fa.nii" in messages.text


def test_lists_of_files_are_paired_in_their_order(tree):
    tree("a.pam5", "b.pam5", "1.nii", "2.nii", "x1.nii")
    assert pairs(["b.pam5", "a.pam5"], ["1.nii", "2.nii"]) == [
        ("b.pam5", "1.nii"),
        ("a.pam5", "2.nii"),
    ]
    with pytest.raises(ValueError, match="pam_files 2, stopping_files 3"):
        pairs(["b.pam5", "a.pam5"], ["1.nii", "2.nii", "1.nii"])
    with pytest.raises(ValueError, match="pam_files is a list of files and stopping"):
        pairs(["b.pam5", "a.pam5"], "?.nii")


def test_dipy_gets_the_files_of_subjects_in_the_order_of_their_folders(tree):
    # As text, sub-1/ comes after sub-1-b/; DIPY sorts it before since 1.12.
    in_order = ["sub-1", "sub-1-b", "sub-10", "sub-[1]"]
    tree(*(f"{name}/{file}" for name in in_order for file in ("fa[1].nii", "gm.nii")))
    files = pair_files(fa="sub-*/fa*.nii", gm="sub-*/gm.nii", one="sub-1/fa[1].nii")
    rows = io_iterator([*map(as_patterns, files)], "", ["out.trx"])
    assert [list(map(Path, row)) for row in rows] == [
        [
            Path(name, "fa[1].nii"),
            Path(name, "gm.nii"),
            Path("sub-1", "fa[1].nii"),
            Path("out.trx"),
        ]
        for name in in_order
    ]


def test_dipy_does_not_replace_a_trx_folder_by_its_files(tree):
    tree("a [1]/header.json", "a [1]/offsets.uint32", "fa.nii")
    files = pair_files(lines="a [1]", fa="fa.nii")
    rows = io_iterator([*map(as_patterns, files)], "", ["out.trk"])
    assert [list(map(str, row)) for row in rows] == [["a [1]", "fa.nii", "out.trk"]]


def test_a_link_to_a_file_that_does_not_exist_is_named(tree):
    tree("sub-1/fa.nii")
    os.symlink("../annex/fa.nii", "sub-1/link.nii")
    for files in (
        "sub-1/link.nii",
        "sub-*/link.nii",
        ["sub-1/fa.nii", "sub-1/link.nii"],
    ):
        with pytest.raises(FileNotFoundError, match=r"link\.nii is a link to .*annex"):
            find_files(files, "stopping_files")


def test_an_empty_folder_is_called_so(tree, tmp_path):
    (tmp_path / "fa").mkdir()
    with pytest.raises(FileNotFoundError, match="fa is fa, which is an empty folder"):
        find_files("fa", "fa")


def test_two_stars_for_any_number_of_folders_are_refused(tree):
    tree("sub-01/csd.pam5", "sub-02/ses-1/csd.pam5")  # one * would match one of them
    with pytest.raises(ValueError, match="one \\* for each folder"):
        find_files("sub-*/**/csd.pam5", "pam_files")
    with pytest.raises(ValueError, match="one \\* for each folder"):
        find_files("**/csd.pam5", "pam_files")
