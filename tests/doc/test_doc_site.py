"""The lists on the documentation site, compared with the package. It is not built."""

import ast
from pathlib import Path
import re
import runpy
import shutil
import subprocess
import sys
import tomllib

from markdown_it import MarkdownIt
import pytest
from test_imports import ROWS, sources

ROOT = Path(__file__).parents[2]
DOC = ROOT / "doc"
sys.path.append(str(DOC / "_ext"))

from parsers import parser_of  # noqa: E402

NOT_ON_THE_SITE = {"index.md"}  # the list of pages for a repository browser
HOW_TO = [DOC / "dipy_track.md", *sorted((DOC / "how_to").glob("*.md"))]
FLAG = re.compile(r"--[a-z]\w*")


def tables(page):
    """Yield the rows of each table of a page. A cell is its text in Markdown."""
    rows, cells = [], []
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        if token.type == "inline":
            cells.append(token.content)
        elif token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            rows.append(cells)
            cells = []
        elif token.type == "table_close":
            yield rows
            rows = []


def toctrees():
    """Return the documents in all toctrees: paths below doc/ without suffix."""
    listed = set()
    for path in [DOC / "index.rst", *DOC.glob("*/index.rst")]:
        for block in re.findall(
            r"^\.\. toctree::\n((?:   .*\n|\n)+)", path.read_text() + "\n", re.M
        ):
            for name in re.findall(r"^   ([a-z_./]+)$", block, re.M):
                listed.add((path.parent / name).resolve().relative_to(DOC).as_posix())
    return listed


def test_every_page_is_on_the_site_and_every_entry_is_a_page():
    pages = {
        path.relative_to(DOC).with_suffix("").as_posix()
        for pattern in ("*.md", "*.rst", "[!_]*/*.md", "[!_]*/*.rst")
        for path in DOC.glob(pattern)
        if path.name not in NOT_ON_THE_SITE
        and path.parts[len(DOC.parts)] not in ("generated", "tutorials")
    }
    entries = {name for name in toctrees() if not name.startswith("generated/")}
    assert pages - {"index"} == entries


def test_the_list_for_a_repository_browser_has_every_page_in_markdown():
    listed = set(re.findall(r"\]\(([^)#]+\.md)\)", (DOC / "index.md").read_text()))
    pages = [*DOC.glob("*.md"), *(DOC / "how_to").glob("*.md")]
    names = {page.relative_to(DOC).as_posix() for page in pages}
    assert names - NOT_ON_THE_SITE <= listed


def test_the_reference_has_every_public_module():
    with_names = {
        f"dipy_rnn.{module}".rstrip(".")
        for module, path in sources()
        if path.suffix == ".py"
        and path.name != "__init__.py"
        and not module.startswith("workflows")
        and any(
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            for node in ast.parse(path.read_text()).body
        )
    }
    api = (DOC / "reference" / "api.rst").read_text()
    listed = re.findall(r"^   (dipy_rnn[\w.]*)$", api, re.M)
    assert set(listed) == with_names | {"dipy_rnn"}
    assert len(listed) == len(with_names) + 1


def test_the_page_of_installation_explains_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = re.findall(
        r"^   \* - `(\w+)`\n     - (.+)\n",
        (DOC / "installation.rst").read_text(),
        re.M,
    )
    extras = project["optional-dependencies"]
    assert [name for name, _ in rows] == [*extras]
    for name, brings in rows:
        if "and others" not in brings:
            packages = [re.match(r"[\w-]+", each)[0] for each in extras[name]]
            assert brings.split(", ") == packages


def test_the_reference_has_every_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (DOC / "reference" / "commands.rst").read_text()
    assert re.findall(r"^\.\. command:: (\w+)$", page, re.M) == [*project["scripts"]]


def test_the_page_on_architecture_has_the_tested_rows_of_imports():
    (rows,) = (rows for rows in tables(DOC / "architecture.md") if rows[0][0] == "Row")
    named = [set(re.findall(r"`(\w+)`", folders)) for _, folders in rows[1:]]
    assert named == ROWS


def test_pages_and_tutorials_link_only_to_existing_tutorials_and_pages():
    names = {path.stem for path in (DOC / "tutorials").glob("*.py")}
    led_to = set(
        re.findall(r"generated/tutorials/(\d\w+)", (DOC / "index.rst").read_text())
    )
    assert led_to <= names
    for path in (DOC / "tutorials").glob("*.py"):
        text = path.read_text()
        assert "On your own" in text, f"{path.name} does not say what to change"
        for link in re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text):
            if link.startswith("/"):
                found = [DOC / f"{link[1:]}{suffix}" for suffix in (".md", ".rst")]
                assert any(page.exists() for page in found), f"{path.name}: {link}"
            else:
                assert link in names, f"{path.name}: {link}"


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.name)
def test_flags_of_dipy_rnn_in_tables_exist(page):
    ours = {
        flag
        for command in ("dipy_track_rnn", "dipy_train_rnn")
        for flag in parser_of(command)._option_string_actions
    }
    named = set()
    for head, *rows in tables(page):
        columns = [i for i, cell in enumerate(head) if cell in ("Here", "Flag")]
        if "Why" not in head:  # "Why" is a column of the table of missing flags
            named |= {
                flag for row in rows for i in columns for flag in FLAG.findall(row[i])
            }
    assert named
    assert named - {"--tracking_method"} <= ours


@pytest.mark.skipif(not shutil.which("tckgen"), reason="there is no MRtrix3")
def test_the_table_for_tckgen_has_its_flags():
    shown = subprocess.run(["tckgen", "-help"], capture_output=True, text=True).stdout
    shown = re.sub(".\b", "", shown)  # remove overstriking, which makes text bold
    theirs = set(re.findall(r"^  (-\w+)", shown, re.M)) - {"-help", "-version"}
    named = {
        flag
        for head, *rows in tables(DOC / "how_to" / "from_tckgen.md")
        for row in rows
        for flag in re.findall(r"`(-\w+)", row[0])
    }
    assert named == theirs


def test_the_drawings_of_concepts_are_those_that_the_script_makes(tmp_path):
    script = runpy.run_path(str(DOC / "draw_concepts.py"), run_name="script")
    script["main"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOC / "images").glob("*.svg")}
    pages = "".join(page.read_text() for page in DOC.glob("*.md"))
    assert all(f"(images/{name})" in pages for name in drawn)


def test_links_between_files_of_the_repository_become_links_between_pages():
    pytest.importorskip("myst_parser", reason="what builds the site is not there")
    from repository import lead_here

    for text, here in (
        ("[a](doc/training.md#b)", "[a](/training.md#b)"),
        ("[a](CHANGELOG.md)", "[a](/project/changelog.rst)"),
        ("[a](Containerfile)", "a"),
        ("[a](https://dipy.org), [b](#c)", "[a](https://dipy.org), [b](#c)"),
        ("![a](doc/images/demo.png)", "![a](doc/images/demo.png)"),
    ):
        assert lead_here(text) == here
    for text, here in (
        ("[a](training.md#b)", "[a](training.md#b)"),
        ("[a](../features.md)", "[a](../features.md)"),
        ("[a](../../CONTRIBUTING.md)", "[a](/project/contributing.rst)"),
    ):
        assert lead_here(text, of_doc=True) == here
