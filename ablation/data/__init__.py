"""Where texts come from: the SMS data, files of your own, the demo; and the vocabulary."""
