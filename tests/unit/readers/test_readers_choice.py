"""Series that a user names, scores, and what is said of every series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.errors import StudyError
from edgeseg.readers import NONE, Selection, find_studies, read_study
from edgeseg.readers.choice import choose
from edgeseg.readers.sequences import SeriesFacts

AXIAL, SAGITTAL = (0.0, 0.05, 0.99), (1.0, 0.0, 0.0)


def _facts(number: int, text: str, **more: object) -> SeriesFacts:
    facts = SeriesFacts(
        f"series {number} (ab{number})", 24, text, names=(str(number), f"1.2.3.{number}", f"ab{number}")
    )
    return replace(facts, **more)  # type: ignore[arg-type]


FLAIR = _facts(3, "AX FLAIR", echo_time_ms=120, repetition_time_ms=9000, inversion_time_ms=2200)
T1 = _facts(2, "AX T1", echo_time_ms=14, repetition_time_ms=500)
POST = _facts(5, "AX T1 POST", echo_time_ms=14, repetition_time_ms=500, agent=True)
T2 = _facts(14, "AX T2", echo_time_ms=100, repetition_time_ms=4500)
STUDY = [T1, FLAIR, POST, T2]


@pytest.mark.parametrize("name", ["14", "1.2.3.14", "ab14", "AB14", "series 14 (ab14)", "1.2.*.14"])
def test_a_series_is_named_by_number_uid_digits_or_pattern(name: str) -> None:
    choice = choose(STUDY, Selection(flair=name))
    assert choice.series == {"flair": 3, "pre": 0, "post": 2}
    assert choice.reasons["flair"] == "named with --flair"
    assert choice.warnings == ("series 14 (ab14) was named with --flair, and by the rules it is no FLAIR: T2",)


def test_a_name_that_the_rules_agree_with_is_no_warning() -> None:
    choice = choose(STUDY, Selection(flair="3", post="5"))
    assert not choice.warnings
    assert choice.reasons["flair"].startswith("named with --flair; FLAIR by inversion time 2200 ms")
    assert choice.scores == choose(STUDY).scores


def test_none_leaves_a_t1_out() -> None:
    choice = choose(STUDY, Selection(pre=NONE, post="NONE"))
    assert choice.series == {"flair": 1, "pre": None, "post": None}
    assert choice.reasons["pre"] == "left out with --pre none"
    assert choice.scores == {"flair": 7, "pre": None, "post": None}


def test_a_named_series_is_not_chosen_for_another_channel() -> None:
    choice = choose(STUDY, Selection(post="2"))
    assert choice.series == {"flair": 1, "pre": None, "post": 0}


def test_a_name_that_fits_nothing_lists_what_there_is() -> None:
    with pytest.raises(StudyError, match="--pre 4 fits none of the study's series") as error:
        choose(STUDY, Selection(pre="4"))
    assert "series 2 (ab2) (T1 before contrast, 24 slices); series 3 (ab3) (FLAIR, 24 slices)" in str(error.value)


def test_of_several_that_fit_the_right_kind_is_taken() -> None:
    copy = replace(T2, names=FLAIR.names)
    choice = choose([copy, FLAIR, T1], Selection(flair="3"))
    assert choice.series["flair"] == 1
    assert choice.warnings == ("--flair fits 2 series; series 3 (ab3) with 24 slices was taken",)


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        (Selection(flair="none"), "--flair none: FLAIR is what edgeseg segments"),
        (Selection(pre="5", post="ab5"), r"--pre and --post both name series 5 \(ab5\)"),
        (Selection(flair="2", pre="2"), "--pre and --flair both name series 2"),
    ],
)
def test_what_makes_no_sense_is_refused(selection: Selection, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        choose(STUDY, selection)


def test_without_flair_by_the_rules_a_named_one_serves() -> None:
    with pytest.raises(StudyError, match=r"or name it with --flair\. There are: series 2 \(ab2\)"):
        choose([T1, T2])
    assert choose([T1, T2], Selection(flair="14")).series == {"flair": 1, "pre": 0, "post": None}


def test_every_series_is_listed_with_kind_and_score() -> None:
    considered = choose(STUDY).considered
    assert [(one.series, one.kind, one.channel) for one in considered] == [
        ("series 2 (ab2)", "T1 before contrast", "pre"),
        ("series 3 (ab3)", "FLAIR", "flair"),
        ("series 5 (ab5)", "T1 after contrast", "post"),
        ("series 14 (ab14)", "T2", None),
    ]
    assert [one.score for one in considered] == [6, 7, 6 + 3 + 2, 6]


def test_axial_flair_goes_before_thin_sagittal_and_both_before_reformatted() -> None:
    thin = replace(_facts(7, "Sag FLAIR 3D"), normal=SAGITTAL, thickness_mm=1.0, slices=176)
    thick = replace(thin, label="series 8", thickness_mm=5.0, slices=200)
    axial = replace(_facts(9, "Ax FLAIR"), normal=AXIAL)
    reformatted = replace(axial, label="series 10", reformatted=True, slices=300)
    assert choose([thick, reformatted, thin, axial]).series["flair"] == 3
    assert choose([thick, reformatted, thin]).series["flair"] == 2
    only = choose([reformatted])
    assert "the FLAIR series is reformatted" in only.warnings[0]
    assert not choose([reformatted, axial]).warnings


def test_flair_before_the_agent_goes_before_flair_after_it() -> None:
    late = replace(FLAIR, label="series 9", agent=True, slices=90)
    assert choose([late, FLAIR]).series["flair"] == 1


def test_an_agent_that_every_series_names_says_nothing() -> None:
    study = [replace(facts, agent=True) for facts in STUDY]
    choice = choose(study)
    assert choice.series == {"flair": 1, "pre": 0, "post": 2}
    assert "no contrast agent being named but for the whole examination" in choice.reasons["pre"]
    assert choose([replace(FLAIR, agent=True), replace(T1, agent=True)]).series["post"] == 1


def test_reasons_and_lists_hold_no_text_of_headers() -> None:
    canary = "ZEBRA^CANARY"
    study = [replace(facts, text=f"{facts.text} {canary}", sequence=canary) for facts in STUDY]
    choice = choose(study)
    assert choice.series == choose(STUDY).series
    assert "zebra" not in repr((choice.reasons, choice.considered, choice.warnings)).lower()
    with pytest.raises(StudyError) as error:
        choose(study[:1])
    assert "zebra" not in str(error.value).lower()


def test_a_t1_of_tiff_slices_can_be_left_out_and_no_series_be_named(example_tiff: Path) -> None:
    (files,) = find_studies(example_tiff)
    study = read_study(files, Selection(post=NONE))
    assert study.post is None
    assert study.pre is not None
    assert study.channels["post"].filled_with == "flair"
    assert study.channels["post"].reason == "left out with --post none"
    with pytest.raises(StudyError, match="TIFF slices hold all channels in one file"):
        read_study(files, Selection(flair="3"))
