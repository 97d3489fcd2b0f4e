"""What a model can do about its thinking, behind which kind of endpoint.

The table is data (``capabilities.toml``): rows of model patterns and endpoint kinds, the first match wins,
and rows of a user's own file come before the shipped ones. A model that no row knows has no controls: its
calls pass through and are recorded. Data as well is the level that comes nearest to a cap on thinking,
for models that have levels only (``[effort_below]``): libraries do not agree on it.
"""

from budgetctl.capabilities.endpoints import ENDPOINTS, EndpointKind, guess_endpoint
from budgetctl.capabilities.row import UNKNOWN, Cap, Capability, Continuation, Effort, Switch
from budgetctl.capabilities.table import Table

__all__ = [
    "ENDPOINTS",
    "UNKNOWN",
    "Cap",
    "Capability",
    "Continuation",
    "Effort",
    "EndpointKind",
    "Switch",
    "Table",
    "guess_endpoint",
]
