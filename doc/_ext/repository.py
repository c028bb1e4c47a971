"""Markdown of the repository's first folder, as a parser that ``include`` takes.

Its links are those of a repository browser; here they lead to where the site has what
they lead to, and are no links where it does not have it.
"""

import re

from myst_parser.sphinx_ import Parser as MystParser

_LINK = re.compile(r"(!?)\[([^]]+)\]\((?!\w+:|#)((?:\.\./)*)([^)#]+)(#[^)]*)?\)")
_ON_THE_SITE = {
    "README.md": "/index.rst",
    "CONTRIBUTING.md": "/project/contributing.rst",
    "CHANGELOG.md": "/project/changelog.rst",
    "dipy_rnn/models/default.md": "/reference/models.rst",
    "dipy_rnn/models/deterministic.md": "/reference/models.rst",
}


def lead_here(text, of_doc=False):
    """Let links lead to pages of the site.

    Parameters
    ----------
    text : str
        Markdown.
    of_doc : bool, optional
        Whether it is a page of doc/, whose links within doc/ are right as they are.
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
    """Read Markdown of the repository's first folder."""

    def parse(self, inputstring, document):
        super().parse(lead_here(inputstring), document)
