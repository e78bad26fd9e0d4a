"""Encoders map the raw samples of one modality to `Features`. One class per file; the file's name is the encoder's."""
