"""Files to Samples: readers, augmentation, the pipeline. Knows no model and no anchors."""
