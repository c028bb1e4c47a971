"""What a tractogram connects: density maps and connectomes."""

from dipy_rnn.connectivity.connectome import Connectome, connectome
from dipy_rnn.connectivity.density import DensityMap

__all__ = ["Connectome", "DensityMap", "connectome"]
