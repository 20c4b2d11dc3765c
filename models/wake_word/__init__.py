"""The wake-word task: kws_ff trained to tell one word from everything else."""
