"""Every Python block of the README and of doc/ runs, page by page."""

from pathlib import Path
import re
import runpy

from dipy.io.image import save_nifti
from dipy.reconst.shm import convert_sh_descoteaux_tournier
import numpy as np
import pytest
from test_commands import Subject

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files the pages speak of."""
    subject = Subject(tmp_path_factory.mktemp("docs"))
    subject.pam.rename(subject.folder / "csd.pam5")
    mrtrix = convert_sh_descoteaux_tournier(subject.fodf)
    save_nifti(
        subject.folder / "wmfod.nii.gz", np.float32(mrtrix), subject.phantom.affine
    )
    return subject.folder


def blocks(page):
    return BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    # Pages go on from the README: its seeds, criterion and fODF are at hand.
    code = blocks(ROOT / "README.md") * (page.name != "README.md") + blocks(page)
    script = folder / f"{page.stem}.py"  # TorchScript wants to read a file
    script.write_text("\n".join(code))
    runpy.run_path(str(script), run_name="page")


def test_the_pages_have_code_and_lead_to_each_other():
    assert sum(len(blocks(page)) for page in PAGES) > 5
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
