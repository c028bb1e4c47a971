"""Only tensors and plain values are unpickled, and damaged files are refused."""

import ast
from pathlib import Path
import random

from archives import mutate, rewrite
import pytest
import torch

import dipy_rnn
from dipy_rnn.training.state import load_checkpoint, save_checkpoint


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_checkpoint_is_refused_in_one_line_or_loads(tmp_path, seed):
    rng, path = random.Random(seed), tmp_path / "checkpoint.pt"
    save_checkpoint({"update": 3, "weights": torch.ones(20)}, path)
    rewrite(
        path,
        lambda held: held.update({n: mutate(held[n], rng) for n in held if held[n]}),
    )
    try:
        load_checkpoint(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def unrestricted(tree):
    """Yield the calls in a source that may unpickle any object or run any code.

    torch.load is allowed with weights_only=True, np.load without allow_pickle, of
    joblib only what runs functions, and pickle.loads of what was pickled in the same
    expression.
    """
    for call in ast.walk(tree):
        if isinstance(call, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in call.names}
            if isinstance(call, ast.ImportFrom):
                given = {alias.name for alias in call.names}
                names = {(call.module or "").split(".")[0]}
                if call.module == "joblib" and given <= {"Parallel", "delayed"}:
                    continue
            if names & {"dill", "cloudpickle", "joblib", "marshal", "shelve"}:
                yield ast.unparse(call)
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        options = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if ast.unparse(call).startswith("pickle.loads(pickle.dumps("):
            continue
        if (
            name in ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler")
            or (name == "torch.load" and options.get("weights_only") != "True")
            or (name == "np.load" and options.get("allow_pickle", "False") != "False")
            or name.endswith("read_pickle")
        ):
            yield ast.unparse(call)


def test_nothing_is_unpickled_without_restriction():
    root = Path(dipy_rnn.__file__).parents[1]
    sources = [
        path
        for folder in ("dipy_rnn", "workflows", "benchmarks", "doc", "tests")
        for path in (root / folder).rglob("*.py")
    ]
    assert len(sources) > 20
    for path in sources:
        found = list(unrestricted(ast.parse(path.read_text("utf-8"))))
        assert not found, f"{path.name}: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(text)",
        "import joblib",
        "from dill import load",
        "eval(text)",
    ],
)
def test_unrestricted_calls_are_found(source):
    assert list(unrestricted(ast.parse(source)))
