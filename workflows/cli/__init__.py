"""The command line: ``fieldloop <verb>``. Heavy packages are imported by the verbs that need them."""

from .app import app

__all__ = ["app"]
