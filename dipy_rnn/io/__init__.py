"""Reading and writing files: fODFs, images, lists of seeds and tractograms."""

from dipy_rnn.io.files import first_line as first_line
from dipy_rnn.io.files import one_line as one_line
from dipy_rnn.io.files import shown as shown
from dipy_rnn.io.fodf import check_sh_format as check_sh_format
from dipy_rnn.io.fodf import load_features as load_features
from dipy_rnn.io.fodf import load_pam as load_pam
from dipy_rnn.io.images import check_same_grid as check_same_grid
from dipy_rnn.io.images import load_volume as load_volume
from dipy_rnn.io.pairs import Files as Files
from dipy_rnn.io.pairs import find_files as find_files
from dipy_rnn.io.pairs import pair_files as pair_files
from dipy_rnn.io.placement import check_placement as check_placement
from dipy_rnn.io.regions import load_regions as load_regions
from dipy_rnn.io.regions import prepare_arguments as prepare_arguments
from dipy_rnn.io.regions import region_files as region_files
from dipy_rnn.io.subject import TrackingInputs as TrackingInputs
from dipy_rnn.io.subject import load_points as load_points
from dipy_rnn.io.subject import load_subject as load_subject
from dipy_rnn.io.subject import load_tissues as load_tissues
from dipy_rnn.io.tractogram import SUFFIXES as SUFFIXES
from dipy_rnn.io.tractogram import check_format as check_format
from dipy_rnn.io.tractogram import downsample as downsample
from dipy_rnn.io.tractogram import read_tractogram as read_tractogram
from dipy_rnn.io.tractogram import write_tractogram as write_tractogram
from dipy_rnn.sampling import SH_BASES as SH_BASES
