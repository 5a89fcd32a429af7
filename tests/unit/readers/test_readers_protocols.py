"""The built-in rules on headers as scanners of four makers write them: invented values, in each maker's own manner."""

from __future__ import annotations

import pytest

from edgeseg.readers.choice import choose
from edgeseg.readers.imagetype import is_derived, is_reformatted
from edgeseg.readers.sequences import UNKNOWN, SeriesFacts, recognise

Row = tuple[str, str, str, str, float | None, float | None, float | None, str]
"""Kind, description, sequence name, ScanningSequence, echo, repetition and inversion time in ms, ImageType."""

SIEMENS: list[Row] = [
    ("FLAIR", "t2_tirm_tra_dark-fluid_5mm", "*tir2d1_16", "SE_IR", 84, 9000, 2500, "ORIGINAL\\PRIMARY\\M\\ND\\NORM"),
    ("FLAIR", "t2_spc_da-fl_sag_p2_iso", "*spcir_278ns", "SE_IR", 388, 5000, 1800, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("FLAIR", "t2_space_dark-fluid_sag_p3_iso", "*spcir_282ns", "SE_IR", 394, 7000, 2050, "ORIGINAL\\PRIMARY\\M\\NORM"),
    ("FLAIR", "FLAIR_TRA", "*tir2d1_21fs", "SE_IR", 119, 8500, 2440, "ORIGINAL\\PRIMARY\\M\\DIS2D"),
    ("FLAIR", "t2_spc_ir_ns_sag", "*spcir_278ns", "SE_IR", 388, 5000, 1800, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("FLAIR", "t2_spc_da-fl_MPR Tra", "*spcir_278ns", "SE_IR", 388, 5000, 1800, "DERIVED\\PRIMARY\\MPR\\ND"),
    ("T1", "t1_mprage_sag_p2_iso", "*tfl3d1_16ns", "GR_IR", 2.26, 2300, 900, "ORIGINAL\\PRIMARY\\M\\ND\\NORM"),
    ("T1", "t1_se_tra", "*se2d1", "SE", 8.4, 550, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("T1", "t1_vibe_tra_fs_KM", "*fl3d1_ns", "GR", 2.4, 5.5, None, "ORIGINAL\\PRIMARY\\M\\NORM"),
    ("T1", "t1_spc_fs_sag_iso post", "*spc_42ns", "SE", 7.2, 600, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("T1", "t1_fl2d_tra", "*fl2d1", "GR", 2.5, 250, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("T1", "t1_tirm_blade_tra", "*tirB2d1_9", "SE_IR", 24, 2000, 860, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("T2", "t2_tse_tra_512", "*tse2d1_17", "SE", 100, 5000, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("T2", "t2_blade_tra", "*tseB2d1_25", "SE", 117, 4500, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("T2", "t2_spc_sag_iso", "*spc_282ns", "SE", 408, 3200, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("other", "resolve_4scan_trace_tra", "*re_b1000t", "EP", 62, 5500, None, "DERIVED\\PRIMARY\\DIFFUSION\\M"),
    ("other", "ep2d_diff_tra", "*ep_b1000#1", "EP", 90, 6000, None, "ORIGINAL\\PRIMARY\\DIFFUSION\\NONE"),
    ("other", "series of unknown name", "*ep_b0", "EP", 90, 6000, None, "ORIGINAL\\PRIMARY\\M"),
    ("derived image", "ep2d_diff_tra_ADC", "*ep_b0_1000", "EP", 90, 6000, None, "DERIVED\\PRIMARY\\DIFFUSION\\ADC"),
    ("other", "t2_swi_tra_p2_2mm", "*swi3d1r", "GR", 20, 28, None, "ORIGINAL\\PRIMARY\\M\\SWI"),
    ("other", "t2_fl2d_tra_hemo", "*fl2d1", "GR", 20, 620, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("other", "TOF_3D_multi-slab", "*fi3d1r", "GR", 3.6, 21, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("other", "t2_tirm_cor_STIR", "*tir2d1_13", "SE_IR", 44, 4500, 160, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("other", "tirm_cor", "*tir2d1_13", "SE_IR", 70, 5200, 220, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("other", "ep2d_perf_p2", "*epfid2d1_128", "EP_GR", 30, 1500, None, "ORIGINAL\\PRIMARY\\PERFUSION\\NONE"),
    ("localizer", "AAHead_Scout_MPR_sag", "*fl3d1_ns", "GR", 1.5, 3.2, None, "DERIVED\\PRIMARY\\MPR\\ND"),
    ("localizer", "localizer", "*fl2d1", "GR", 3.8, 8.6, None, "ORIGINAL\\PRIMARY\\M\\ND"),
    ("derived image", "t1_vibe_SUB", "*fl3d1", "GR", 2.4, 5.5, None, "DERIVED\\PRIMARY\\M\\SUB"),
    ("derived image", "TOF_MIP_COR", "*fi3d1r", "GR", 3.6, 21, None, "DERIVED\\SECONDARY\\MIP"),
    (
        "T1",
        "t1_mprage_MPR_tra",
        "*tfl3d1_16ns",
        "GR_IR",
        2.3,
        2300,
        900,
        "DERIVED\\SECONDARY\\MPR\\CSA MPR\\\\CSAPARALLEL",
    ),
]
GE: list[Row] = [
    ("FLAIR", "Ax T2 FLAIR", "", "SE_IR", 122, 9002, 2250, "ORIGINAL\\PRIMARY\\OTHER"),
    ("FLAIR", "OAx FLAIR PROPELLER", "PROP", "SE_IR", 140, 9500, 2400, "ORIGINAL\\PRIMARY\\OTHER"),
    ("FLAIR", "Sag CUBE T2 FLAIR", "CUBE", "SE_IR", 116, 7602, 2020, "ORIGINAL\\PRIMARY\\OTHER"),
    ("FLAIR", "AX T2 FLAIR FS +C", "", "SE_IR", 122, 9002, 2250, "ORIGINAL\\PRIMARY\\OTHER"),
    ("FLAIR", "Ax Reformat FLAIR", "CUBE", "SE_IR", 116, 7602, 2020, "DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE"),
    ("FLAIR", "AX FLAIR", "", "SE_IR", 130, 10000, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T1", "Sag T1 FLAIR", "", "SE_IR", 22, 2250, 785, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T1", "Ax T1 SE", "", "SE", 14, 566, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T1", "Ax FSPGR BRAVO", "BRAVO", "GR", 3.2, 8.4, 450, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T1", "+C Sag T1 CUBE", "CUBE", "SE", 16, 602, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T1", "Ax 3D GRE", "EFGRE3D", "GR", 2.1, 6.1, 450, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T2", "Ax T2 FSE", "", "SE", 102, 4200, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("T2", "Ax T2 PROPELLER", "PROP", "SE", 98, 5100, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Ax DWI b=1000", "EPI2", "EP_SE", 77, 8000, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Ax SWAN", "SWAN", "GR", 23, 38, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Ax T2* GRE", "", "GR", 15, 520, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "3D TOF COW", "TOF3D", "GR", 2.7, 23, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Cor T2 STIR", "", "SE_IR", 60, 4000, 150, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Calibration Scan", "", "GR", 1.1, 150, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Sag FIESTA", "FIESTA", "GR", 2.2, 5.2, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("other", "Sag T1 C-Spine", "", "SE", 12, 600, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("localizer", "3-PLANE LOC", "SSFSE", "SE", 80, 1500, None, "ORIGINAL\\PRIMARY\\OTHER"),
    ("derived image", "MAGiC T2 FLAIR", "", "SE_IR", 94, 9000, 2200, "DERIVED\\SECONDARY\\OTHER"),
    ("derived image", "SyMRI T2 FLAIR", "", "SE", 100, 15000, 3000, "DERIVED\\PRIMARY\\SYNTHETIC"),
    ("derived image", "Apparent Diffusion Coefficient", "EPI2", "EP", 77, 8000, None, "DERIVED\\SECONDARY\\ADC"),
]
PHILIPS: list[Row] = [
    ("FLAIR", "FLAIR_longTR", "TIR", "IR", 125, 11000, 2800, "ORIGINAL\\PRIMARY\\M_IR\\M\\IR"),
    ("FLAIR", "sT2W_FLAIR SENSE", "TSEIR", "IR", 120, 10000, 2750, "ORIGINAL\\PRIMARY\\M_IR\\M\\IR"),
    ("FLAIR", "3D_Brain_VIEW_FLAIR", "TSEIR", "IR", 340, 4800, 1660, "ORIGINAL\\PRIMARY\\M_IR\\M\\IR"),
    ("FLAIR", "VISTA_FLAIR_sag", "", "IR", 276, 4800, 1650, "ORIGINAL\\PRIMARY\\M_IR\\M\\IR"),
    ("T1", "sT1W_3D_TFE", "TFE", "GR", 3.8, 8.2, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("T1", "T1W_SE", "SE", "SE", 12, 520, None, "ORIGINAL\\PRIMARY\\M_SE\\M\\SE"),
    ("T1", "T1W_IR_TSE", "TSEIR", "IR", 20, 2600, 400, "ORIGINAL\\PRIMARY\\M_IR\\M\\IR"),
    ("T1", "3D T1 BLACK BLOOD", "TSE", "SE", 28, 400, None, "ORIGINAL\\PRIMARY\\M_SE\\M\\SE"),
    ("T2", "T2W_TSE", "TSE", "SE", 80, 3000, None, "ORIGINAL\\PRIMARY\\M_SE\\M\\SE"),
    ("other", "SWIp", "FFE", "GR", 20, 28, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("other", "DWI_3b", "DwiSE", "SE_EP", 83, 3200, None, "ORIGINAL\\PRIMARY\\DIFFUSION\\M\\SE"),
    ("other", "s3DI_MC_HR TOF", "T1FFE", "GR", 3.5, 23, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("other", "STIR_longTE", "TSEIR", "IR", 60, 4000, 180, "ORIGINAL\\PRIMARY\\M_IR\\M\\IR"),
    ("other", "T2_FFE*", "T2*FFE", "GR", 23, 700, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("other", "Ref_Head", "FFE", "GR", 15, 60, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("localizer", "Survey", "TFE", "GR", 2.4, 11, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("localizer", "SmartBrain", "TFE", "GR", 2.9, 5.6, None, "ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE"),
    ("derived image", "dReg - DWI sADC", "DwiSE", "SE", 83, 3200, None, "DERIVED\\PRIMARY\\ADC\\ADC"),
]
CANON: list[Row] = [
    ("FLAIR", "FLAIR Ax", "FSE2D_FLAIR", "SE_IR", 105, 10000, 2500, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("FLAIR", "3D FLAIR mVox Sag", "FASE3D_IR", "SE_IR", 420, 6000, 1900, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("T1", "T1 SE Ax", "SE15", "SE", 15, 540, None, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("T1", "MPRAGE Sag", "FFE3D_IR", "GR_IR", 2.9, 6.1, 900, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("T2", "T2 FSE Ax", "FSE90", "SE", 90, 4300, None, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("other", "DWI Ax b1000", "SEEPI", "EP_SE", 75, 6000, None, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("other", "T2* Ax", "FE2D", "GR", 20, 600, None, "ORIGINAL\\PRIMARY\\M\\OTHER"),
    ("localizer", "Locator / PilotScan", "FE", "GR", 4, 20, None, "ORIGINAL\\PRIMARY\\M\\OTHER"),
]
NAMES: list[tuple[str, str]] = [
    ("FLAIR", "BraTS-GLI-00001-000-t2f"),
    ("T1", "BraTS-GLI-00001-000-t1n"),
    ("T1", "BraTS-GLI-00001-000-t1c"),
    ("T2", "BraTS-GLI-00001-000-t2w"),
    ("FLAIR", "BraTS20_Training_001_flair"),
    ("T1", "BraTS20_Training_001_t1ce"),
    ("FLAIR", "sub-01_ses-02_acq-3D_FLAIR"),
    ("T1", "sub-01_ce-gadolinium_T1w"),
    ("T1", "sub-01_T1w"),
    ("T2", "sub-01_T2w"),
    ("other", "sub-01_T2starw"),
    ("other", "sub-01_dir-AP_dwi"),
    ("other", "sub-01_task-rest_bold"),
    (UNKNOWN, "sub-01_scan"),
    ("FLAIR", "4_t2_tirm_tra_dark-fluid_20200101101500"),
    ("T1", "20200101101500_t1_mprage_sag_p2_iso_3"),
]


def _facts(row: Row) -> SeriesFacts:
    _, text, sequence, techniques, te, tr, ti, types = row
    kinds = types.split("\\")
    codes = tuple(techniques.split("_"))
    derived, reformatted = is_derived(kinds), is_reformatted(kinds)
    return SeriesFacts(text, 30, text, te, tr, ti, codes, derived=derived, sequence=sequence, reformatted=reformatted)


@pytest.mark.parametrize("row", [*SIEMENS, *GE, *PHILIPS, *CANON], ids=lambda row: f"{row[1]}-{row[7][:7]}")
def test_kind_by_description_and_physics(row: Row) -> None:
    assert recognise(_facts(row)).kind == row[0]


@pytest.mark.parametrize(
    "row",
    [row for row in (*SIEMENS, *GE, *PHILIPS, *CANON) if (row[0] in ("FLAIR", "T2") and row[6]) or row[0] == "T2"],
    ids=lambda row: row[1],
)
def test_physics_alone_tells_flair_and_t2(row: Row) -> None:
    assert recognise(_facts((row[0], "", "", *row[3:]))).kind == row[0]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_kind_by_file_name(kind: str, name: str) -> None:
    assert recognise(SeriesFacts(name, 30, name)).kind == kind


@pytest.mark.parametrize(
    ("rows", "flair", "pre", "post"),
    [
        (
            SIEMENS,
            "t2_tirm_tra_dark-fluid_5mm",
            "t1_mprage_sag_p2_iso",
            "t1_vibe_tra_fs_KM",
        ),
        (GE, "Ax T2 FLAIR", "Ax FSPGR BRAVO", "+C Sag T1 CUBE"),
    ],
    ids=["Siemens", "GE"],
)
def test_whole_examinations(rows: list[Row], flair: str, pre: str, post: str) -> None:
    """All series of a maker at once: the best marks win, and nothing that is not asked for gets in."""
    series = [_facts(row) for row in rows]
    choice = choose(series)
    found = {channel: None if i is None else series[i].label for channel, i in choice.series.items()}
    assert found == {"flair": flair, "pre": pre, "post": post}
    assert [one.series for one in choice.considered] == [facts.label for facts in series]
    assert {one.channel: one.series for one in choice.considered if one.channel} == found
    assert choice.scores["flair"] == max(one.score for one in choice.considered if one.kind == "FLAIR")
