"""Prometheus' side of alerting: the rules by promtool, a real Prometheus and Alertmanager beside real training."""
