"""Errors of training steps."""


class CompileError(RuntimeError):
    """A step could not be compiled, or what was compiled disagrees with eager."""
