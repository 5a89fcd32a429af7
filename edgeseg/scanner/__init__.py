"""The scanner side: studies that arrive by themselves, one queue for all of them, results that are sent on."""
