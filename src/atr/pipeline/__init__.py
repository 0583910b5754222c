"""Bytes -> batches: decoding, augmentation, captions, order."""
