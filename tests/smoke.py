"""Track a phantom with what is installed: ``python tests/smoke.py``.

Tests wheels, conda packages and containers, in which pytest and the packages for the
tests are missing.
"""

from importlib import metadata

COMMANDS = "dipy_rnn.workflows.cli"


def main():
    """Raise an error if a kernel, a model or a command is missing."""
    from dipy_rnn import rnn_tracking, shipped_models
    from dipy_rnn.phantom import crossing_phantom
    from dipy_rnn.stopping import BinaryStoppingCriterion

    phantom = crossing_phantom(60)
    seeds = [line[len(line) // 2] for line in phantom.streamlines(5)[0]]
    criterion = BinaryStoppingCriterion(phantom.mask())
    for model in shipped_models():
        streamlines = rnn_tracking(
            seeds, criterion, phantom.affine, sh=phantom.fodf(), model=model
        )
        lengths = [len(line) for line in streamlines]
        if not min(lengths) > 100:
            raise RuntimeError(f"{model}: streamlines of {lengths} points")
    commands = metadata.entry_points(group="console_scripts").select(module=COMMANDS)
    if not commands:
        raise RuntimeError("no commands")
    for command in commands:
        command.load()


if __name__ == "__main__":
    main()
    print(f"dipy_rnn {metadata.version('dipy_rnn')} tracks")
