"""Files to Samples: readers, decoding, augmentation, batches. Knows no model and no anchors."""
