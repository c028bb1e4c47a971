"""Old paths and names of the public API still work. A warning gives the new name."""

from importlib import import_module
import warnings

import pytest

# The public names of version 0.1.0 before the modules moved into folders.
OLD_NAMES = {
    "tracking": """
        Streamline rnn_tracking track length_limits lengths_for_dipy
        dipy_is_at_least
    """,
    "direction_getter": "RNNDirectionGetter",
    "stopping": """
        StoppingCriterion StopReason ThresholdStoppingCriterion
        BinaryStoppingCriterion ActStoppingCriterion CmcStoppingCriterion
        taken_apart asks_in_any_order check_points seed_keys format_tally
        format_fates
    """,
    "anatomy": "Tissues interface_seeds",
    "sh": """
        BASES SH_FRAMES FeatureVolume raw_features fodf_features pam_features
        pam_basis with_order turned looks_like_fodf
    """,
    "gradients": """
        GIVEN LEAST_SEEDS AXIS_CASES reoriented CaseLength GradientCheck
        check_gradients
    """,
    "tractogram_file": "SUFFIXES check_format write_tractogram thinned",
    "model_file": """
        FORMAT FORMAT_VERSION ROWS_IN_A_BLOCK FILE_LIMIT ENTRIES_LIMIT STATE_LIMIT
        CHECKSUMS ModelFileError ModelMetadata Model shipped_models model_path
        read_metadata load_model save_model as_model check_device
    """,
    "model": """
        RecurrentPropagator CaiPropagator Network ARCHITECTURES untrained Compasses
        newton_slopes architecture_of
    """,
    "evaluation": """
        INVALID_CONNECTION NO_CONNECTION hausdorff_mm mean_closest_point_mm
        end_point_mm alike followed nearest_streamlines angular_difference_deg
        mean_curvature_per_mm visited_voxels visits dice weighted_dice
        density_correlation coverage connections shape_similarity KnownBundle
        known_bundles Scores score Estimate estimated_mean paired_difference
        bootstrapped
    """,
    "comparison": """
        METHODS ALIKE_MM Tracked by_seed track_beside partner_distances measure
    """,
    "pictures": """
        COLOURS SLAB_MM N_DRAWN N_PAIRS DPI png direction_colours choose
        save_picture draw_tractograms Difference draw_distances draw_shares_within
        draw_lengths draw_pairs
    """,
    "report": "N_IN_3D CSS_PIXELS_PER_INCH write_report",
    "phantom": """
        EDGE SAMPLE_MM REACH_SAMPLE_MM REMAINDER_DIFFUSIVITY CSF_DIFFUSIVITY
        SUBVOXELS Bundle Ball Phantom random_phantom crossing_phantom circle_phantom
    """,
    "spaces": """
        FARTHEST_MM check_number check_count check_shape check_numbers check_affine
        check_points voxel_sizes axes handedness to_voxels to_mm
    """,
    "frames": "from_tangents transport turned_round to_axes to_local",
    "interpolate": """
        Turns MAX_ORDER OUTSIDE EMPTY DATA count_threads sh_order quarter_turns
        sample rotate local_maxima
    """,
    "training.recipe": "TEACHERS WEIGHTS Recipe describe",
    "training.references": "Reference clean store load",
    "training.fit": "Interrupted fit predict best_row",
    "training.teachers": "largest_ahead peak_along between deterministic_streamlines",
    "training.sequences": "LEAST_STEPS Teacher Blur Sequences Batch pack draw",
    "training.losses": "cosine_loss",
    "training.validation": "FreeRunning",
    "training.log": "TrainingLog draw_curves",
    "training.checkpoint": "save_checkpoint load_checkpoint",
    "training.processes": """
        is_distributed rank world_size sum_over_processes from_first wait_for_all
        share_of_threads process_group
    """,
    "training.shipped_models": """
        ORDERS RECIPES HIDDEN N_PHANTOMS N_HELD_OUT make_world make_model
        write_checksums main
    """,
}


@pytest.mark.parametrize("module", OLD_NAMES)
def test_every_old_name_is_found(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in OLD_NAMES[module].split():
            assert getattr(import_module(f"dipy_rnn.{module}"), name) is not None


@pytest.mark.parametrize(
    ("module", "name", "path"),
    [
        ("sh", "fodf_features", "dipy_rnn.sampling.fodf_features"),
        ("sh", "turned", "dipy_rnn.sampling.rotate_all"),
        ("spaces", "check_number", "dipy_rnn._checks.check_number"),
        ("model", "RecurrentPropagator", "dipy_rnn.model.networks.MovingFrameGRU"),
        ("training.fit", "fit", "dipy_rnn.training.loop.fit"),
    ],
)
def test_an_old_name_warns_what_to_use_instead(module, name, path):
    with pytest.warns(DeprecationWarning, match=f"{name} is now {path}$"):
        found = getattr(import_module(f"dipy_rnn.{module}"), name)
    home, new_name = path.rsplit(".", 1)
    assert found is getattr(import_module(home), new_name)


def test_the_warning_points_to_the_line_of_the_caller():
    with pytest.warns(DeprecationWarning) as caught:
        from dipy_rnn.sh import BASES
    assert BASES
    assert caught[0].filename == __file__


@pytest.mark.parametrize("module", ["sh", "model", "training.references"])
def test_a_name_that_did_not_exist_is_refused(module):
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        import_module(f"dipy_rnn.{module}").no_such_name  # noqa: B018
