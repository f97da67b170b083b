"""Writes the Grafana dashboards and the Prometheus alerts of the chart. A tool of development.

    python -P -m kube_operator.monitoring ../charts/seawall/monitoring

in `operator/`. The files are committed; a test says when they are old.
"""

import json
import sys
from pathlib import Path

from .alerts import alerts_yaml
from .dashboards import dashboard
from .panels import DASHBOARDS


def generated() -> dict[str, str]:
    """Return all files by their path below charts/seawall/monitoring."""
    files = {
        f"dashboards/{name}.json": json.dumps(dashboard(name), indent=2) + "\n"
        for name in DASHBOARDS
    }
    return {**files, "alerts.yaml": alerts_yaml()}


def main() -> None:
    """Write them below the directory that the argument names."""
    for name, text in generated().items():
        path = Path(sys.argv[1], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
