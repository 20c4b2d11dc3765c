"""Clips, their features and folds: free of TensorFlow but for the shards that `tf.data` reads."""
