"""`kws_ff`: a feed-forward, state-free keyword spotter of about 250 thousand parameters."""
