"""Resolve references to names that a folder of the package re-exports.

The reference lists a name in its module (``dipy_rnn.stopping.reasons.StopReason``).
Docstrings name it as users import it (``dipy_rnn.stopping.StopReason``), or without a
path (``StopReason``) inside its own folder.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dipy_rnn"


def defined_names(folder):
    """Return the module of each public name that a folder defines.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    modules : dict of str to str
    """
    modules = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem == "__init__":
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [getattr(node, "name", None)]
            for target in targets:
                names += [
                    getattr(e, "id", None) for e in getattr(target, "elts", [target])
                ]
            home = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            modules |= {name: home for name in names if name and name[0] != "_"}
    return modules


NAMES = {
    f"dipy_rnn.{folder.parent.name}": defined_names(folder.parent)
    for folder in PACKAGE.glob("*/__init__.py")
}


def resolve(app, env, node, contnode):
    """Find the documented object behind a missing reference."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target in NAMES:  # a folder: its own heading is on the page of the reference
        return contnode
    folder = ".".join(target.split(".")[:2])
    rest = ".".join(target.split(".")[2:])
    if folder not in NAMES:
        folder = ".".join((node.get("py:module") or "").split(".")[:2])
        rest = target
    home = NAMES.get(folder, {}).get(rest.split(".")[0])
    if home is None or f"{home}.{rest}" == target:
        return None
    return env.domains.python_domain.resolve_xref(
        env,
        node["refdoc"],
        app.builder,
        node["reftype"],
        f"{home}.{rest}",
        node,
        contnode,
    )


def setup(app):
    """Connect to Sphinx."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
