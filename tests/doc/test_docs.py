"""Every block of code on the pages runs, unless the page says why it is not run."""

from pathlib import Path
import re
import runpy
import shlex
import sys
import textwrap

from commands import Subject, write_peaks
from dipy.io.image import save_nifti
from dipy.reconst.shm import convert_sh_descoteaux_tournier
from markdown_it import MarkdownIt
import numpy as np
import pytest
from stubs import FieldFollower, save_stub, save_untrained

from dipy_rnn.io import write_tractogram
from dipy_rnn.workflows import cli

ROOT = Path(__file__).parents[2]
DOC = ROOT / "doc"
sys.path.append(str(DOC / "_ext"))

from parsers import parser_of  # noqa: E402

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "dipy_rnn" / "model" / "shipped").glob("*.md")),
    *sorted(DOC.glob("*.rst")),
    *sorted(DOC.glob("*.md")),
    *sorted((DOC / "how_to").glob("*.md")),
]
TUTORIALS = sorted((DOC / "tutorials").glob("*.py"))
MARKER = re.compile(r"<!-- not run: \S.+ -->\s*\Z")
OURS = re.compile(r"dipy_\w+_rnn")
#: Programs that are not run here, and why.
NOT_RUN = {
    "make": "it installs, or runs the tests",
    "pip": "it installs",
    "python3": "it installs",
    ".": "it installs",
    "uv": "it installs",
    "UV_TORCH_BACKEND=cpu": "it installs",
    ".venv/bin/pip": "it installs",
    ".venv/bin/pre-commit": "it changes the clone",
    "dipy_fit_dti": "DIPY's; a tutorial runs it",
    "dipy_fit_csd": "DIPY's; a tutorial runs it",
    "dipy_fit_force": "DIPY's",
    "dipy_pam2nifti": "DIPY's",
    "dipy_mask": "DIPY's, a threshold",
    "dipy_track": "DIPY's; the demo runs it",
    "python": "benchmarks take hours, and need data that are not in the repository",
    "torchrun": "it needs several GPUs",
    "dask": "it waits for work; test_cohort.py and a tutorial have a scheduler",
    "#!/bin/sh": "a job of a cluster",
    "ulimit": "it would limit this process",
    "podman": "it needs a container image",
    "mrgrid": "MRtrix3's",
    "dipy_compare_rnn": "its plots take long; its own tests draw smaller ones",
}
#: Values that replace those of the pages, so that commands take less time.
INSTEAD = {
    "--seed_count": "40",
    "--select": "10",
    "--seeds_per_voxel": "1",
    "--n_updates": "1",
    "--engine": "serial",
}
SMALL = {
    "dipy_train_rnn": "--n_updates 1 --hidden 4 --batch_size 8 --max_points 8 "
    "--n_streamlines 20 --nbr_threads 1",
    "dipy_check_gradients_rnn": "--seed_count 30",
}


def markdown_blocks(page):
    """Yield (language or "", code, whether it says why it is not run) of a page."""
    before = ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            yield token.info, token.content, bool(MARKER.search(before))
            before = ""
        elif token.content:
            before = token.content


def blocks(page):
    """Yield (language or "", code, whether it says why it is not run) of a page."""
    if page.suffix == ".md":
        yield from markdown_blocks(page)
        return
    for found in re.finditer(
        r"^( *)\.\. code-block:: (\w+)\n((?:\1 +.*\n|\n)+)", page.read_text(), re.M
    ):
        yield found[2].replace("text", ""), textwrap.dedent(found[3]).strip(), False


def command_lines(code):
    """Return the commands of a block. Lines that end in a backslash are joined."""
    code = re.sub(r"\\\n\s*", "", code)
    lines = (line.strip() for line in code.splitlines())
    return [line for line in lines if line and not line.startswith("# ")]


def arguments_of(line):
    """Split a shell command into words; each variable gets the value 1."""
    return shlex.split(re.sub(r"\$\{?\w+\}?", "1", line), comments=True)


def python_of(page):
    return [code for language, code, _ in blocks(page) if language == "python"]


