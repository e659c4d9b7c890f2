"""Pictures: the only place that imports matplotlib; every plot takes a tidy table."""
