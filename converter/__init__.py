"""The front door: command line, driver, parity, footprint and reports."""
