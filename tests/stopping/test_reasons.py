"""The reasons why streamlines stop, and the tables of them."""

from dipy.tracking.stopping_criterion import StreamlineStatus
import pytest

from dipy_rnn.stopping import StopReason, format_fates, format_tally


def test_every_reason_has_a_message_of_its_own_and_a_status_of_dipy():
    messages = {reason.message for reason in StopReason}
    assert len(messages) == len(StopReason) and all(messages)
    for reason in StopReason:
        assert isinstance(reason.status, StreamlineStatus)


def test_reasons_are_numbered_from_running_on():
    assert [int(reason) for reason in StopReason] == list(range(len(StopReason)))
    assert StopReason.RUNNING == 0


def test_the_valid_ends_are_those_of_dipy_and_two_more():
    kept = {reason for reason in StopReason if reason.is_valid_end}
    assert kept == {
        StopReason.ENDPOINT,
        StopReason.OUTSIDE_IMAGE,
        StopReason.ALL_INCLUDED,
        StopReason.FIBRE_END,
    }
    assert {reason.status for reason in kept} == {
        StreamlineStatus.ENDPOINT,
        StreamlineStatus.OUTSIDEIMAGE,
    }


# Tables


def test_a_tally_has_the_most_frequent_reason_first_and_none_that_did_not_occur():
    counts = {
        StopReason.NOT_FINITE: 0,
        StopReason.NOTHING_AHEAD: 1,
        StopReason.ENDPOINT: 1169,
        StopReason.NO_DATA: 30,
    }
    assert format_tally(counts).splitlines() == [
        " 97.4 %      1169  the stopping criterion was met",
        "  2.5 %        30  the features are zero there",
        "  0.1 %         1  there is no direction within max_angle",
    ]


def test_a_tally_takes_integers_for_reasons():
    assert format_tally({2: 4}) == "100.0 %         4  it left the image"


@pytest.mark.parametrize("counts", [{}, {StopReason.ENDPOINT: 0}])
def test_a_tally_of_no_streamline_says_so(counts):
    assert format_tally(counts) == "no streamline was tracked"


def test_fates_say_how_many_streamlines_are_kept_and_why_others_are_rejected():
    end, outside = StopReason.ENDPOINT, StopReason.OUTSIDE_IMAGE
    fluid, turn = StopReason.INVALID_POINT, StopReason.NOTHING_AHEAD
    counts = {
        (end, outside): 500,
        (end, end): 100,
        (end, turn): 100,
        (turn, turn): 50,
        (fluid, end): 200,
        (end, StopReason.NO_DATA): 0,
    }
    # Excluded tissue precedes the reason of the other end.
    counts |= {(turn, fluid): 49, (fluid, StopReason.NOT_FINITE): 1}
    assert format_fates(counts).splitlines() == [
        "kept      60.0 %       600  both ends are valid",
        "rejected  25.0 %       250  it entered tissue that the criterion excludes",
        "rejected  15.0 %       150  there is no direction within max_angle",
    ]


def test_fates_count_streamlines_with_valid_ends_that_missed_a_region_as_rejected():
    end, excluded = StopReason.ENDPOINT, StopReason.EXCLUDE_REGION
    counts = {(end, end): 60, (end, excluded): 30, (excluded, StopReason.NO_DATA): 10}
    missed = {(end, end): 20, (end, excluded): 25}
    assert format_fates(counts, missed).splitlines() == [
        "kept      40.0 %        40  both ends are valid",
        "rejected  30.0 %        30  it entered an exclude region",
        "rejected  10.0 %        10  the features are zero there",
        "rejected  20.0 %        20  it did not enter all include regions",
    ]


def test_fates_take_integers_for_reasons():
    table = format_fates({(2, 1): 4})
    assert table == "kept     100.0 %         4  both ends are valid"
    assert format_fates({(6, 5): 1}).splitlines() == [
        "kept       0.0 %         0  both ends are valid",
        "rejected 100.0 %         1  it would be longer than max_len",
    ]


@pytest.mark.parametrize("counts", [{}, {(1, 1): 0}])
def test_fates_of_no_streamline_say_so(counts):
    assert format_fates(counts) == "no streamline was tracked"
