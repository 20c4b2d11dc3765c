"""`ds_cnn`: a depthwise-separable convolutional keyword spotter in the shape of MLPerf Tiny."""
