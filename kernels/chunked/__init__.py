"""The losses in linear memory on any device: logits by chunks of rows, gradients by hand."""
