"""The parsers of the commands, for their page and for the tests of all pages."""

from unittest.mock import patch

from dipy.workflows.base import IntrospectiveArgumentParser

from dipy_rnn.workflows import cli


class _Built(BaseException):
    """Carries a parser past whoever catches exceptions."""


def parser_of(command):
    """Return the argument parser of a command.

    Parameters
    ----------
    command : str
        Such as ``"dipy_track_rnn"``.

    Returns
    -------
    parser : dipy.workflows.base.IntrospectiveArgumentParser
        With the options that DIPY gives to every workflow.
    """

    def stop(parser):
        raise _Built(parser)

    entry_point = getattr(cli, command.removeprefix("dipy_").removesuffix("_rnn"))
    # DIPY builds its parser and reads the command line in one function.
    with patch.object(IntrospectiveArgumentParser, "get_flow_args", stop):
        try:
            entry_point()
        except _Built as built:
            (parser,) = built.args
    parser.prog = command
    return parser
