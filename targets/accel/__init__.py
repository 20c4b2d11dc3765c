"""The accelerator target: one packed file with weights at their own width, 1 to 8 bits."""
