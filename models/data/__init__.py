"""Clips, their features, augmentation and folds: free of TensorFlow but for the shards that `tf.data` reads."""
