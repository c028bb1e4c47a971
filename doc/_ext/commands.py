"""The directive ``command``: writes the help of a command from its argument parser."""

from docutils import nodes
from docutils.statemachine import StringList
from parsers import parser_of
from sphinx.util.docutils import SphinxDirective


class Command(SphinxDirective):
    """Write the section of a command: description, arguments and options."""

    required_arguments = 1

    def run(self):
        command = self.arguments[0]
        parser = parser_of(command)
        lines = [f".. program:: {command}", "", *parser.description.split("\n")]
        for title, actions in (
            ("Arguments", [a for a in parser._actions if not a.option_strings]),
            ("Options", [a for a in parser._actions if a.option_strings]),
        ):
            lines += ["", f".. rubric:: {title}", ""]
            for action in actions:
                lines += _lines(action)
        content = nodes.Element()
        self.state.nested_parse(StringList(lines, command), 0, content)
        return content.children


def _lines(action):
    """Return the lines of reStructuredText for an argument or option."""
    names = action.option_strings or [action.dest]
    if action.nargs == 0:
        value = ""
    elif action.choices:
        value = " {" + ",".join(map(str, action.choices)) + "}"
    else:
        value = f" <{action.metavar}>" if action.option_strings else ""
    names = ", ".join(name + value for name in names)
    text = (action.help or "").removesuffix("(default: )")
    return [f".. option:: {names}", "", f"   {text}", ""]


def setup(app):
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
