"""Tests against a real InfluxDB."""
