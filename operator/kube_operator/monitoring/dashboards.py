"""Grafana dashboards of panels, as JSON that Grafana imports.

The labels `namespace`, `cluster` and `pod` come from the PodMonitor of the chart, as does the job:
`seawall` for pods of clusters, `seawall-operator` for the operator's.
"""

from collections.abc import Sequence
from typing import Any, Final

from .panels import DASHBOARDS, Panel

Json = dict[str, Any]

_ONE: Final = 'namespace="$namespace",cluster="$cluster"'
_COLUMNS: Final = 24  # of Grafana's grid
_PANEL_WIDTH, _PANEL_HEIGHT = 12, 8
_SOURCE: Final[Json] = {"type": "prometheus", "uid": "${source}"}


def dashboard(name: str) -> Json:
    """Return one dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[name]
    is_of_cluster = any("@" in query for panel in panels for query in panel.queries.values())
    return {
        "uid": f"seawall-{name}",
        "title": title,
        "tags": ["seawall"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), *(_choices(panels) if is_of_cluster else ())]},
        "links": [
            {"type": "dashboards", "tags": ["seawall"], "title": "Seawall", "asDropdown": True,
             "includeVars": True, "keepTime": True}
        ],
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }  # fmt: skip


def _source() -> Json:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _choices(panels: Sequence[Panel]) -> list[Json]:
    """The namespace and the cluster, of those that have the first panel's metric."""
    metric = next(iter(panels[0].queries.values())).partition("{")[0].rpartition("(")[2]
    return [
        _choice("namespace", "Namespace", f"label_values({metric}, namespace)"),
        _choice("cluster", "Cluster", f'label_values({metric}{{namespace="$namespace"}}, cluster)'),
    ]


def _choice(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
    }


def _panel(number: int, panel: Panel) -> Json:
    per_row = _COLUMNS // _PANEL_WIDTH
    return {
        "id": number + 1,
        "title": panel.title,
        "description": panel.text,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % per_row * _PANEL_WIDTH,
            "y": number // per_row * _PANEL_HEIGHT,
            "w": _PANEL_WIDTH,
            "h": _PANEL_HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + index), "expr": _promql(query), "legendFormat": legend,
             "datasource": _SOURCE}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }  # fmt: skip


def _promql(query: str) -> str:
    return query.replace("@", _ONE).replace("~", "$__rate_interval")
