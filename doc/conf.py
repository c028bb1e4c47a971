"""Configuration of the site. ``make doc`` builds it into ``_build/html``.

Pages in Markdown can also be read in a repository browser. Pages in reStructuredText
use features of Sphinx.
"""

from importlib import metadata
import os
from pathlib import Path
import sys
import sysconfig

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from repository import lead_here  # noqa: E402

# Tutorials run the commands that are installed for this Python.
os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]
# Figures of tutorials are saved for the page; no window is opened.
os.environ["MPLBACKEND"] = "agg"

project = "dipy_rnn"
author = "The dipy_rnn developers"
copyright = author
release = version = metadata.version("dipy_rnn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "commands",
]

# index.md lists the pages for a repository browser, index.rst for the site.
exclude_patterns = ["_build", "_templates", "index.md", "tutorials"]
templates_path = ["_templates"]
highlight_language = "text"
default_role = "code"  # as in the docstrings and in Markdown

# Every reference to a name of this package must resolve. References to other packages
# are not resolved: their inventories would have to be fetched.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(dipy\.|matplotlib|nibabel|numpy|os\.|scipy|torch).*"),
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # anchors of headings, with the slugs of repository browsers

autosummary_generate = True
autosummary_generate_overwrite = True
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types with shapes and units
numpydoc_show_class_members = False

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "generated/tutorials",
    "filename_pattern": r"\.py$",
    "image_scrapers": ("figures", "matplotlib"),
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "within_subsection_order": "FileNameSortKey",
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "dipy_rnn"
html_sidebars = {"index": [], "installation": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}


def lead_to_the_site(app, docname, source):
    """Replace links that leave doc/ by links to pages of the site."""
    source[0] = lead_here(source[0], of_doc=True)


def skip_what_is_imported(app, what, name, value, skip, options):
    """Leave out names that are imported from other packages.

    The hook runs before autodoc reads their signatures.
    """
    home = getattr(value, "__module__", None)
    return True if home and not home.startswith("dipy_rnn") else None


def flatten_sections(app, what, name, value, options, lines):
    """Turn section titles of a module's docstring into rubrics.

    Otherwise the content after the docstring would belong to its last section.
    """
    if what == "module":
        for i in range(1, len(lines)):
            if lines[i].startswith("----") and lines[i - 1]:
                lines[i - 1 : i + 1] = [f".. rubric:: {lines[i - 1]}", ""]


def find_definition(app, env, node, text):
    """Resolve a name that is written with its folder, or without its module.

    Docstrings write ``dipy_rnn.stopping.Tissues``, as users import it. The site has it
    as ``dipy_rnn.stopping.tissues.Tissues``, where it is defined.
    """
    target = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    start, name = "dipy_rnn.", target
    if target.startswith(start):
        folder, _, name = target.removeprefix(start).partition(".")
        start += f"{folder}."
    domain = env.get_domain("py")
    found = [
        each
        for each in domain.objects
        if each.startswith(start) and each.endswith(f".{name}")
    ]
    if not found:
        return None
    home = min(found, key=lambda each: (each.count("."), len(each), each))
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], home, node, text
    )


def setup(app):
    """Connect the functions above to the events of Sphinx."""
    app.connect("source-read", lead_to_the_site)
    app.connect("autodoc-skip-member", skip_what_is_imported)
    app.connect("autodoc-process-docstring", flatten_sections)
    app.connect("missing-reference", find_definition)
