"""Every dashboard in a real Grafana: asked over its API, and looked at in Chromium."""
