"""`kws_cnn`: a convolutional keyword spotter of about 78 thousand parameters."""
