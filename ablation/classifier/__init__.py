"""A GPT-2 as a classifier: built, loaded with weights, saved, exported."""
