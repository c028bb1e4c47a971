"""The checks of a network when its TorchScript is loaded.

The network runs on some random inputs. If its architecture has a kernel (a compiled
function), the directions of the kernel are compared with those of the TorchScript.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from dipy_rnn._typing import AnyArray, Float32Array
from dipy_rnn.model.archive import packed
from dipy_rnn.model.inputs import stack_inputs
from dipy_rnn.model.metadata import INPUT_SIZES, ModelFileError, ModelMetadata
from dipy_rnn.model.torchscript import ScriptedNetwork
from dipy_rnn.model.weights import compile_network, has_kernel, read_weights
from dipy_rnn.sampling import cone_of, join_context, sample_context

if TYPE_CHECKING:
    from dipy_rnn.model.kernels._layers import CompiledNetwork

# The conditions under which a kernel is compared with the TorchScript.
_STEP_VOX, _ANGLE_DEG = 0.5, 60.0
_EDGE_VOX = (0.3, 0.3, 0.3)  # places around a voxel of the row are still inside


def load_script(
    entries: Mapping[str, bytes], metadata: ModelMetadata, name: str, device: str
) -> ScriptedNetwork:
    """Load the TorchScript of a model file. Check that it follows the contract.

    Parameters
    ----------
    entries : mapping of str to bytes
        From :func:`dipy_rnn.model.archive.read_archive`.
    metadata : ModelMetadata
    name : str
        Name of the model in error messages.
    device : str

    Returns
    -------
    script : ScriptedNetwork

    Raises
    ------
    ModelFileError
        If torch cannot load it, it breaks the contract, its architecture has a kernel
        whose directions differ, or the file holds other weights as plain arrays.
    """
    parameters: dict[str, AnyArray] = {}
    try:
        # Only verified entries reach torch.
        script = ScriptedNetwork.load(packed(entries).getvalue(), device)
        if has_kernel(metadata):
            parameters = script.parameters
    except Exception as error:  # torch may raise any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{name} is not a usable model: {reason}.") from None
    kernel: CompiledNetwork | None = None
    if has_kernel(metadata):
        kernel = compile_network(parameters, metadata, name)
        weights = read_weights(entries, name)
        if weights and not _are_equal(weights, parameters):
            raise ModelFileError(
                f"{name} is not a usable model: its weights differ from the parameters "
                "of its TorchScript; save the network again."
            )
    try:
        features, direction = _check_shapes(script, metadata)
        if kernel is not None:
            own = features[:, : metadata.channels]
            _check_kernel(kernel, script, metadata, own, direction)
    except ModelFileError as error:
        raise ModelFileError(f"{name} breaks the contract: {error}.") from None
    except Exception as error:  # the code of an archive may raise any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ModelFileError(f"{name} breaks the contract: {reason}.") from None
    return script


def _are_equal(one: Mapping[str, AnyArray], other: Mapping[str, AnyArray]) -> bool:
    """Return whether two sets of weights are the same, name by name."""
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def _check_shapes(
    script: ScriptedNetwork, metadata: ModelMetadata
) -> tuple[Float32Array, AnyArray]:
    """Raise ModelFileError if a network does not follow the contract.

    It runs on three random inputs, together and one by one. Returns its features
    (3, C) and directions (3, 3).
    """
    n = 3
    generator = np.random.default_rng(0)
    features = generator.normal(size=(n, metadata.n_features)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    direction = np.tile([0.0, 0.0, 1.0], (n, 1))
    shape = (metadata.layers, n, metadata.hidden)
    inputs = None
    if metadata.inputs is not None:
        values = dict.fromkeys(INPUT_SIZES, 1.0)
        inputs = stack_inputs(metadata.inputs, values, n)
    state = script.init_state(n)
    if tuple(state.shape) != shape:
        raise ModelFileError(
            f"init_state({n}) has the shape {tuple(state.shape)}, not {shape}"
        )
    if state.dtype != torch.float32 or state.any():
        raise ModelFileError(f"init_state({n}) is not all float32 zeros")
    together, after = script.step(features, direction, state, inputs)
    answers = (n, metadata.n_answers)
    if together.shape != answers or tuple(after.shape) != shape:
        raise ModelFileError(
            f"forward returns shapes {together.shape} and {tuple(after.shape)}, "
            f"not {answers} and {shape}"
        )
    if together.dtype != np.float32 or after.dtype != torch.float32:
        raise ModelFileError(
            f"forward returns {together.dtype} and {after.dtype}, not float32"
        )
    if "spread" in metadata.outputs:
        lengths = np.linalg.norm(together[:, :3], axis=1)
        if not np.allclose(lengths, 1.0, atol=1e-3):
            raise ModelFileError(
                f"it declares a spread, which is in radians, but its directions have "
                f"lengths from {lengths.min():.3g} to {lengths.max():.3g}, not 1"
            )
    for i in range(n):
        row = slice(i, i + 1)
        alone, _ = script.step(
            features[row],
            direction[row],
            script.init_state(1),
            None if inputs is None else inputs[row],
        )
        if not np.allclose(alone, together[row], atol=1e-3, equal_nan=True):
            raise ModelFileError(
                "a row of its output depends on the other rows (batch statistics?)"
            )
    return features, direction


def _check_kernel(
    kernel: CompiledNetwork,
    script: ScriptedNetwork,
    metadata: ModelMetadata,
    features: Float32Array,
    direction: AnyArray,
) -> None:
    """Raise ModelFileError if a kernel differs from the TorchScript it replaces.

    The points are the voxels of a volume with one row of voxels, which has ``features``
    (n, C) as coefficients.
    """
    n, order, context = len(features), metadata.order, metadata.context
    volume = np.ascontiguousarray(features[:, None, None])
    points, frames = (
        np.eye(3)[:1] * np.arange(n)[:, None],
        np.tile(np.eye(3), (n, 1, 1)),
    )
    answers = np.empty((n, metadata.n_answers), np.float32)
    status = np.empty(n, np.uint8)
    kernel_state, state = kernel.init_state(n), script.init_state(n)
    cone = cone_of(order, _ANGLE_DEG)
    run = kernel.prepare(volume, 1.0, cone, _STEP_VOX, _ANGLE_DEG, 0.0, _EDGE_VOX)
    values = {"step_vox": _STEP_VOX, "max_angle_deg": _ANGLE_DEG}
    ahead, _ = cone.largest(features, 0.0)
    inputs = stack_inputs(metadata.inputs or (), values | {"ahead": ahead}, n)
    if context is not None:
        around = sample_context(context, volume, points, frames, _EDGE_VOX, features)
        features = join_context(features, around)
    for _ in range(3):  # in the first step the state is zero
        kernel.next_directions(run, points, frames, kernel_state, answers, status)
        expected, state = script.step(features, direction, state, inputs)
        if not np.allclose(answers, expected, atol=1e-4):
            raise ModelFileError(
                f"its architecture is {metadata.architecture!r}, but its "
                "directions differ from those of this architecture"
            )
