"""A parser for ``include``: reads Markdown of the repository's root folder.

In a repository browser, links lead to files of the repository. On the site, they lead
to the page that holds the content of the file. If the site has no such page, only the
text of the link remains.
"""

import re

from myst_parser.sphinx_ import Parser as MystParser

_LINK = re.compile(r"(!?)\[([^]]+)\]\((?!\w+:|#)((?:\.\./)*)([^)#]+)(#[^)]*)?\)")
_ON_THE_SITE = {
    "README.md": "/index.rst",
    "CONTRIBUTING.md": "/project/contributing.rst",
    "CHANGELOG.md": "/project/changelog.rst",
    "dipy_rnn/model/shipped/default.md": "/reference/models.rst",
    "dipy_rnn/model/shipped/deterministic.md": "/reference/models.rst",
}


def lead_here(text, of_doc=False):
    """Replace links to files of the repository by links to pages of the site.

    Parameters
    ----------
    text : str
        Markdown.
    of_doc : bool, optional
        Whether the text is a page of doc/. Its links within doc/ are kept.

    Returns
    -------
    text : str
        Markdown with replaced links.
    """

    def replaced(link):
        is_picture, words, up, path, heading = link.groups("")
        if is_picture or (of_doc and not up) or (up and path not in _ON_THE_SITE):
            return link[0]
        if path in _ON_THE_SITE:
            return f"[{words}]({_ON_THE_SITE[path]})"
        if path.startswith("doc/"):
            return f"[{words}]({path.removeprefix('doc')}{heading})"
        return words

    return _LINK.sub(replaced, text)


class Parser(MystParser):
    """Read Markdown of the repository's root folder."""

    def parse(self, inputstring, document):
        super().parse(lead_here(inputstring), document)
