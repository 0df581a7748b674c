"""Pure translation between wire formats and calls or events. No I/O, no clocks; types and errors only."""
