"""Many runs: their records, in one process or on a Ray cluster."""
