"""From bytes on a disk to a batch: lists of samples, decoding, augmentation, order."""
