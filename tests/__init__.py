"""The tests of metriclog: a package, so that `tests.servers` can be imported and equal file names do not clash."""
