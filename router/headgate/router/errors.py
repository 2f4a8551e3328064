"""Every error the brain raises.

RouterError
├── BundleError        the artifact is broken, of another schema, or fails its golden vectors
├── PoolError          the pool and the demand do not fit: unknown model, no eligible model
├── ObjectiveError     no certificate meets the objective that was asked for
└── EstimateError      the uncertainty model's output cannot be used; `decide` turns it into
Reason.BRAIN_FAILED

Each message is one sentence that says what to do. No message contains query text.
"""

from __future__ import annotations


class RouterError(Exception):
    """Root of the brain's errors."""


class BundleError(RouterError):
    """The bundle cannot be used."""


class PoolError(RouterError):
    """No model of the pool can answer the query."""


class ObjectiveError(RouterError):
    """No certificate meets the objective."""


class EstimateError(RouterError):
    """The uncertainty model's output cannot be used."""
