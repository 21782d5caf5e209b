"""The subset of Grafana's dashboard JSON that is used here (schema 39, Grafana 10 and later), and the layout. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

COLUMNS: Final = 24
SCHEMA: Final = 39
# Labels that every table has and most tables hide.
_HIDDEN: Final = ("Time", "__name__", "container", "endpoint", "instance", "job", "namespace", "pod")
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Look = Literal["timeseries", "stat", "table", "state-timeline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """PromQL and the legend of its series. ``instant``: query only the last value."""

    expr: str
    legend: str = ""
    instant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. ``width`` is in 24ths of the page.

    ``steps``: color thresholds (value, color). ``names``: text and color for integer values.
    ``columns`` of a table: map of label (or "Value #A" for a query) to title; ``units``: map of title to unit.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    look: Look = "timeseries"
    width: int = 8
    height: int = 8
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    stacked: bool = False
    logarithmic: bool = False
    connected: bool = False
    text: bool = False
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)
    names: Sequence[tuple[int, str, str]] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A titled row of panels, wrapped to the page width."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A template variable. ``several``: allow multiple values or all."""

    name: str
    label: str
    query: str
    several: bool = False


def dashboard(
    *, uid: str, title: str, description: str, variables: Sequence[Variable], rows: Sequence[Row]
) -> dict[str, Any]:
    """The JSON document. ``uid`` must never change: links and bookmarks contain it."""
    return {
        "annotations": {"list": []},
        "description": description,
        "editable": False,
        "graphTooltip": 1,
        "links": [{"type": "dashboards", "title": "Photon", "tags": ["photon"], "asDropdown": True, "keepTime": True}],
        "panels": _panels(rows),
        "refresh": "30s",
        "schemaVersion": SCHEMA,
        "tags": ["photon"],
        "templating": {"list": [_datasource(), *(_variable(variable) for variable in variables)]},
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "title": title,
        "uid": uid,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(variable: Variable) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "includeAll": variable.several,
        "multi": variable.several,
    }
    if variable.several:
        # Also match series without the label: outside a cluster there is no namespace.
        made |= {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return made


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        made.append({"id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": []})
        made[-1]["gridPos"] = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            made.append({"id": len(made) + 1, **_panel(panel), "gridPos": place})
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    queries = [_target(query, chr(ord("A") + i), panel.look) for i, query in enumerate(panel.queries)]
    made: dict[str, Any] = {
        "type": panel.look,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": queries,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
    }
    if panel.columns:
        hidden = {name: True for name in _HIDDEN if name not in panel.columns}
        order = {name: i for i, name in enumerate(panel.columns)}
        renamed = dict(panel.columns)
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {"excludeByName": hidden, "indexByName": order, "renameByName": renamed},
            },
        ]
    return made


def _target(query: Query, letter: str, look: Look) -> dict[str, Any]:
    made: dict[str, Any] = {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": query.instant or look == "table",
        "range": not (query.instant or look == "table"),
    }
    return {**made, "format": "table"} if look == "table" else made


def _defaults(panel: Panel) -> dict[str, Any]:
    made: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.look == "stat" else "palette-classic"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
        },
    }
    if panel.names:
        options = {str(number): {"text": text, "color": colour} for number, text, colour in panel.names}
        made["mappings"] = [{"type": "value", "options": options}]
    for name, value in (("decimals", panel.decimals), ("min", panel.least), ("max", panel.most)):
        if value is not None:
            made[name] = value
    if panel.look == "timeseries":
        made["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "auto",
            "spanNulls": panel.connected,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"},
            "thresholdsStyle": {"mode": "off"},
        }
    if panel.look == "state-timeline":
        made["custom"] = {"lineWidth": 0, "fillOpacity": 80}
    return made


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, unit in panel.units.items()
    ]


def _options(panel: Panel) -> dict[str, Any]:
    match panel.look:
        case "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value",
                "graphMode": "none",
                "textMode": "name" if panel.text else "auto",
                "justifyMode": "auto",
            }
        case "timeseries":
            return {
                "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "state-timeline":
            return {"mergeValues": True, "showValue": "never", "legend": {"displayMode": "list"}, "rowHeight": 0.8}
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}
