"""Configuration: ``budgetctl.toml``, environment variables or a mapping become one checked controller.

The environment wins over the file: ``BUDGETCTL_POLICY=off`` sets ``policy``, and
``BUDGETCTL_LIMITS__DEADLINE_S=5`` sets ``deadline_s`` of ``[limits]``.
Nothing else in the package reads configuration.
"""

from __future__ import annotations

from .settings import Settings

__all__ = ["Settings"]
