"""The real servers that tests and benchmarks talk to: found on this machine, built once, or started for one test."""
