"""Files: calibrations, traces, plans, configuration; converted to and from seconds, bytes and tokens here."""