def commands():
    """Return (page, line) for each command of dipy_rnn on any page, run or not."""
    found = [
        (page, line)
        for page in PAGES
        for language, code, _ in blocks(page)
        if language != "python"
        for line in command_lines(code)
    ]
    for page in TUTORIALS:
        shown = re.findall(r"^# {5,}(.*)$", page.read_text(), re.M)
        found += [(page, line) for line in command_lines("\n".join(shown))]
    return [(page, line) for page, line in found if OURS.match(line)]


def ids(value):
    return value.name if isinstance(value, Path) else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the pages use."""
    subject = Subject(tmp_path_factory.mktemp("docs"))
    folder, phantom = subject.folder, subject.phantom
    affine, mask = phantom.affine, np.float32(subject.mask)
    subject.pam.rename(folder / "csd.pam5")

    def save(name, volume):
        save_nifti(folder / f"{name}.nii.gz", np.float32(volume), affine)

    save("mask", mask)
    save("wm", mask)
    save("gm", 1 - mask)
    save("csf", 0 * mask)
    save("5tt", np.stack([1 - mask, 0 * mask, mask, 0 * mask, 0 * mask], axis=-1))
    save("fodf", subject.fodf)
    save("wmfod", convert_sh_descoteaux_tournier(subject.fodf))
    save("directions", phantom.peaks()[1][..., 0, :])
    fractions, peaks = phantom.peaks()
    peaks *= fractions[..., None]
    save("peaks_dirs", peaks)
    save("evecs", np.stack([*np.moveaxis(peaks, 3, 0), 0 * peaks[..., 0, :]], axis=-1))
    (folder / "force").mkdir()
    write_peaks(folder / "force" / "peaks.pam5", peaks, affine)
    lines = [line[::4] for line in phantom.streamlines(20)[0]]
    (folder / "truth").mkdir()
    for name in ("bundles.trk", "bundles.trx", "mine.trk", "theirs.tck"):
        write_tractogram(folder / name, ((e, {}) for e in lines), affine, mask.shape)
    for i in range(2):
        write_tractogram(
            folder / "truth" / f"{i}.trk",
            ((each, {}) for each in lines[20 * i : 20 * i + 20]),
            affine,
            mask.shape,
        )
    save_untrained(folder / "model.pt")
    save_stub(FieldFollower(), folder / "follower.pt")
    (folder / "peaks.pam5").hardlink_to(folder / "csd.pam5")
    (folder / "sdstream.trk").hardlink_to(folder / "bundles.trk")
    for number in ("1", "2", "3"):
        (folder / f"sub-{number}").mkdir()
        for path in folder.glob("*.*"):
            (folder / f"sub-{number}" / path.name).hardlink_to(path)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_python_of_a_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Code of other pages uses variables of the README: seeds, criterion and fODF.
    code = python_of(README) * (page != README) + python_of(page)
    script = folder / f"{page.stem}.py"  # TorchScript reads the source from a file
    script.write_text("\n".join(code))
    runpy.run_path(str(script), run_name="page")


@pytest.mark.parametrize(("page", "line"), commands(), ids=ids)
def test_the_options_of_a_command_on_a_page_are_valid(page, line):
    command, *arguments = arguments_of(line)
    parser_of(command).parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_commands_of_a_page_run_unless_it_says_why_not(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for language, code, says_why_not in blocks(page):
        lines = command_lines(code)
        if language == "python" or says_why_not or lines[0] in NOT_RUN:
            continue
        for line in lines:
            command, *arguments = arguments_of(line)
            if command in NOT_RUN or "HOST" in line:
                continue
            assert OURS.fullmatch(command), (
                f"{page.name}: {line!r} is not a command of dipy_rnn; if it cannot be "
                "run, say why above it: <!-- not run: ... -->"
            )
            for i, argument in enumerate(arguments[:-1]):
                if argument in INSTEAD:
                    arguments[i + 1] = INSTEAD[argument]
            small = SMALL.get(command, "").split()
            monkeypatch.setattr(sys, "argv", [command, *arguments, *small, "--force"])
            getattr(cli, command[len("dipy_") : -len("_rnn")])()


def test_there_is_code_to_run():
    assert sum(len(python_of(page)) for page in PAGES) > 5
    assert len(commands()) > 20


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_links_of_a_page_lead_to_existing_files(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
