"""``report.html``: what was found, as one page that needs nothing else, neither a network nor the other files.

Its text, its style and its script are in ``page/``. The policy in its head lets run that script alone and forbids every
request; whatever comes from outside (a folder's name, a reason, a warning) is escaped. There is no time in it: the same
study, engine and options give the same bytes.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from edgeseg.types import Segmentation, Study
from edgeseg.writers.chart import PLOT_LEFT, areas_chart, step
from edgeseg.writers.display import Plane, display_plane, grey, outline_path, window
from edgeseg.writers.report import ReportFacts, to_dict

FILE = "report.html"
MOST_PIXELS = 40_000_000
"""Of all slices together: more are made smaller, so that the page stays under about 15 MB."""

_LARGEST_PX, _QUALITY = 768, 88
_PAGE = Path(__file__).with_name("page")
_KINDS = {"dicom": "DICOM", "tiff": "TIFF", "nifti": "NIfTI"}
_CHANNELS = {"pre": "T1 before contrast", "flair": "FLAIR", "post": "T1 after contrast"}


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:
    """Write ``report.html``: every FLAIR slice with its outline, areas, channels, engine and warnings.

    Parameters
    ----------
    segmentation, study, facts
        What is reported.
    folder
        An existing folder.

    Returns
    -------
    list of str
        The file written, relative to the folder.
    """
    report = to_dict(segmentation, study, facts)
    (folder / FILE).write_text(page(report, segmentation, study), encoding="utf-8")
    return [FILE]


def page(report: dict[str, Any], segmentation: Segmentation, study: Study) -> str:
    """Return the page: all that it says is the report's, all that it shows the study's and the segmentation's.

    Parameters
    ----------
    report
        From `edgeseg.writers.report.to_dict`.
    segmentation, study
        Mask (slice, row, column), and the FLAIR voxels on the same grid.
    """
    style, script = (_file(name) for name in ("report.css", "report.js"))
    plane = display_plane(study.flair.geometry)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    marked = {"policy": policy, "style": style, "script": script, **_blocks(report)}
    marked |= _viewer(report, segmentation, study, plane)
    name = report["study"]["name"]
    plain = {
        "title": f"{_headline(report)}, study {name}",
        "headline": _headline(report),
        "notice": report["notice"],
        "study": _study_line(report),
        "version": report["edgeseg_version"],
        "left": plane.left,
        "right": plane.right,
        "sides": "" if study.flair.geometry else "Sides as stored: the files do not state them.",
    }
    return Template(_file("report.html")).substitute(marked, **{key: escape(text) for key, text in plain.items()})


def _viewer(report: dict[str, Any], segmentation: Segmentation, study: Study, plane: Plane) -> dict[str, str]:
    """Slices, outlines and areas, and the slice that the page opens with: the one with the largest area."""
    unit, areas = slice_areas(report)
    pictures = [b64encode(picture).decode() for picture in _pictures(study, plane)]
    outlines = [outline_path(mask, plane) for mask in segmentation.mask]
    shown = int(np.argmax(areas)) if any(areas) else len(areas) // 2
    rows, columns = segmentation.mask.shape[2:0:-1] if plane.transpose else segmentation.mask.shape[1:]
    data = {
        "pictures": pictures,
        "outlines": outlines,
        "areas": [f"{area:,.0f}" if area else "" for area in areas],
        "unit": unit,
        "left": PLOT_LEFT,
        "step": step(len(areas)),
    }
    place = f"Slice {shown + 1} of {len(areas)}: " + (f"{areas[shown]:,.0f} {unit}" if areas[shown] else _NOTHING)
    return {
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "picture": f"data:image/jpeg;base64,{pictures[shown]}",
        "outline": outlines[shown],
        "slice": str(shown + 1),
        "slices": str(len(areas)),
        "place": place,
        "alt": f"FLAIR, {place}",
        "width": f"{columns * plane.width_mm:.6g}",
        "height": f"{rows * plane.height_mm:.6g}",
        "letter": f"{max(rows * plane.height_mm, columns * plane.width_mm) / 22:.4g}",
        "scale": f"{plane.width_mm / 2:.6g} {plane.height_mm / 2:.6g}",
        "unit": unit,
        "areas": "".join(_row(k, f"{area:,.0f}") for k, area in enumerate(areas, 1) if area) or _row("-", "0"),
        "chart": areas_chart(areas, unit, shown),
    }


_NOTHING = "nothing marked"


def _pictures(study: Study, plane: Plane) -> Iterable[bytes]:
    """Each FLAIR slice as it is shown, as a grey JPEG."""
    voxels = study.flair.voxels
    limits = window(voxels)
    scale = min(1.0, _LARGEST_PX / max(voxels.shape[1:]), (MOST_PIXELS / voxels.size) ** 0.5)
    for slice_ in voxels:
        picture = Image.fromarray(grey(slice_, limits, plane))
        if scale < 1:
            size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=_QUALITY)
        yield content.getvalue()


def slice_areas(report: dict[str, Any]) -> tuple[str, list[float]]:
    """Return the unit of the report's areas, and the area of each slice: mm2, or pixels without geometry."""
    key, unit = ("area_px", "px") if report["volume_ml"] is None else ("area_mm2", "mm²")
    return unit, [float(one[key]) for one in report["slices"]]


def _headline(report: dict[str, Any]) -> str:
    if not report["marked_slices"]:
        return "No FLAIR abnormality found"
    return f"FLAIR abnormality: {_volume(report)} in {report['marked_slices']} of {len(report['slices'])} slices"


