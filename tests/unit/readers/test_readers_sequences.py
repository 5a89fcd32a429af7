"""Which series is which, on facts as scanners of several makers give them."""

from __future__ import annotations

import pytest

from edgeseg.errors import StudyError
from edgeseg.readers.choice import choose
from edgeseg.readers.sequences import SeriesFacts, recognise


def _facts(
    text: str = "",
    te: float | None = None,
    tr: float | None = None,
    ti: float | None = None,
    techniques: tuple[str, ...] = (),
    slices: int = 24,
    agent: bool | None = None,
    acquired: str = "",
    derived: bool = False,
) -> SeriesFacts:
    return SeriesFacts(f"series {text}", slices, text, te, tr, ti, techniques, agent, acquired, None, derived)


FLAIR = _facts("AX FLAIR", 120, 9000, 2200, ("SE", "IR"))
T1 = _facts("AX T1", 14, 500, None, ("SE",), acquired="100000")
T1_AGENT = _facts("AX T1", 14, 500, None, ("SE",), agent=True, acquired="110000")
T2 = _facts("AX T2 TSE", 100, 4500, None, ("SE",))


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (FLAIR, "FLAIR"),
        (_facts("", 120, 9000, 2200), "FLAIR"),
        (_facts("ax dark-fluid", 81, 9000, 2500, ("SE", "IR")), "FLAIR"),
        (_facts("Sag CUBE T2 FLAIR", 120, 6000, 1800, ("SE",), 160), "FLAIR"),
        (_facts("t2_space_dark-fluid_sag", 389, 5000, 1650, ("SE", "IR"), 176), "FLAIR"),
        (_facts("AX FLAIR", 140, 10000, None, ("SE", "IR")), "FLAIR"),
        (_facts("sub-01_FLAIR"), "FLAIR"),
        (T1, "T1"),
        (_facts("t1_mprage_sag", 2.4, 1800, 900, ("GR", "IR"), 176), "T1"),
        (_facts("Sag T1 FLAIR", 20, 2400, 860, ("SE", "IR")), "T1"),
        (_facts("", 3, 8.2, 450, ("GR",)), "T1"),
        (_facts("Ax FSPGR BRAVO", 3.2, 8.2, 450, ("GR",)), "T1"),
        (_facts("t1ce"), "T1"),
        (T2, "T2"),
        (_facts("t2"), "T2"),
        (_facts("", 90, 4000), "T2"),
        (_facts("AX PD", 12, 2500, None, ("SE",)), "PD"),
        (_facts("ep2d_diff_3scan_trace", 90, 6000, None, ("EP",)), "other"),
        (_facts("DTI", 90, 9000, None, ("EP",)), "other"),
        (_facts("SWI_images", 20, 28, None, ("GR",)), "other"),
        (_facts("", 20, 28, None, ("GR",)), "other"),
        (_facts("AX T2*", 20, 600, None, ("GR",)), "other"),
        (_facts("tof_fl3d_tra", 3.5, 22, None, ("GR",)), "other"),
        (_facts("COR STIR", 60, 4000, 160, ("SE", "IR")), "other"),
        (_facts("3-plane loc", 5, 10, None, ("GR",), 15), "localizer"),
        (_facts("AX FLAIR", 120, 9000, 2200, slices=3), "localizer"),
        (_facts("FLAIR MPR cor", 120, 9000, 2200, derived=True), "derived image"),
        (_facts("something"), "series that was not recognised"),
        *(
            (_facts(text), "series that was not recognised")
            for text in ("T1_flair", "T1 FLAIR", "T1w_FLAIR", "T1_on_FLAIR")
        ),
        (_facts("T1_on_FLAIR", 120, 9000, 2200, ("SE", "IR")), "FLAIR"),
        (_facts("t2f"), "FLAIR"),
        (_facts("BraTS-GLI-00001-000-t1n"), "T1"),
        (_facts("t1_mprage", 3, 2300), "T1"),
        (_facts("AX T2 FLAIR ASSET", 120, 9000, 2200, ("SE", "IR")), "FLAIR"),
        *(
            (_facts(text, 120, 9000, 2200, ("SE", "IR")), "other")
            for text in ("DIR FLAIR", "t2_space_dir", "double inversion recovery")
        ),
        *(
            (_facts(text, 1, 50, None, ("GR",)), "other")
            for text in (
                "Asset calibration",
                "ASSET",
                "Cal head",
                "SENSE_Ref",
                "SENSE RefScan",
                "Ref scan",
                "B1 map",
                "b1map",
            )
        ),
    ],
)
def test_kind(facts: SeriesFacts, kind: str) -> None:
    assert recognise(facts).kind == kind


