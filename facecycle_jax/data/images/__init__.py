"""Images and videos as uint8 RGB arrays: decoding, reading, framing and cropping."""
