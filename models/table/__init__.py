"""The table of training methods: protocol, the run that trains and scores rows, their statistics, the report."""
