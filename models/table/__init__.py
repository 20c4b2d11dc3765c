"""The table of training methods: its protocol, its rows, their statistics and the report."""
