"""What is known of each model, and chains of models that are made of it."""

from __future__ import annotations

from llmbridge.catalog.catalog import NAMES, Catalog, Filters, Sort, one_of
from llmbridge.catalog.listing import Listing


__all__ = ["NAMES", "Catalog", "Filters", "Listing", "Sort", "one_of"]
