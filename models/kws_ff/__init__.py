"""kws_ff: a feed-forward spliced-dense keyword spotter of about 250K parameters."""
