"""How the public API looks to a type checker: mypy reads these files with everything else, in strict mode."""
