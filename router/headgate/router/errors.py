"""Every error the brain raises.

RouterError
├── BundleError        the artifact is broken, of another schema, or fails its golden vectors
├── EmbeddingError     the table of words is broken or of another schema
├── PoolError          the pool and the demand do not fit: unknown model, no eligible model
│   └── ContextError   … and a shorter query would have one
├── ObjectiveError     no certificate meets the objective that was asked for
└── EstimateError      the uncertainty model's output cannot be used; to `decide` it is a reason to be safe

Each message is one sentence that says what to do. No message contains query text.
"""

from __future__ import annotations


class RouterError(Exception):
    """Root of the brain's errors."""


class BundleError(RouterError):
    """The bundle cannot be used."""


class EmbeddingError(RouterError):
    """The table of words cannot be used."""


class PoolError(RouterError):
    """No model of the pool can answer the query."""


class ContextError(PoolError):
    """The query is too long for every model that may answer it."""


class ObjectiveError(RouterError):
    """No certificate meets the objective."""


class EstimateError(RouterError):
    """The uncertainty model's output cannot be used."""
