"""Lints and renders a chart with Helm's own code: chart.py CHART < values.json > what-came-out.json"""

import json
import sys

import helm_python as helm

chart_folder = sys.argv[1]
values = json.load(sys.stdin)
out = {"messages": helm.lint(chart_folder, values=values, namespace="films", strict=True)}
with helm.Chart.load(chart_folder) as chart:
    chart.validate_schema(values)
    rendered = chart.render(values, name="films", namespace="films")
out["notes"] = ""
out["objects"] = []
for name, text in rendered.items():
    if name.endswith("NOTES.txt"):
        out["notes"] = text
        continue
    for document in text.split("\n---\n"):
        lines = [line for line in document.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if lines and lines != ["---"]:
            out["objects"].append(helm.values_from_yaml(document))
json.dump(out, sys.stdout)
