"""Argument parsers of the commands, for the reference page and for the tests."""

from unittest.mock import patch

from dipy.workflows.base import IntrospectiveArgumentParser

from dipy_rnn.workflows import cli


class _Built(BaseException):
    """Carries a parser out of DIPY's code; `except Exception` does not catch it."""


def parser_of(command):
    """Return the argument parser of a command.

    Parameters
    ----------
    command : str
        Name of the command, such as ``"dipy_track_rnn"``.

    Returns
    -------
    parser : dipy.workflows.base.IntrospectiveArgumentParser
        It includes the options that DIPY adds to every workflow.
    """

    def stop(parser):
        raise _Built(parser)

    entry_point = getattr(cli, command.removeprefix("dipy_").removesuffix("_rnn"))
    # DIPY builds its parser and reads the command line in one function, so the parser
    # is taken when that function is about to read the command line.
    with patch.object(IntrospectiveArgumentParser, "get_flow_args", stop):
        try:
            entry_point()
        except _Built as built:
            (parser,) = built.args
    parser.prog = command
    return parser
