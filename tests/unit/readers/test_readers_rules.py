"""A site's rules: what they add, replace and remove, and what is refused by rule and field."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg.errors import ConfigError
from edgeseg.readers import rules
from edgeseg.readers.choice import Selection, choose
from edgeseg.readers.sequences import UNKNOWN, SeriesFacts, recognise

RULE: dict[str, Any] = {"kind": "FLAIR", "points": 5, "says": "our name of it", "when": {"text": ["brain water"]}}
OURS = SeriesFacts("series 1", 24, "Brain water 2000")


def _write(folder: Path, **fields: Any) -> Path:
    path = folder / "rules.json"
    path.write_text(json.dumps({"format": 1, **fields}), encoding="utf-8")
    return path


def _built_in() -> dict[str, Any]:
    path = Path(rules.__file__).parents[1] / "configs" / "sequences.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_a_site_adds_a_rule_and_the_built_in_ones_stay(tmp_path: Path) -> None:
    site = rules.load(_write(tmp_path, rules={"ours": RULE}))
    assert recognise(OURS).kind == UNKNOWN
    assert recognise(OURS, site) == recognise(OURS, site)
    assert recognise(OURS, site).kind == "FLAIR"
    assert recognise(OURS, site).points == 5
    assert recognise(OURS, site).reason == "our name of it"
    assert len(site.recognise) == len(rules.built_in().recognise) + 1
    assert site.source.startswith("site ")


def test_a_site_replaces_a_rule_in_its_place_and_removes_another(tmp_path: Path) -> None:
    site = rules.load(_write(tmp_path, rules={"flair-words": RULE, "t1-words": None}))
    names = [rule.name for rule in rules.built_in().recognise]
    assert [rule.name for rule in site.recognise] == [name for name in names if name != "t1-words"]
    assert recognise(SeriesFacts("", 24, "flair"), site).kind == UNKNOWN
    assert recognise(SeriesFacts("", 24, "t1"), site).kind == UNKNOWN


def test_a_file_that_extends_nothing_stands_alone(tmp_path: Path) -> None:
    fields = {**_built_in(), "rules": {"ours": RULE}, "preferences": {}, "extends": False}
    site = rules.load(_write(tmp_path, **fields))
    assert [rule.name for rule in site.recognise] == ["ours"]
    assert recognise(SeriesFacts("", 24, "flair"), site).kind == UNKNOWN
    assert choose([OURS], Selection(rules=site)).rules == site.source


def test_words_of_contrast_and_points_are_a_sites_too(tmp_path: Path) -> None:
    site = rules.load(_write(tmp_path, contrast={"after": ["second run"]}, contrast_points={"keyword": 7}))
    series = [SeriesFacts("a", 24, "flair"), SeriesFacts("b", 24, "t1"), SeriesFacts("c", 24, "t1 second run")]
    choice = choose(series, Selection(rules=site))
    assert choice.series == {"flair": 0, "pre": 1, "post": 2}
    assert choice.scores["post"] == 3 + 7


def test_the_guides_example_is_taken(tmp_path: Path, repository: Path) -> None:
    guide = (repository / "docs" / "sequences.md").read_text(encoding="utf-8")
    (tmp_path / "rules.json").write_text(guide.split("```json")[1].split("```")[0], encoding="utf-8")
    site = rules.load(tmp_path / "rules.json")
    told = SeriesFacts("", 24, "Brain-Water 3mm", echo_time_ms=90)
    assert recognise(told, site).reason == "our protocol's name"
    assert recognise(replace(told, echo_time_ms=70), site).kind == UNKNOWN
    missing = [name for name in rules.CONDITIONS if f"`{name}`" not in guide]
    assert not missing


def test_the_source_hangs_on_the_content(tmp_path: Path) -> None:
    first = rules.load(_write(tmp_path, enough=3)).source
    assert rules.load(_write(tmp_path, enough=3)).source == first
    assert rules.load(_write(tmp_path, enough=4)).source != first


def _with(**changed: Any) -> dict[str, Any]:
    return {"rules": {"ours": {**RULE, **changed}}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": 2}, r"format is 2, where 1 is expected"),
        ({"format": True}, r"format is true, where 1 is expected"),
        ({"rule": {}}, r'the field "rule" is unknown: there are format, extends'),
        ({"extends": "no"}, r'extends is "no", where true or false'),
        ({"extends": False}, r"lacks the field enough"),
        ({"enough": 0}, r"enough is 0, where a whole number from 1 to 100"),
        ({"enough": True}, r"enough is true"),
        ({"rules": []}, r"rules is \[\], where an object is expected"),
        ({"rules": {"ours": 3}}, r"rule ours: is 3, where an object with kind"),
        ({"rules": {"ours": None}}, r"rule ours: null removes a rule of that name, and there is none in rules"),
        ({"rules": {"ours": {"kind": "T1"}}}, r"rule ours: lacks the field points"),
        (_with(kind="T3"), r'rule ours: kind is "T3", where one of FLAIR, T1'),
        (_with(points=2.5), r"rule ours: points is 2.5, where a whole number"),
        (_with(points=1000), r"rule ours: points is 1000"),
        (_with(says=""), r'rule ours: says is ""'),
        (_with(says="echo time {TE}"), r"rule ours: says is"),
        (_with(says="{te.real}"), r"rule ours: says is"),
        (_with(says="{te"), r"rule ours: says is"),
        (_with(why="x"), r'rule ours: the field "why" is unknown'),
        (_with(when={}), r"rule ours: the field when is empty"),
        (_with(when=[1]), r"rule ours: when is \[1\], where an object"),
        (_with(when={"words": ["a"]}), r'rule ours, when: the field "words" is unknown: there are text'),
        (_with(when={"text": "flair"}), r'rule ours: text is "flair", where a list of regular expressions'),
        (_with(when={"text": ["(flair"]}), r'rule ours: text has "\(flair", no regular expression'),
        (_with(when={"techniques": []}), r"rule ours: techniques is \[\], where a list of codes"),
        (_with(when={"plane": ["oblique"]}), r"rule ours: plane is .*where a list of axial, sagittal, coronal"),
        (_with(when={"derived": 1}), r"rule ours: derived is 1, where true or false"),
        (_with(when={"echo_time_ms": [80]}), r"rule ours: echo_time_ms is \[80\], where \[lowest, highest\]"),
        (_with(when={"echo_time_ms": [80, 20]}), r"rule ours: echo_time_ms is \[80, 20\]"),
        (_with(when={"echo_time_ms": [None, None]}), r"rule ours: echo_time_ms is"),
        (_with(when={"slices": ["5", None]}), r"rule ours: slices is"),
        ({"contrast": {"during": ["x"]}}, r'contrast: the field "during" is unknown: there are mixed, before, after'),
        ({"contrast": {"after": []}}, r"contrast: after is \[\]"),
        ({"contrast_points": {"time": "1"}}, r'contrast_points: time is "1"'),
    ],
)
def test_a_bad_field_is_refused_by_rule_and_name(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    path = _write(tmp_path, **fields)
    with pytest.raises(ConfigError, match=said) as error:
        rules.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe\x00", "cannot be read .no UTF-8 text"),
        (b"[1]", r"holds \[1\] where an object"),
        (b'{"format": 1, "rules": {"a": null, "a": null}}', "a comes twice"),
        (b'{"format": 1, "rules": ' + b"[" * 100_000, "is no JSON"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rules.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        rules.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read .No such file"):
        rules.load(tmp_path / "none.json")
