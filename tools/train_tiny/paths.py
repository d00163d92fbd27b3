"""Imported for what it does: modules of `tools/learn_factors` can then be imported as well."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "learn_factors"))
