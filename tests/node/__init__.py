"""The dashboards' transformations, run by Grafana's own package in node."""