def _volume(report: dict[str, Any]) -> str:
    """The volume, or the marked pixels where the files give no voxel size."""
    if report["volume_ml"] is None:
        return f"{sum(one['area_px'] for one in report['slices']):,} px"
    return f"{report['volume_ml']:.1f} ml"


def _study_line(report: dict[str, Any]) -> str:
    slices, rows, columns = report["study"]["grid"]["shape"]
    spacing = report["study"]["grid"]["spacing_mm"]
    text = f"Study {report['study']['name']} ({_KINDS[report['study']['source']]}), FLAIR of {slices} slices"
    text += f", {columns} × {rows} pixels"
    if spacing is None:
        return f"{text}; the files state no size of a voxel, so areas are in pixels"
    return f"{text}, voxels of {spacing[2]:.3g} × {spacing[1]:.3g} × {spacing[0]:.3g} mm"


def _blocks(report: dict[str, Any]) -> dict[str, str]:
    """The page's lists: figures, warnings, channels, engine, versions, and who the patient is, where asked for."""
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in report["warnings"])
    who = [(key.replace("_", " ").capitalize(), value) for key, value in report.get("identified", {}).items() if value]
    return {
        "figures": "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in _figures(report)),
        "warnings": _block("warnings", "Warnings", f"<ul>{warnings}</ul>") if warnings else "",
        "channels": "".join(_channel(name, one) for name, one in report["channels"].items()),
        "considered": _considered(report.get("selection") or {}),
        "engine": _facts(_engine(report)),
        "versions": _facts(report["versions"].items()),
        "identified": _block("identified", "This page identifies the patient", f'<dl class="facts">{_facts(who)}</dl>')
        if who
        else "",
    }


def _figures(report: dict[str, Any]) -> Iterable[tuple[str, str]]:
    unit, areas = slice_areas(report)
    yield ("Volume" if report["volume_ml"] is not None else "Marked pixels"), _volume(report)
    if report.get("largest_diameter_mm"):
        yield "Largest diameter", f"{report['largest_diameter_mm']:.0f} mm"
    yield "Marked slices", f"{report['marked_slices']} of {len(areas)}"
    if any(areas):
        yield f"Largest area, in slice {int(np.argmax(areas)) + 1}", f"{max(areas):,.0f} {unit}"


def _channel(name: str, channel: dict[str, Any]) -> str:
    """A card: what fills the channel, which series that is, why, and how it came onto the FLAIR grid."""
    own = channel["filled_with"] == "own"
    badge = '<span class="badge">own series</span>' if own else '<span class="badge absent">FLAIR stands in</span>'
    facts = [("Series", channel["series"]), ("Score", channel.get("score")), ("Why", channel["reason"])]
    facts.append(("Alignment", _alignment(channel["alignment"])))
    return f'<div class="card"><h3>{_CHANNELS[name]}</h3>{badge}<dl class="facts">{_facts(facts)}</dl></div>'


def _considered(selection: dict[str, Any]) -> str:
    """A table of all series that the channels were chosen from; nothing where the report lists none."""
    found = selection.get("considered")
    if not found:
        return ""
    head = '<th scope="col" class="text">Series</th><th scope="col" class="text">Recognised as</th>'
    head += '<th scope="col">Score</th><th scope="col">Slices</th><th scope="col" class="text">Serves as</th>'
    rows = "".join(
        f'<tr><td class="text">{escape(str(one["series"]))}</td><td class="text">{escape(str(one["kind"]))}</td>'
        f"<td>{one['score']:g}</td><td>{one['slices']}</td>"
        f'<td class="text">{_CHANNELS.get(one["channel"], "")}</td></tr>'
        for one in found
    )
    title = f"All {len(found)} series, by rules: {escape(str(selection.get('rules') or 'none'))}"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<details><summary>{title}</summary>{table}</details>"


def _alignment(alignment: dict[str, Any] | None) -> str:
    if alignment is None:
        return ""
    moved = f"{alignment['shift_mm']:.1f} mm and {alignment['rotation_deg']:.1f} degrees"
    return f"{alignment['method']}; registration found {moved}"


def _engine(report: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    engine = report["engine"]
    yield "Name", engine["name"]
    yield "Precision", f"{engine['precision']} file, computed in {engine['inference_precision']}"
    yield "Runtime", f"{engine['runtime']} {engine['runtime_version']} on {engine['device']}"
    for key, name in (("sha256", "Network file"), ("weights_sha256", "Weights")):
        if engine.get(key):
            yield name, f"SHA-256 {engine[key][:12]}"
    yield "Parity with PyTorch", _parity(engine)
    yield "Threshold", f"{report['threshold']:g}"
    yield "Licence", engine.get("licence")


def _parity(engine: dict[str, Any]) -> str:
    found = engine.get("agreement")
    if not found:
        return str(engine.get("parity") or "unknown")
    return (
        f"{engine.get('parity')}: mean IoU {found['mean']:.4f}, 5th percentile {found['fifth_percentile']:.4f}, "
        f"worst {found['worst']:.4f}, over {found['slices']} slices with masks"
    )


def _block(kind: str, title: str, content: str) -> str:
    return f'<section class="block {kind}" aria-label="{title}"><h2>{title}</h2>{content}</section>'


def _facts(facts: Iterable[tuple[str, Any]]) -> str:
    """Terms and their values, without those that are empty."""
    known = [(name, str(value)) for name, value in facts if value not in (None, "")]
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in known)


def _row(slice_: int | str, area: str) -> str:
    return f"<tr><td>{slice_}</td><td>{area}</td></tr>"


def _file(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
