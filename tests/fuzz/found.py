"""Inputs that once hurt a parser, by its name, as hex."""

FOUND: list[tuple[str, str]] = []