def test_three_sequences_and_reasons() -> None:
    choice = choose([T2, T1_AGENT, FLAIR, T1])
    assert choice.series == {"flair": 2, "pre": 3, "post": 1}
    assert choice.reasons["flair"] == (
        "FLAIR by inversion time 2200 ms, echo time 120 ms and repetition time 9000 ms and the keyword flair"
    )
    assert "contrast agent that its header names" in choice.reasons["post"]
    assert not choice.warnings


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        ("t1", "pre"),
        ("T1 PRE", "pre"),
        ("t1_pre_contrast", "pre"),
        ("T1 w/o contrast", "pre"),
        ("AX T1 non-contrast", "pre"),
        ("AX T1 postop", "pre"),
        ("AX T1 POST", "post"),
        ("t1ce", "post"),
        ("t1c", "post"),
        ("t1gd", "post"),
        ("t1_post_gadolinium", "post"),
        ("AX T1+C", "post"),
        ("t1_mprage_km", "post"),
        *((text, "post") for text in ("T1 FSE C+", "AX T1 +C", "T1C+", "T1-C+", "T1-CE", "T1 POST W/O FS")),
        *(
            (text, "pre")
            for text in ("AX T1 -C", "T1-C", "T1 C-", "T1C-", "T1 WO CONTRAST", "T1 W/O", "T1 NO CONTRAST")
        ),
        *((text, "pre") for text in ("T1 NO GAD", "T1 NON GAD", "T1 PREGD", "T1 PRE GAD", "T1 sans contraste")),
        *((text, "pre") for text in ("T1 without", "T1 W/WO CONTRAST", "BraTS-GLI-00001-000-t1n")),
    ],
)
def test_words_for_before_and_after_contrast(text: str, channel: str) -> None:
    choice = choose([_facts("flair"), _facts(text)])
    assert {name for name, found in choice.series.items() if found == 1} == {channel}


def test_minus_and_plus_c_beside_an_agent_in_the_header() -> None:
    minus, plus = _facts("AX T1 -C", 14, 500), _facts("AX T1 +C", 14, 500, agent=True)
    assert choose([plus, FLAIR, minus]).series == {"flair": 1, "pre": 2, "post": 0}


def test_a_contrast_agent_in_the_header_goes_before_a_keyword() -> None:
    keyword = _facts("T1 post", 14, 500, slices=200)
    choice = choose([FLAIR, keyword, T1_AGENT])
    assert choice.series["post"] == 2
    assert "its header names" in choice.reasons["post"]


def test_a_tie_says_between_what() -> None:
    assert recognise(_facts("T1_flair")).reason == "as much speaks for FLAIR as for T1"


def test_time_decides_between_two_t1s_of_equal_protocol() -> None:
    early, late = _facts("T1", 14, 500, acquired="1000"), _facts("T1", 14, 510, acquired="1100")
    choice = choose([late, FLAIR, early])
    assert choice.series == {"flair": 1, "pre": 2, "post": 0}
    assert "the later of two T1s of equal protocol, though no contrast agent is named" in choice.reasons["post"]


def test_t1s_of_unlike_protocol_are_both_before_contrast() -> None:
    early, late = _facts("T1", 14, 500, acquired="1000"), _facts("T1", 3, 9, 900, acquired="1100")
    assert choose([early, FLAIR, late]).series["post"] is None


def test_a_t1_after_the_agent_is_after_contrast_too() -> None:
    late = _facts("T1", 14, 500, acquired="120000")
    choice = choose([FLAIR, T1_AGENT, late])
    assert choice.series["pre"] is None
    assert "no T1 before contrast" in choice.reasons["pre"]


def test_the_t1_in_the_plane_of_flair_is_preferred() -> None:
    def turned(facts: SeriesFacts, normal: tuple[float, float, float]) -> SeriesFacts:
        from dataclasses import replace

        return replace(facts, normal=normal)

    sagittal = turned(_facts("T1", 14, 500, slices=160), (1.0, 0.0, 0.0))
    choice = choose([turned(FLAIR, (0.0, 0.0, 1.0)), sagittal, turned(T1, (0.0, 0.1, 0.99))])
    assert choice.series["pre"] == 2


def test_two_flairs_most_points_then_most_slices_and_a_warning() -> None:
    many = _facts("FLAIR", 120, 9000, 2200, slices=40)
    unsure = _facts("FLAIR", slices=90)
    choice = choose([unsure, FLAIR, many])
    assert choice.series["flair"] == 2
    (warning,) = choice.warnings
    assert "3 series are FLAIR" in warning


@pytest.mark.parametrize(
    ("series", "found"),
    [
        ([T1, T1_AGENT, T2], r"no FLAIR among 3 series \(found: T1 before contrast, T1 after contrast, T2\)"),
        ([T1], r"no FLAIR among 1 series \(found: T1 before contrast\)"),
        ([_facts("FLAIR", derived=True), T2, T2], r"found: derived image, 2 x T2"),
    ],
)
def test_without_flair_the_refusal_lists_what_is_there(series: list[SeriesFacts], found: str) -> None:
    with pytest.raises(StudyError, match=found) as error:
        choose(series)
    assert "never guesses" in str(error.value)


def test_reasons_quote_nothing_from_headers() -> None:
    choice = choose([_facts("JOHN DOE FLAIR"), _facts("JOHN DOE T1 post")])
    assert "john" not in " ".join(choice.reasons.values()).lower()
