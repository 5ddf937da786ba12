"""The Grafana side, as plain Python that becomes JSON: `model` knows Grafana, `dashboards` knows what metriclog shows.

`python -m metriclog.grafana` writes the files. Only `client` talks to a server: `install` puts dashboards into it.
"""
